//! Where tokens went, on whom that depends, what was refused, and whether the floor holds.

use super::{Dashboard, Good, Panel, Row, Shape, panel, rise, token_rate, tokens};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "mesh-sovereignty",
        title: "Inference Mesh / Sovereignty",
        description: "Where every token went, on whom that depends, what was refused, and whether the floor holds.",
        rows: vec![
            where_tokens_go(),
            dependence(),
            refusals(),
            records(),
            floor(),
            confinement(),
        ],
    }
}

fn where_tokens_go() -> Row {
    let mut panels = numbers();
    panels.extend(pictures());
    Row {
        title: "Where tokens go",
        panels,
    }
}

fn numbers() -> Vec<Panel> {
    vec![
        panel(
            ("Tokens on own hardware", "percentunit"),
            Shape::Number(Good::Any),
            "Share of all tokens in the chosen time that own hardware read or wrote.",
            &[(
                &format!(
                    "(sum{} or vector(0)) / (sum{} > 0)",
                    tokens(
                        "increase",
                        ", sovereignty_class=\"own_hardware\"",
                        "$__range"
                    ),
                    tokens("increase", "", "$__range")
                ),
                "",
            )],
        ),
        panel(
            ("Restricted tokens elsewhere", "short"),
            Shape::Number(Good::Zero),
            "Tokens of Restricted requests that anything but own hardware saw. Zero, unless a policy lowers minimumClass.restricted.",
            &[(
                &format!(
                    "{} + {}",
                    rise(
                        "",
                        "mesh_gateway_tokens_total{$ns, privacy_level=\"restricted\", sovereignty_class!=\"own_hardware\"}",
                    ),
                    rise(
                        "",
                        "mesh_sidecar_tokens_total{$beside, privacy_level=\"restricted\", sovereignty_class!=\"own_hardware\"}",
                    )
                ),
                "",
            )],
        ),
        panel(
            ("Restricted requests unserved", "short"),
            Shape::Number(Good::Zero),
            "Restricted requests in the chosen time that nobody might or could answer.",
            &[(
                "sum(increase(mesh_gateway_unserved_total{$ns, privacy_level=\"restricted\"}[$__range]))",
                "",
            )],
        ),
        panel(
            ("First claims end in", "s"),
            Shape::Number(Good::From(1_209_600_000)),
            "Time until the first claims about a cloud end, after which nothing is known of it.",
            &[("min(mesh_gateway_claim_expiry_seconds{$ns})", "")],
        ),
    ]
}

fn pictures() -> Vec<Panel> {
    let tokens = |title, description, label: &'static str, legend| {
        let query = format!("sum by ({label}) {}", token_rate(""));
        panel(
            (title, "suffix: tokens/s"),
            Shape::Stack,
            description,
            &[(&query, legend)],
        )
    };
    vec![
        tokens(
            "Tokens by class",
            "Tokens read and written, by the sovereignty class of the place; what the floor answers sidecars without a gateway is counted too, in all panels of tokens.",
            "sovereignty_class",
            "{{sovereignty_class}}",
        ),
        tokens(
            "Tokens by privacy level",
            "Tokens read and written, by the privacy level of the request.",
            "privacy_level",
            "{{privacy_level}}",
        ),
        panel(
            ("Tokens by provider", "suffix: tokens/s"),
            Shape::Stack,
            "Tokens read and written, by the company behind the backend; unknown is hardware without one.",
            &[(&by("provider"), "{{provider}}")],
        ),
        panel(
            (
                "Restricted and Confidential tokens by class",
                "suffix: tokens/s",
            ),
            Shape::Stack,
            "Where the tokens of sensitive requests went.",
            &[(
                &format!(
                    "sum by (privacy_level, sovereignty_class) {}",
                    token_rate(", privacy_level=~\"restricted|confidential\"")
                ),
                "{{privacy_level}} on {{sovereignty_class}}",
            )],
        ),
    ]
}

