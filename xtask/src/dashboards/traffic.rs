//! How fast and how surely requests are answered, and at what cost.

use super::{Dashboard, Good, Panel, Row, Shape, panel, rise, token_rate};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "mesh-traffic",
        title: "Inference Mesh / Traffic",
        description: "How fast and how surely requests are answered, how often they fail over, and at what cost.",
        rows: vec![requests(), latency(), attempts(), sidecars(), cost()],
    }
}

fn requests() -> Row {
    Row {
        title: "Requests",
        panels: vec![
            panel(
                ("Requests", "reqps"),
                Shape::Number(Good::Any),
                "Requests that ended, of all surfaces.",
                &[(
                    "sum(rate(mesh_gateway_request_duration_seconds_count{$ns}[$__rate_interval]))",
                    "",
                )],
            ),
            panel(
                ("Ended well", "percentunit"),
                Shape::Number(Good::From(990)),
                "Share of the requests in the chosen time that ended with an answer; those whose caller left are not counted.",
                &[(
                    "(sum(increase(mesh_gateway_request_duration_seconds_count{$ns, outcome=\"ok\"}[$__range])) or vector(0)) / (sum(increase(mesh_gateway_request_duration_seconds_count{$ns, outcome!=\"canceled\"}[$__range])) > 0)",
                    "",
                )],
            ),
            panel(
                ("Attempts per decision", "none"),
                Shape::Number(Good::Any),
                "Attempts at backends for each request decided; 1 where the first one always answers.",
                &[(
                    "sum(increase(mesh_gateway_attempts_total{$ns}[$__range])) / (sum(increase(mesh_gateway_decisions_total{$ns}[$__range])) > 0)",
                    "",
                )],
            ),
            panel(
                ("Tokens written", "suffix: tokens/s"),
                Shape::Number(Good::Any),
                "Tokens written by all backends.",
                &[(&format!("sum{}", token_rate(", direction=\"output\"")), "")],
            ),
            panel(
                ("Requests by outcome", "reqps"),
                Shape::Stack,
                "Requests that ended, by how: ok, canceled (the caller left), or the word of header mesh-reason.",
                &[(
                    "sum by (outcome) (rate(mesh_gateway_request_duration_seconds_count{$ns}[$__rate_interval]))",
                    "{{outcome}}",
                )],
            ),
            panel(
                ("Requests by surface", "reqps"),
                Shape::Stack,
                "Requests that ended, by the endpoint that was called.",
                &[(
                    "sum by (surface) (rate(mesh_gateway_request_duration_seconds_count{$ns}[$__rate_interval]))",
                    "{{surface}}",
                )],
            ),
        ],
    }
}

