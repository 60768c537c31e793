//! Recording rules and alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{promql, served};

const RULES: &str = "charts/inference-mesh/files/rules.yaml";
const TESTS: &str = "charts/inference-mesh/tests/rules.test.yaml";
const OVERVIEW: &str = "docs/operations/monitoring.md";
const RUNBOOKS: &str = "docs/operations/runbooks";
const HEADINGS: [&str; 4] = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"];

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) record: Option<String>,
    alert: Option<String>,
    pub(super) expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// All rules of the chart.
pub(super) fn read() -> Vec<Rule> {
    let text = std::fs::read_to_string(root().join(RULES)).unwrap();
    let file: File = serde_saphyr::from_str(&text).unwrap();
    file.groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect()
}

fn alerts() -> Vec<(String, Rule)> {
    let named = |rule: Rule| Some((rule.alert.clone()?, rule));
    let alerts: Vec<_> = read().into_iter().filter_map(named).collect();
    assert!(alerts.len() > 10);
    alerts
}

/// promtool's words, or None where there is none.
pub(super) fn promtool(args: &[&str]) -> Option<Result<String, String>> {
    if let Err(error) = mesh_cluster::tool::prometheus() {
        assert!(std::env::var("CI").is_err(), "{error:#}");
        println!("skipped: {error:#}");
        return None;
    }
    let done = Command::new("promtool")
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    Some(if done.status.success() {
        Ok(said)
    } else {
        Err(said)
    })
}

#[test]
fn prometheus_takes_the_rules_and_they_fire_when_they_should() {
    for args in [["check", "rules", RULES], ["test", "rules", TESTS]] {
        let Some(said) = promtool(&args) else { return };
        let said = said.unwrap_or_else(|said| panic!("promtool {}: {said}", args.join(" ")));
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn rules_ask_only_for_what_is_served() {
    let served = served::served();
    for rule in read() {
        if rule.expr.starts_with("vector(") {
            continue;
        }
        let found = promql::unserved(&rule.expr, &served);
        let name = rule.alert.or(rule.record);
        assert!(found.is_empty(), "{name:?}: {found:?}");
    }
}

/// The lines of the tests' file about one alert: firing, or silent.
fn tested(text: &str, alert: &str) -> (usize, usize) {
    let lines: Vec<&str> = text.lines().collect();
    let (mut firing, mut silent) = (0, 0);
    let series = format!("- expr: ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
    for (at, line) in lines.iter().enumerate() {
        let line = line.trim();
        let after = |words: &str, limit: usize| {
            let ahead = lines.iter().skip(at + 1).take(limit);
            ahead.clone().any(|line| line.trim() == words)
        };
        if line == series {
            // The next line is the time, the one after it what is expected, if anything.
            *(if after("exp_samples:", 2) {
                &mut firing
            } else {
                &mut silent
            }) += 1;
        } else if line.contains(&format!("alertname: {alert}, exp_alerts: []")) {
            silent += 1;
        } else if line == format!("alertname: {alert}") && after("exp_alerts:", 1) {
            firing += 1;
        }
    }
    (firing, silent)
}

#[test]
fn every_alert_is_tested_firing_and_silent() {
    let text = std::fs::read_to_string(root().join(TESTS)).unwrap();
    for (alert, _) in alerts() {
        let (firing, silent) = tested(&text, &alert);
        assert!(
            firing > 0 && silent > 0,
            "{alert}: {firing} firing, {silent} silent"
        );
    }
    assert_eq!(tested(&text, "MeshNoSuchAlert"), (0, 0));
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do_on_a_page_of_its_own() {
    let folder = root().join(RUNBOOKS);
    let overview = std::fs::read_to_string(root().join(OVERVIEW)).unwrap();
    let mut named = BTreeSet::new();
    for (alert, rule) in alerts() {
        let label = rule.labels.get("severity").map_or("", String::as_str);
        // One word, or a choice between words by what it is about.
        let words = ["critical", "warning", "info"];
        let chosen = words.into_iter().filter(|word| label.contains(word));
        let severity = chosen.collect::<Vec<_>>().join(" or ");
        assert!(
            words.contains(&label) || label.starts_with("{{ if") && severity.contains(" or "),
            "{alert}: {label}"
        );
        for words in ["summary", "description"] {
            let text = rule.annotations.get(words).map_or("", String::as_str);
            assert!(
                text.len() > 20 && text.ends_with('.'),
                "{alert}: {words} {text:?}"
            );
        }
        let url = rule
            .annotations
            .get("runbook_url")
            .map_or("", String::as_str);
        assert_eq!(url, format!("https://inferencemesh.dev/runbooks/{alert}"));
        let page = std::fs::read_to_string(folder.join(format!("{alert}.md")))
            .unwrap_or_else(|error| panic!("{alert} has no page: {error}"));
        assert!(page.starts_with(&format!("# {alert}\n")), "{alert}");
        let row = format!("| [{alert}](runbooks/{alert}.md) | {severity} |");
        assert!(overview.contains(&row), "{OVERVIEW}: {row}");
        let places: Vec<usize> = HEADINGS
            .iter()
            .map(|heading| {
                page.find(heading)
                    .unwrap_or_else(|| panic!("{alert}: {heading}"))
            })
            .collect();
        assert!(places.is_sorted(), "{alert}");
        assert!(
            page[places[2]..places[3]].contains("```sh\nkubectl "),
            "{alert}: commands"
        );
        named.insert(format!("{alert}.md"));
    }
    let pages: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(pages, named, "a page for each alert, and no other");
}