/// Tokens by something that is declared of a backend. One description of each: every replica of the gateway has one, and
/// in the moments after an edit or an upgrade they disagree, which would fail the query.
fn by(label: &str) -> String {
    format!(
        "sum by ({label}) ({} * on (namespace, backend) group_left ({label}) topk by (namespace, backend) (1, mesh_gateway_backend_info{{$ns}}))",
        token_rate("")
    )
}

/// The same as shares of all.
fn shares(label: &str) -> String {
    format!(
        "{} / on () group_left () (sum({}) > 0)",
        by(label),
        by(label)
    )
}

/// Sum of the squares of all shares: one where a single one has everything.
fn index(label: &str) -> String {
    format!("sum(({}) ^ 2)", shares(label))
}

fn claims() -> Panel {
    panel(
        ("Claims end in", "s"),
        Shape::Lines,
        "Time until the claims about a cloud end, by backend. MeshClaimExpiresSoon fires two weeks before.",
        &[(
            "min by (namespace, backend) (mesh_gateway_claim_expiry_seconds{$ns})",
            "{{namespace}} {{backend}}",
        )],
    )
}

fn dependence() -> Row {
    let share = |title, label: &'static str, legend, description| -> Panel {
        let shares = shares(label);
        let limit = ("min(mesh:provider_share:limit{$ns})", "limit");
        let queries = [(shares.as_str(), legend), limit];
        let wanted = if label == "provider" { 2 } else { 1 };
        panel(
            (title, "percentunit"),
            Shape::Lines,
            description,
            &queries[..wanted],
        )
    };
    let indices = [
        (index("provider"), "provider"),
        (index("jurisdiction"), "jurisdiction"),
        (index("hardware_vendor"), "hardware vendor"),
        (index("family"), "model family"),
    ];
    let indices: Vec<(&str, &'static str)> = indices
        .iter()
        .map(|(query, name)| (query.as_str(), *name))
        .collect();
    Row {
        title: "On whom that depends",
        panels: vec![
            share(
                "Share by provider",
                "provider",
                "{{provider}}",
                "Share of all tokens by company. MeshProviderConcentration fires where one stays above the limit, that of a policy or of the installation.",
            ),
            share(
                "Share by jurisdiction",
                "jurisdiction",
                "{{jurisdiction}}",
                "Share of all tokens by the seats of the companies behind the backends.",
            ),
            share(
                "Share by hardware vendor",
                "hardware_vendor",
                "{{hardware_vendor}}",
                "Share of all tokens by the maker of the accelerator; cpu is hardware without one. Unknown where nothing is declared of it.",
            ),
            share(
                "Share by model family",
                "family",
                "{{family}}",
                "Share of all tokens by model family. Unknown where nothing is declared of it.",
            ),
            panel(
                ("Concentration index", "none"),
                Shape::Lines,
                "Sum of the squares of all shares (Herfindahl and Hirschman): 1 where one has everything, 0.25 where four share evenly. What is unknown counts as one.",
                &indices,
            ),
            claims(),
        ],
    }
}

fn refusals() -> Row {
    Row {
        title: "Refused and degraded",
        panels: vec![
            panel(
                ("Backends ruled out by constraint", "suffix: /s"),
                Shape::Lines,
                "Backends that a hard constraint ruled out, once per decision.",
                &[(
                    "sum by (constraint) (rate(mesh_gateway_refusals_total{$ns}[$__rate_interval]))",
                    "{{constraint}}",
                )],
            ),
            panel(
                ("Requests that nobody answered", "reqps"),
                Shape::Lines,
                "Requests in order that no backend might (policy_denied) or could (no_backend, floor_busy) answer.",
                &[(
                    "sum by (privacy_level, reason) (rate(mesh_gateway_unserved_total{$ns}[$__rate_interval]))",
                    "{{privacy_level}}: {{reason}}",
                )],
            ),
            panel(
                ("Degraded answers", "reqps"),
                Shape::Lines,
                "Answers that were less than what was asked for, by the words of header mesh-degraded; those of the floor to sidecars without a gateway too.",
                &[(
                    "sum by (reason) (rate(mesh_gateway_degraded_requests_total{$ns}[$__rate_interval]) or rate(mesh_sidecar_degraded_requests_total{$beside}[$__rate_interval]))",
                    "{{reason}}",
                )],
            ),
            panel(
                ("Decisions by privacy level", "reqps"),
                Shape::Stack,
                "Requests decided, by the level that classification and policy gave them.",
                &[(
                    "sum by (privacy_level) (rate(mesh_gateway_decisions_total{$ns}[$__rate_interval]))",
                    "{{privacy_level}}",
                )],
            ),
        ],
    }
}

