//! The operator's own work, the certificates it signs, and the views of gateways.

use super::{Dashboard, Good, Row, Shape, panel};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "mesh-operator",
        title: "Inference Mesh / Operator",
        description: "What the operator does, how long it takes, what it asks of the API server, and whether certificates and views are fresh.",
        rows: vec![now(), work(), api(), freshness(), injection()],
    }
}

fn now() -> Row {
    Row {
        title: "Now",
        panels: vec![
            panel(
                ("Leaders", "none"),
                Shape::Number(Good::From(1000)),
                "Operators that lead: one for each installation.",
                &[("sum(mesh_operator_leader{$ns})", "")],
            ),
            panel(
                ("Objects not ready", "none"),
                Shape::Number(Good::Zero),
                "Objects of all kinds that say Ready: False.",
                &[(
                    "sum(max by (namespace, kind) (mesh_operator_conditions{$ns, condition=\"Ready\", status=\"False\"})) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Errors in the chosen time", "short"),
                Shape::Number(Good::Zero),
                "Objects that were looked at and could not be made so.",
                &[(
                    "sum(increase(mesh_operator_reconciles_total{$ns, outcome=\"error\"}[$__range])) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Version", "none"),
                Shape::Number(Good::Any),
                "Operators by version.",
                &[(
                    "count by (version) (mesh_operator_build_info{$ns})",
                    "{{version}}",
                )],
            ),
        ],
    }
}

fn work() -> Row {
    let slow = |metric: &str, label: &str| {
        format!(
            "histogram_quantile(0.95, sum by (le, {label}) (rate({metric}_bucket{{$ns}}[$__rate_interval]))) >= 0"
        )
    };
    let (object, pass) = (
        slow("mesh_operator_reconcile_duration_seconds", "kind"),
        slow("mesh_operator_pass_duration_seconds", "scope"),
    );
    Row {
        title: "Work",
        panels: vec![
            panel(
                ("Objects looked at", "suffix: /s"),
                Shape::Lines,
                "Objects looked at, by kind and outcome.",
                &[(
                    "sum by (kind, outcome) (rate(mesh_operator_reconciles_total{$ns}[$__rate_interval]))",
                    "{{kind}} {{outcome}}",
                )],
            ),
            panel(
                ("Time for one object (95 %)", "s"),
                Shape::Lines,
                "95 of 100 objects of a kind took at most this long.",
                &[(&object, "{{kind}}")],
            ),
            panel(
                ("Time for one pass (95 %)", "s"),
                Shape::Lines,
                "95 of 100 passes took at most this long, by whether they looked at everything or at changes.",
                &[(&pass, "{{scope}}")],
            ),
            panel(
                ("From a change to the end of its pass", "s"),
                Shape::Lines,
                "How long a change waits until everything that follows from it is made.",
                &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(mesh_operator_change_latency_seconds_bucket{$ns}[$__rate_interval]))) >= 0",
                        "half",
                    ),
                    (
                        "histogram_quantile(0.95, sum by (le) (rate(mesh_operator_change_latency_seconds_bucket{$ns}[$__rate_interval]))) >= 0",
                        "95 %",
                    ),
                ],
            ),
        ],
    }
}

fn api() -> Row {
    Row {
        title: "The API server",
        panels: vec![
            panel(
                ("Requests by code", "reqps"),
                Shape::Stack,
                "Requests to the API server by HTTP status, or timeout, error, refused (a write of one that no longer leads, not sent).",
                &[(
                    "sum by (code) (rate(mesh_operator_api_requests_total{$ns}[$__rate_interval]))",
                    "{{code}}",
                )],
            ),
            panel(
                ("Requests by verb and resource", "reqps"),
                Shape::Lines,
                "The ten busiest of the chosen time.",
                // Asked of its end: ten of each moment would be many lines.
                &[(
                    "sum by (verb, resource) (rate(mesh_operator_api_requests_total{$ns}[$__rate_interval])) and topk(10, sum by (verb, resource) (increase(mesh_operator_api_requests_total{$ns}[$__range] @ end())))",
                    "{{verb}} {{resource}}",
                )],
            ),
            panel(
                ("Writes by kind", "suffix: /s"),
                Shape::Lines,
                "Objects and statuses written. In a mesh at rest there are none.",
                &[(
                    "sum by (kind) (rate(mesh_operator_api_writes_total{$ns}[$__rate_interval]))",
                    "{{kind}}",
                )],
            ),
            panel(
                ("Passes", "suffix: /s"),
                Shape::Lines,
                "Passes over everything (once a minute) and over changes.",
                &[(
                    "sum by (scope) (rate(mesh_operator_passes_total{$ns}[$__rate_interval]))",
                    "{{scope}}",
                )],
            ),
        ],
    }
}

