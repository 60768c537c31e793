//! What an expression of PromQL asks for: metrics, and labels of them. It knows the words of the language that
//! rules and dashboards of ours use; whether an expression is right, `promtool` says.

use std::collections::{BTreeMap, BTreeSet};

/// Labels that discovery adds to what is scraped (`mesh_namespace` to sidecars), and that of histograms.
const TARGET: [&str; 6] = [
    "namespace",
    "pod",
    "job",
    "instance",
    "le",
    "mesh_namespace",
];
/// Words before a list of labels.
const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// Metrics that an expression names, each with the labels it is selected by, and the labels of all lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) metrics: BTreeMap<String, BTreeSet<String>>,
    pub(super) grouping: BTreeSet<String>,
}

fn word(text: &str) -> &str {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    &text[..text.find(|c| !part(c)).unwrap_or(text.len())]
}

/// What stands within braces, which may be in strings too, and what follows.
fn braced(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('{')?;
    let mut quoted = false;
    let end = inside.find(|c| {
        quoted ^= c == '"';
        c == '}' && !quoted
    })?;
    Some((&inside[..end], &inside[end + 1..]))
}

/// Names of labels within braces: what stands before a comparison.
fn selected(inside: &str) -> BTreeSet<String> {
    let mut rest = inside;
    let mut found = BTreeSet::new();
    while let Some(at) = rest.find(['=', '!']) {
        found.insert(rest[..at].trim_matches([',', ' ']).to_owned());
        let Some((_, after)) = rest.split_once('"') else {
            break;
        };
        rest = after.split_once('"').map_or("", |(_, after)| after);
    }
    found
}

/// Reads one expression.
pub(super) fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"') {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = text.split_once('"').map_or("", |(_, after)| after);
            continue;
        }
        let name = word(rest);
        rest = &rest[name.len()..];
        let next = rest.trim_start();
        if GROUPING.contains(&name) {
            if let Some((list, after)) =
                next.strip_prefix('(').and_then(|list| list.split_once(')'))
            {
                let labels = list.split(',').map(|label| label.trim().to_owned());
                asked
                    .grouping
                    .extend(labels.filter(|label| !label.is_empty()));
                rest = after;
            }
        } else if name.starts_with("mesh") || name.starts_with("vllm:") {
            let metric = asked.metrics.entry(name.to_owned()).or_default();
            if let Some((inside, after)) = braced(next) {
                metric.extend(selected(inside));
                rest = after;
            }
        }
    }
    asked
}

/// Everything that an expression asks for and nobody serves, a sentence each.
pub(super) fn unserved(
    expression: &str,
    served: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let asked = asked(expression);
    let mut found = Vec::new();
    let mut known: BTreeSet<&str> = TARGET.into();
    for (metric, labels) in &asked.metrics {
        let Some(has) = served.get(metric) else {
            found.push(format!("nobody serves {metric}"));
            continue;
        };
        known.extend(has.iter().map(String::as_str));
        let foreign = |label: &&String| !has.contains(*label) && !TARGET.contains(&label.as_str());
        found.extend(
            labels
                .iter()
                .filter(foreign)
                .map(|label| format!("{metric} has no label {label}")),
        );
    }
    let foreign = asked
        .grouping
        .iter()
        .filter(|label| !known.contains(label.as_str()));
    found.extend(foreign.map(|label| format!("no metric of the expression has a label {label}")));
    if asked.metrics.is_empty() {
        found.push(String::from("it asks for no metric of the mesh"));
    }
    found
}

#[test]
fn metrics_and_labels_of_an_expression_are_found() {
    let found = asked(
        r#"sum by (namespace, provider) (rate(mesh_a_total{x="mesh_b{,}", y=~"a|b"}[5m]) * on (backend) group_left () mesh_c) / mesh:d{z!="1"}"#,
    );
    let set = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(found.grouping, set(&["backend", "namespace", "provider"]));
    let names: Vec<&str> = found.metrics.keys().map(String::as_str).collect();
    assert_eq!(names, ["mesh:d", "mesh_a_total", "mesh_c"]);
    assert_eq!(found.metrics["mesh_a_total"], set(&["x", "y"]));
    assert_eq!(found.metrics["mesh:d"], set(&["z"]));
}

#[test]
fn what_nobody_serves_is_told() {
    let served = BTreeMap::from([(String::from("mesh_a"), BTreeSet::from([String::from("x")]))]);
    assert_eq!(
        unserved("sum by (x, pod) (mesh_a{x=\"1\"})", &served),
        [""; 0]
    );
    for (expression, words) in [
        ("mesh_b", "nobody serves mesh_b"),
        ("mesh_a{y=\"1\"}", "mesh_a has no label y"),
        ("sum by (y) (mesh_a)", "has a label y"),
        ("vector(1)", "no metric of the mesh"),
    ] {
        let found = unserved(expression, &served).join("; ");
        assert!(found.contains(words), "{expression}: {found}");
    }
}