fn records() -> Row {
    Row {
        title: "Records of decisions",
        panels: vec![
            panel(
                ("Records can be written", "none"),
                Shape::Number(Good::From(1000)),
                "1 if every gateway can write what it decides. MeshAuditNotDurable fires where one cannot. Nothing where no policy says audit.durableFrom.",
                &[("min(mesh_gateway_audit_durable{$ns})", "")],
            ),
            panel(
                ("Records lost", "short"),
                Shape::Number(Good::Zero),
                "Records in the chosen time that will never be on disk.",
                &[(
                    "sum(increase(mesh_gateway_audit_lost_total{$ns}[$__range]))",
                    "",
                )],
            ),
            panel(
                ("Records written", "suffix: /s"),
                Shape::Stack,
                "Records on disk: decided and sending before a request is sent, ended afterwards.",
                &[(
                    "sum by (event) (rate(mesh_gateway_audit_entries_total{$ns}[$__rate_interval]))",
                    "{{event}}",
                )],
            ),
            panel(
                ("Records that wait", "none"),
                Shape::Lines,
                "Records that nobody waits for and that are not written yet, by gateway: ends, and what the floor answered while the ledger was away.",
                &[(
                    "max by (namespace, pod) (mesh_gateway_audit_waiting{$ns})",
                    "{{namespace}} {{pod}}",
                )],
            ),
            panel(
                ("Wait for the record", "s"),
                Shape::Lines,
                "Time that 99 of 100 requests with a record waited for it at most.",
                &[(
                    "histogram_quantile(0.99, sum by (le) (rate(mesh_gateway_audit_wait_seconds_bucket{$ns}[$__rate_interval])))",
                    "99 %",
                )],
            ),
        ],
    }
}

fn floor() -> Row {
    let mut panels = floor_now();
    panels.extend(floor_over_time());
    Row {
        title: "The floor",
        panels,
    }
}

fn floor_now() -> Vec<Panel> {
    vec![
        panel(
            ("Floor ready", "none"),
            Shape::Number(Good::From(1000)),
            "1 if every gateway finds a floor that can answer.",
            &[("min(mesh_gateway_floor_ready{$ns})", "")],
        ),
        panel(
            ("Places of the floor", "none"),
            Shape::Number(Good::From(1000)),
            "Pods and servers that can answer as the floor, as the gateway that sees fewest says.",
            &[("min(mesh_gateway_floor_endpoints{$ns})", "")],
        ),
        panel(
            ("Floor ready over time", "percentunit"),
            Shape::Number(Good::From(999)),
            "Share of the chosen time in which every gateway found a floor that could answer. The goal is 99.9 %.",
            &[(
                "avg_over_time(min(mesh_gateway_floor_ready{$ns})[$__range:1m])",
                "",
            )],
        ),
        panel(
            ("Requests answered", "percentunit"),
            Shape::Number(Good::From(999)),
            "Share of the requests in order that got an answer in the chosen time. The goal is 99.9 %.",
            &[(
                "clamp_min(1 - sum(increase(mesh_gateway_unserved_total{$ns}[$__range])) / (sum(increase(mesh_gateway_decisions_total{$ns}[$__range])) > 0), 0)",
                "",
            )],
        ),
        panel(
            ("Drills answered", "percentunit"),
            Shape::Number(Good::From(1000)),
            "Share of the gateways' floors that answered when they were last asked and not busy. Nothing yet where no policy says floor.drill.",
            &[("avg(mesh_gateway_floor_drill_succeeded{$ns})", "")],
        ),
        panel(
            ("Longest without an answer to a drill", "s"),
            Shape::Number(Good::Any),
            "Time since the floor last answered a drill, of the gateway and floor where it is longest. MeshFloorDrillFailed fires after two intervals.",
            &[("max(mesh_gateway_floor_drill_seconds{$ns})", "")],
        ),
    ]
}

