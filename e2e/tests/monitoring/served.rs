//! What the binaries serve, by the pages that promise it. Tests of the binaries compare the pages with what is
//! rendered (`metrics_contract`, the operator's and the worker's `metrics`).

use std::collections::{BTreeMap, BTreeSet};

use super::rules;

/// Metric and its labels.
pub(super) type Served = BTreeMap<String, BTreeSet<String>>;

const PAGES: [(&str, &str); 5] = [
    (
        "mesh_gateway_",
        include_str!("../../../docs/reference/metrics.md"),
    ),
    (
        "mesh_operator_",
        include_str!("../../../docs/reference/metrics-operator.md"),
    ),
    (
        "mesh_sidecar_",
        include_str!("../../../docs/reference/metrics-sidecar.md"),
    ),
    (
        "mesh_ledger_",
        include_str!("../../../docs/reference/metrics-ledger.md"),
    ),
    // Under the names of vLLM, which are no prefix of ours.
    (
        "",
        include_str!("../../../docs/reference/metrics-worker.md"),
    ),
];
/// Every component serves this one; the page says so in a sentence.
const CERTIFICATE: &str = "certificate_expiry_seconds";
const PREFIXES: [&str; 5] = [
    "mesh_gateway_",
    "mesh_operator_",
    "mesh_worker_",
    "mesh_guard_",
    "mesh_ledger_",
];

/// Rows of a page's table.
fn rows(prefix: &str, page: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|one| one.trim().trim_matches('`'));
        let labels: BTreeSet<String> = labels
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect();
        let name = format!("{prefix}{}", cells[1].trim_matches('`'));
        if cells[2] == "histogram" {
            for part in ["_bucket", "_sum", "_count"] {
                found.push((format!("{name}{part}"), labels.clone()));
            }
        } else {
            found.push((name, labels));
        }
    }
    found
}

/// Everything that can be asked for: what is served, and what the rules record of it.
pub(super) fn served() -> Served {
    let mut all: Served = PAGES
        .iter()
        .flat_map(|(prefix, page)| rows(prefix, page))
        .collect();
    for prefix in PREFIXES {
        assert!(
            PAGES[0].1.contains(&format!("`{prefix}`")),
            "the page names {prefix}"
        );
        all.insert(
            format!("{prefix}{CERTIFICATE}"),
            BTreeSet::from([String::from("name")]),
        );
    }
    for rule in rules::read() {
        if let Some(name) = rule.record {
            let asked = super::promql::asked(&rule.expr);
            let mut labels = asked.grouping;
            // One recorded from another one, further up, keeps its labels.
            let recorded = asked.metrics.keys().filter(|metric| metric.contains(':'));
            for metric in recorded {
                labels.extend(all.get(metric).into_iter().flatten().cloned());
            }
            all.insert(name, labels);
        }
    }
    all
}

#[test]
fn the_pages_have_tables() {
    let served = served();
    assert!(served.len() > 30, "{served:#?}");
    assert!(served["mesh_gateway_tokens_total"].contains("backend"));
    assert!(served.contains_key("mesh_gateway_time_to_first_token_seconds_bucket"));
}