fn freshness() -> Row {
    Row {
        title: "Certificates and views",
        panels: vec![
            panel(
                ("Authority ends in", "s"),
                Shape::Number(Good::From(4_000_000_000)),
                "Time left of the mesh's certificate authority, which is replaced when two thirds of its ten years are over.",
                &[(
                    "min(mesh_operator_certificate_expiry_seconds{$ns, name=\"authority\"})",
                    "",
                )],
            ),
            panel(
                ("Snapshots not accepted", "short"),
                Shape::Number(Good::Zero),
                "Views that gateways could not make in the chosen time.",
                &[(
                    "sum(increase(mesh_gateway_snapshots_rejected_total{$ns}[$__range]))",
                    "",
                )],
            ),
            panel(
                ("Certificates of members end in", "s"),
                Shape::Lines,
                "Shortest time left. They live a day and are replaced when a third is left.",
                &[
                    (
                        "min by (name) (mesh_gateway_certificate_expiry_seconds{$ns})",
                        "gateway {{name}}",
                    ),
                    (
                        "min by (name) (mesh_operator_certificate_expiry_seconds{$ns, name!=\"authority\"})",
                        "operator {{name}}",
                    ),
                    (
                        "min by (name) (mesh_worker_certificate_expiry_seconds)",
                        "worker {{name}}",
                    ),
                ],
            ),
            panel(
                ("Age of gateways' views", "s"),
                Shape::Lines,
                "Time since each gateway made its view of what is declared. It makes one at least every 30 seconds.",
                &[(
                    "max by (namespace, pod) (mesh_gateway_snapshot_age_seconds{$ns})",
                    "{{namespace}} {{pod}}",
                )],
            ),
        ],
    }
}

fn injection() -> Row {
    Row {
        title: "Sidecars",
        panels: vec![
            panel(
                ("Pods without their sidecar", "none"),
                Shape::Number(Good::Zero),
                "Pods that should carry the sidecar and do not, as the leader counts them. MeshPodsUninjected fires after ten minutes.",
                &[(
                    "sum(max by (namespace) (mesh_operator_pods_uninjected{$ns}))",
                    "",
                )],
            ),
            panel(
                ("Pods with an old sidecar", "none"),
                Shape::Number(Good::Zero),
                "Pods with a sidecar of another template than pods get now. MeshPodsOutdated fires after a day.",
                &[(
                    "sum(max by (namespace) (mesh_operator_pods_outdated{$ns}))",
                    "",
                )],
            ),
            panel(
                ("Own base URLs past the mesh", "short"),
                Shape::Number(Good::Zero),
                "Injected pods in the chosen time with a container whose own base URL leads past the mesh.",
                &[(
                    "sum(increase(mesh_operator_foreign_base_urls_total{$ns}[$__range]))",
                    "",
                )],
            ),
            panel(
                ("Pods without, and with an old sidecar", "none"),
                Shape::Lines,
                "The same over time.",
                &[
                    (
                        "max by (namespace) (mesh_operator_pods_uninjected{$ns})",
                        "{{namespace}}: without",
                    ),
                    (
                        "max by (namespace) (mesh_operator_pods_outdated{$ns})",
                        "{{namespace}}: old",
                    ),
                ],
            ),
            panel(
                ("Pods that the webhook was asked about", "suffix: /s"),
                Shape::Stack,
                "Answers of the webhook, by outcome.",
                &[(
                    "sum by (outcome) (rate(mesh_operator_injections_total{$ns}[$__rate_interval]))",
                    "{{outcome}}",
                )],
            ),
        ],
    }
}
