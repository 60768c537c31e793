//! Names, types and labels of metrics are an API: what is rendered and what the page promises are equal.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::PrivacyLevel;

use crate::world::{World, chat, line, policy};

const PAGE: &str = include_str!("../../../docs/reference/metrics-sidecar.md");
const PREFIX: &str = "mesh_sidecar_";

type Shapes = BTreeMap<String, (String, BTreeSet<String>)>;

fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(',').map(|word| word.trim().trim_matches('`'));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn promised() -> Shapes {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (
            cells[1].trim_matches('`').to_owned(),
            (cells[2].to_owned(), words(cells[3])),
        )
    })
    .collect()
}

/// Name and labels of one sample, without those that only histograms have.
fn sample(line: &str) -> Option<(&str, BTreeSet<String>)> {
    let (name, rest) = line.split_once(['{', ' '])?;
    let inside = line.contains('{').then(|| rest.rsplit_once('}')).flatten();
    let pairs = inside.map_or("", |(inside, _)| inside).split("\",");
    let labels = pairs.filter_map(|pair| Some(pair.split_once("=\"")?.0.to_owned()));
    Some((
        name.strip_prefix(PREFIX)?,
        labels.filter(|label| label != "le").collect(),
    ))
}

fn rendered(text: &str) -> Shapes {
    let samples: Vec<_> = text.lines().filter_map(sample).collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').expect("a type");
            let name = name.strip_prefix(PREFIX).expect("our prefix");
            let (shown, counted) = match kind {
                "counter" => (format!("{name}_total"), format!("{name}_total")),
                "histogram" => (name.to_owned(), format!("{name}_count")),
                _ => (name.to_owned(), name.to_owned()),
            };
            let found = samples.iter().find(|(name, _)| *name == counted);
            let (_, labels) = found.unwrap_or_else(|| panic!("{shown} was never counted"));
            (shown, (kind.to_owned(), labels.clone()))
        })
        .collect()
}

#[tokio::test]
async fn what_is_rendered_is_what_the_page_promises() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    running.ask(&[], &chat("hello")).await;
    let mut newer = policy(PrivacyLevel::Public);
    newer.version = 2;
    world.gateway.push(&line(&newer));
    running
        .wait_for_metric("mesh_sidecar_snapshots_rejected_total 1")
        .await;
    running.wait_for_metric("mesh_sidecar_gateway_up 1").await;
    world.gateway.kill().await;
    running.ask(&[], &chat("hello")).await;
    running.wait_for_metric("mesh_sidecar_gateway_up 0").await;
    for counted in [
        "mesh_sidecar_floor_known 1",
        "mesh_sidecar_failovers_total{phase=\"before_first_token\"} 1",
        "mesh_sidecar_degraded_requests_total{reason=\"floor_only\"} 1",
        "mesh_sidecar_decisions_total{privacy_level=\"public\",task=\"chat\"} 2",
        "mesh_sidecar_attempts_total{backend=\"gateway\",sovereignty_class=\"unknown\",outcome=\"ok\"} 1",
        "mesh_sidecar_attempts_total{backend=\"floor\",sovereignty_class=\"own_hardware\",outcome=\"ok\"} 1",
    ] {
        running.wait_for_metric(counted).await;
    }
    assert_eq!(rendered(&running.metrics()), promised());
}