fn floor_over_time() -> Vec<Panel> {
    vec![
        panel(
            ("Tokens of the floor and of others", "suffix: tokens/s"),
            Shape::Stack,
            "Tokens written, by backend. The floor has those of requests that may go nowhere else, and all where nobody else is left.",
            &[(
                &format!("sum by (backend) {}", token_rate(", direction=\"output\"")),
                "{{backend}}",
            )],
        ),
        panel(
            ("Places of the floor over time", "none"),
            Shape::Lines,
            "Pods and servers that can answer as the floor, by gateway.",
            &[(
                "min by (namespace, pod) (mesh_gateway_floor_endpoints{$ns})",
                "{{namespace}} {{pod}}",
            )],
        ),
        panel(
            ("Drills by outcome", "suffix: /s"),
            Shape::Stack,
            "Questions that gateways asked floors, by how they ended: succeeded, busy, failed, or refused by policy.",
            &[(
                "sum by (backend, outcome) (rate(mesh_gateway_floor_drills_total{$ns}[$__rate_interval]))",
                "{{backend}}: {{outcome}}",
            )],
        ),
        panel(
            ("Time of a drill", "s"),
            Shape::Lines,
            "Time of the last drill that succeeded, of the slowest gateway.",
            &[(
                "max by (backend) (mesh_gateway_floor_drill_duration_seconds{$ns})",
                "{{backend}}",
            )],
        ),
    ]
}

fn confinement() -> Row {
    Row {
        title: "Confined namespaces",
        panels: vec![
            panel(
                ("Oldest proof", "s"),
                Shape::Number(Good::Upto(1800)),
                "Age of the oldest proof of all confined namespaces. MeshEgressUnproved fires after four intervals of canaries and ten minutes. Nothing yet where none is confined.",
                &[("max(mesh_operator_egress_proof_age_seconds)", "")],
            ),
            panel(
                ("Confined namespaces", "none"),
                Shape::Number(Good::Any),
                "Namespaces whose pods may reach the mesh and what a policy allows, and nothing else.",
                &[(
                    "count(max by (namespace) (mesh_operator_egress_proof_age_seconds)) or vector(0)",
                    "",
                )],
            ),
            panel(
                ("Policies not enforced", "none"),
                Shape::Number(Good::Zero),
                "Policies that confine and whose condition Enforced is False. MeshEgressNotEnforced fires after five minutes.",
                &[(
                    "sum(max by (namespace, reason) (mesh_operator_egress_unenforced{$ns}))",
                    "",
                )],
            ),
            panel(
                ("Not enforced, by reason", "none"),
                Shape::Lines,
                "Policies that confine and whose condition Enforced is False, by its reason.",
                &[(
                    "sum by (reason) (max by (namespace, reason) (mesh_operator_egress_unenforced{$ns}))",
                    "{{reason}}",
                )],
            ),
            panel(
                ("Age of the proof", "s"),
                Shape::Lines,
                "Seconds since canaries proved in all pools of nodes that a confined namespace is confined.",
                &[(
                    "max by (namespace) (mesh_operator_egress_proof_age_seconds)",
                    "{{namespace}}",
                )],
            ),
        ],
    }
}
