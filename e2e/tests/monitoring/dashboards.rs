//! Dashboards of Grafana: the rules of its own linter that make sense for a mesh, and that every query parses and asks
//! for what is served. Not asked for: variables `job` and `instance` (an installation is chosen by its namespace).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::rules::{promtool, root};
use super::{promql, served};

const FOLDER: &str = "charts/inference-mesh/files/dashboards";
/// What counts up and must be asked for as a rise, or as what it began with.
const RISES: [&str; 3] = ["rate(", "increase(", "min_over_time("];

/// What each replica says of the same things, so that a sum would count them as often as there are replicas.
const ECHOED: [&str; 9] = [
    "mesh_gateway_backend_info",
    "mesh_gateway_backend_up",
    "mesh_gateway_claim_expiry_seconds",
    "mesh_gateway_floor_ready",
    "mesh_gateway_floor_endpoints",
    "mesh_operator_conditions",
    "mesh_operator_egress_proof_age_seconds",
    "mesh_operator_egress_unenforced",
    "mesh:provider_share:limit",
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn dashboards() -> Vec<Value> {
    let files = std::fs::read_dir(root().join(FOLDER)).unwrap();
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let page: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(page["uid"], stem.as_str(), "a link to it lasts");
        page
    };
    let all: Vec<Value> = files.map(read).collect();
    assert_eq!(all.len(), 4);
    all
}

/// Panels that show something, with the name of their page.
fn panels() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for page in dashboards() {
        for panel in page["panels"].as_array().unwrap() {
            if panel["type"] != "row" {
                let name = format!("{}: {}", text(&page["title"]), text(&panel["title"]));
                all.push((name, panel.clone()));
            }
        }
    }
    assert!(all.len() > 40, "{}", all.len());
    all
}

/// Queries as Prometheus gets them: Grafana's words replaced.
fn queries() -> Vec<(String, String)> {
    let replaced = |expression: &str| {
        let short = expression
            .replace("$namespace", ".*")
            .replace("$__range", "1h");
        short.replace("$__rate_interval", "5m")
    };
    let of = |(name, panel): (String, Value)| {
        let targets = panel["targets"].as_array().unwrap().clone();
        targets
            .into_iter()
            .map(move |target| (name.clone(), replaced(text(&target["expr"]))))
    };
    panels().into_iter().flat_map(of).collect()
}

#[test]
fn every_panel_has_words_a_unit_a_source_of_choice_and_a_place_of_its_own() {
    for (name, panel) in panels() {
        assert!(
            text(&panel["title"]).len() > 1 && text(&panel["description"]).len() > 10,
            "{name}"
        );
        assert!(
            !text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(),
            "{name}: unit"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{name}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}");
            let legend = text(&target["legendFormat"]);
            assert!(
                panel["type"] == "stat" || !legend.is_empty(),
                "{name}: a line without a name"
            );
        }
    }
    for page in dashboards() {
        let name = text(&page["title"]);
        assert!(
            page["editable"] == false && text(&page["description"]).len() > 10,
            "{name}"
        );
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in page["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64()), "{name}: an id twice");
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(
                        taken.insert((x, y)),
                        "{name}: {} lies on another",
                        panel["title"]
                    );
                }
            }
        }
    }
}

#[test]
fn a_dashboard_lets_choose_prometheus_and_namespace() {
    let known = served::served();
    for page in dashboards() {
        let variables = page["templating"]["list"].as_array().unwrap();
        let of = |name: &str| variables.iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(
            (
                of("datasource")["type"].as_str(),
                of("datasource")["query"].as_str()
            ),
            (Some("datasource"), Some("prometheus"))
        );
        let namespace = of("namespace");
        assert_eq!(namespace["refresh"], 2, "asked again when the time changes");
        assert_eq!(namespace["allValue"], ".*");
        let asked = text(&namespace["query"]["query"]);
        let named = asked
            .split_once("=~\"")
            .and_then(|(_, rest)| rest.split_once('"'));
        let (named, _) = named.expect("metrics that installations have");
        assert!(
            named.split('|').all(|metric| known.contains_key(metric)),
            "{asked}"
        );
        assert!(
            !page.to_string().contains("\"datasource\":\""),
            "{}: a source by name",
            page["title"]
        );
    }
}

#[test]
fn counters_are_asked_for_as_a_rise_over_grafanas_interval() {
    for (name, panel) in panels() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = text(&target["expr"]);
            for part in ["_total", "_bucket", "_count{"] {
                for (at, _) in expression.match_indices(part) {
                    let before = &expression[..at];
                    let start = before
                        .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
                        .map_or(0, |at| at + 1);
                    assert!(
                        RISES.iter().any(|rise| before[..start].ends_with(rise)),
                        "{name}: {expression}"
                    );
                }
            }
            let fixed = expression
                .split('[')
                .skip(1)
                .find(|rest| !rest.starts_with("$__"));
            assert!(fixed.is_none(), "{name}: a fixed interval: {expression}");
            // Its namespace is the one that is confined, not that of the installation.
            let about = expression.contains("mesh_operator_egress_proof_age_seconds");
            let ours = about || expression.contains("{namespace=~\"$namespace\"");
            assert!(
                ours || !expression.contains("mesh_gateway")
                    && !expression.contains("mesh_operator"),
                "{name}: {expression}"
            );
        }
    }
}

/// The word of the aggregation whose first operand stands at the end of `before`.
fn aggregation(before: &str) -> &str {
    let before = before.trim_end_matches(['(', ' ']);
    let before = before.strip_suffix("(1,").unwrap_or(before).trim_end();
    let before = match before.strip_suffix(')') {
        Some(grouped) => grouped.rsplit_once(" by (").map_or("", |(word, _)| word),
        None => before,
    };
    let start = before.rfind(|c: char| !c.is_ascii_alphabetic());
    &before[start.map_or(0, |at| at + 1)..]
}

#[test]
fn what_every_replica_tells_alike_is_not_added_up() {
    let mut looked = 0;
    for (name, query) in queries() {
        for metric in ECHOED {
            for (at, _) in query.match_indices(metric) {
                let word = aggregation(&query[..at]);
                assert!(
                    ["max", "min", "topk"].contains(&word),
                    "{name}: {word}: {query}"
                );
                looked += 1;
            }
        }
    }
    assert!(looked > 10, "{looked}");
    assert_eq!(aggregation("1 - sum by (a, b) ("), "sum");
    assert_eq!(aggregation("count(max by (a) ("), "max");
    assert_eq!(aggregation("x * on (a) topk by (a) (1, "), "topk");
}

#[test]
fn every_query_parses() {
    let mut rules = String::from("groups:\n- name: queries\n  rules:\n");
    for (at, (_, query)) in queries().iter().enumerate() {
        let quoted = serde_json::to_string(query).unwrap();
        writeln!(rules, "  - record: query{at}\n    expr: {quoted}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yaml");
    std::fs::write(&file, rules).unwrap();
    let Some(said) = promtool(&["check", "rules", &file.display().to_string()]) else {
        return;
    };
    said.unwrap_or_else(|said| panic!("{said}"));
}

#[test]
fn dashboards_ask_only_for_what_is_served() {
    let served = served::served();
    for (name, query) in queries() {
        let found = promql::unserved(&query, &served);
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}