/// The quantiles of a histogram; nothing where nothing was observed, which would be no number.
fn quantiles(
    title: &'static str,
    description: &'static str,
    metric: &str,
    (label, names): (&str, [&'static str; 3]),
) -> Panel {
    let query = |quantile: &str| {
        let labels = if label.is_empty() {
            String::from("le")
        } else {
            format!("le, {label}")
        };
        let of = if metric.starts_with("mesh_sidecar") {
            "$beside"
        } else {
            "$ns"
        };
        format!(
            "histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{{{of}}}[$__rate_interval]))) >= 0"
        )
    };
    let all = [query("0.5"), query("0.95"), query("0.99")];
    let queries: Vec<(&str, &'static str)> = all.iter().map(String::as_str).zip(names).collect();
    panel((title, "s"), Shape::Lines, description, &queries)
}

fn latency() -> Row {
    Row {
        title: "Latency",
        panels: vec![
            quantiles(
                "Duration of requests",
                "From a request's head to the last byte of its answer, by surface.",
                "mesh_gateway_request_duration_seconds",
                (
                    "surface",
                    ["{{surface}} half", "{{surface}} 95 %", "{{surface}} 99 %"],
                ),
            ),
            quantiles(
                "Time to first token",
                "From the start of the attempt that served to its first token, by sovereignty class.",
                "mesh_gateway_time_to_first_token_seconds",
                (
                    "sovereignty_class",
                    [
                        "{{sovereignty_class}} half",
                        "{{sovereignty_class}} 95 %",
                        "{{sovereignty_class}} 99 %",
                    ],
                ),
            ),
            quantiles(
                "Classification",
                "What it takes to find out how sensitive a request is.",
                "mesh_gateway_classify_duration_seconds",
                ("", ["half", "95 %", "99 %"]),
            ),
        ],
    }
}

fn attempts() -> Row {
    Row {
        title: "Attempts and failover",
        panels: vec![
            panel(
                ("Attempts by outcome", "suffix: /s"),
                Shape::Stack,
                "Attempts at backends, by how they ended.",
                &[(
                    "sum by (outcome) (rate(mesh_gateway_attempts_total{$ns}[$__rate_interval]))",
                    "{{outcome}}",
                )],
            ),
            panel(
                ("Failovers by phase", "suffix: /s"),
                Shape::Lines,
                "Attempts that followed a failed one of the same request, by whether tokens had come already; those of sidecars to the floor too.",
                &[(
                    "sum by (phase) (rate(mesh_gateway_failovers_total{$ns}[$__rate_interval]) or rate(mesh_sidecar_failovers_total{$beside}[$__rate_interval]))",
                    "{{phase}}",
                )],
            ),
        ],
    }
}

/// What goes on to a gateway is in the other panels, as requests of that gateway.
fn sidecars() -> Row {
    Row {
        title: "Sidecars",
        panels: vec![
            panel(
                ("Sidecars", "none"),
                Shape::Number(Good::Any),
                "Pods whose sidecar is scraped.",
                &[("count(mesh_sidecar_gateway_up{$beside}) or vector(0)", "")],
            ),
            panel(
                ("Sidecars without a gateway", "none"),
                Shape::Number(Good::Zero),
                "Sidecars to which no gateway answered when they last asked.",
                &[(
                    "count(mesh_sidecar_gateway_up{$beside} == 0) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Sidecars without a floor", "none"),
                Shape::Number(Good::Zero),
                "Sidecars that know no floor to go to without a gateway.",
                &[(
                    "count(mesh_sidecar_floor_known{$beside} == 0) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Answered by the floor itself", "percentunit"),
                Shape::Number(Good::Any),
                "Share of the requests to sidecars in the chosen time that the floor answered because no gateway did.",
                &[(
                    "(sum(increase(mesh_sidecar_failovers_total{$beside}[$__range])) or vector(0)) / (sum(increase(mesh_sidecar_decisions_total{$beside}[$__range])) > 0)",
                    "",
                )],
            ),
            panel(
                ("Attempts of sidecars", "suffix: /s"),
                Shape::Stack,
                "Attempts of sidecars at the gateway and at floors, by how they ended.",
                &[(
                    "sum by (backend, outcome) (rate(mesh_sidecar_attempts_total{$beside}[$__rate_interval]))",
                    "{{backend}}: {{outcome}}",
                )],
            ),
            quantiles(
                "Duration of requests at sidecars",
                "From a request's head to the last byte of its answer, as applications see it.",
                "mesh_sidecar_request_duration_seconds",
                (
                    "surface",
                    ["{{surface}} half", "{{surface}} 95 %", "{{surface}} 99 %"],
                ),
            ),
        ],
    }
}

fn cost() -> Row {
    Row {
        title: "Cost",
        panels: vec![
            panel(
                ("Cost by backend", "suffix: per hour"),
                Shape::Stack,
                "Money spent by declared prices, in the currency declared.",
                &[(
                    "sum by (backend, currency) (rate(mesh_gateway_cost_total{$ns}[$__rate_interval])) * 3600",
                    "{{backend}} ({{currency}})",
                )],
            ),
            panel(
                ("Spent in the chosen time", "none"),
                Shape::Number(Good::Any),
                "Money spent by declared prices, by currency.",
                &[(
                    &rise("by (currency)", "mesh_gateway_cost_total{$ns}"),
                    "{{currency}}",
                )],
            ),
        ],
    }
}
