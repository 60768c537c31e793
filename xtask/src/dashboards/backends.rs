//! Backends and models: which answer, how full they are, what is fetched and proved.

use super::{Dashboard, Good, Row, Shape, panel, token_rate};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "mesh-backends",
        title: "Inference Mesh / Models and backends",
        description: "Which backends answer, how full workers are, and whether models are fetched and proved.",
        rows: vec![health(), workers(), models()],
    }
}

fn health() -> Row {
    Row {
        title: "Backends",
        panels: vec![
            panel(
                ("Backends that can be asked", "none"),
                Shape::Number(Good::From(1000)),
                "Backends that at least one gateway can ask now.",
                &[(
                    "sum(max by (namespace, backend) (mesh_gateway_backend_up{$ns}))",
                    "",
                )],
            ),
            panel(
                ("Backends that rest", "none"),
                Shape::Number(Good::Zero),
                "Backends that no gateway can ask now.",
                &[(
                    "count(max by (namespace, backend) (mesh_gateway_backend_up{$ns}) == 0) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Up", "none"),
                Shape::Lines,
                "1 while at least one gateway can ask the backend.",
                &[(
                    "max by (backend) (mesh_gateway_backend_up{$ns})",
                    "{{backend}}",
                )],
            ),
            panel(
                ("Attempts that failed", "percentunit"),
                Shape::Lines,
                "Share of the attempts at a backend that did not end well; those whose caller left are not counted.",
                &[(
                    "1 - (sum by (backend) (rate(mesh_gateway_attempts_total{$ns, outcome=\"ok\"}[$__rate_interval])) or sum by (backend) (rate(mesh_gateway_attempts_total{$ns}[$__rate_interval])) * 0) / (sum by (backend) (rate(mesh_gateway_attempts_total{$ns, outcome!=\"canceled\"}[$__rate_interval])) > 0)",
                    "{{backend}}",
                )],
            ),
            panel(
                ("Attempts by backend", "suffix: /s"),
                Shape::Stack,
                "Attempts, by the backend asked.",
                &[(
                    "sum by (backend) (rate(mesh_gateway_attempts_total{$ns}[$__rate_interval]))",
                    "{{backend}}",
                )],
            ),
            panel(
                ("Tokens written by backend", "suffix: tokens/s"),
                Shape::Stack,
                "Tokens written, by the backend that served.",
                &[(
                    &format!("sum by (backend) {}", token_rate(", direction=\"output\"")),
                    "{{backend}}",
                )],
            ),
        ],
    }
}

/// Workers lie in the namespaces of their backends, which are not those of installations: all are shown.
fn workers() -> Row {
    Row {
        title: "Workers of all namespaces",
        panels: vec![
            panel(
                ("Running and waiting", "none"),
                Shape::Lines,
                "Choices being computed, and requests in the queue, by model.",
                &[
                    (
                        "sum by (model_name) (vllm:num_requests_running)",
                        "{{model_name}} running",
                    ),
                    (
                        "sum by (model_name) (vllm:num_requests_waiting)",
                        "{{model_name}} waiting",
                    ),
                ],
            ),
            panel(
                ("Keys and values", "percentunit"),
                Shape::Lines,
                "Share of the memory for keys and values that is in use, in the fullest pod of a model.",
                &[(
                    "max by (model_name) (vllm:kv_cache_usage_perc)",
                    "{{model_name}}",
                )],
            ),
            panel(
                ("Tokens read and written", "suffix: tokens/s"),
                Shape::Lines,
                "Tokens of prompts read and tokens written, by model.",
                &[
                    (
                        "sum by (model_name) (rate(vllm:prompt_tokens_total[$__rate_interval]))",
                        "{{model_name}} read",
                    ),
                    (
                        "sum by (model_name) (rate(vllm:generation_tokens_total[$__rate_interval]))",
                        "{{model_name}} written",
                    ),
                ],
            ),
            panel(
                ("Prompts found in the cache", "percentunit"),
                Shape::Lines,
                "Share of the tokens of prompts that did not have to be computed again.",
                &[(
                    "sum by (model_name) (rate(vllm:prefix_cache_hits_total[$__rate_interval])) / (sum by (model_name) (rate(vllm:prompt_tokens_total[$__rate_interval])) > 0)",
                    "{{model_name}}",
                )],
            ),
        ],
    }
}

/// Every replica of the operator tells what objects say: one of them is believed.
fn models() -> Row {
    Row {
        title: "Models",
        panels: vec![
            panel(
                ("Models not ready", "none"),
                Shape::Number(Good::Zero),
                "ModelCaches that are not Ready: being fetched, or something is wrong.",
                &[(
                    "sum(max by (namespace, status) (mesh_operator_conditions{$ns, kind=\"ModelCache\", condition=\"Ready\", status!=\"True\"})) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Backends not ready", "none"),
                Shape::Number(Good::Zero),
                "InferenceBackends that are not Ready.",
                &[(
                    "sum(max by (namespace, status) (mesh_operator_conditions{$ns, kind=\"InferenceBackend\", condition=\"Ready\", status!=\"True\"})) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("What ModelCaches say", "none"),
                Shape::Lines,
                "ModelCaches by condition and its status: fetching, proving and what became of it.",
                &[(
                    "sum by (condition, status) (max by (namespace, condition, status) (mesh_operator_conditions{$ns, kind=\"ModelCache\"}))",
                    "{{condition}} {{status}}",
                )],
            ),
            panel(
                ("What InferenceBackends say", "none"),
                Shape::Lines,
                "InferenceBackends by condition and its status.",
                &[(
                    "sum by (condition, status) (max by (namespace, condition, status) (mesh_operator_conditions{$ns, kind=\"InferenceBackend\"}))",
                    "{{condition}} {{status}}",
                )],
            ),
        ],
    }
}
