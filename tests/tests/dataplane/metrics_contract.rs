//! Names and labels of metrics are an API: what is rendered and what the page promises are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::{Price, PrivacyLevel};
use mesh_ledger::Memory;
use mesh_testkit::upstream::{Behavior, ScriptedUpstream};

use crate::world::{World, ask, ask_streaming, world};

const PAGE: &str = include_str!("../../../docs/reference/metrics.md");
const PREFIX: &str = "mesh_gateway_";

type Shapes = BTreeMap<String, (String, BTreeSet<String>)>;

/// Name, type and labels of every row of the page's table.
fn promised() -> Shapes {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3]
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let name = cells[1].trim_matches('`').to_owned();
        (name, (cells[2].to_owned(), labels.collect()))
    })
    .collect()
}

/// The same of what is rendered.
fn rendered(text: &str) -> Shapes {
    let mut shapes = Shapes::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split_whitespace().skip(2);
        let (name, kind) = (words.next().expect("a name"), words.next().expect("a type"));
        let name = name.strip_prefix(PREFIX).expect("our prefix").to_owned();
        let shown = if kind == "counter" {
            format!("{name}_total")
        } else {
            name.clone()
        };
        let sample = text.lines().find(|line| {
            let rest = line
                .strip_prefix(PREFIX)
                .and_then(|line| line.strip_prefix(&name));
            rest.is_some_and(|rest| {
                ["{", " ", "_total", "_count"]
                    .iter()
                    .any(|next| rest.starts_with(next))
            })
        });
        let sample = sample.unwrap_or_else(|| panic!("{name} was never counted"));
        shapes.insert(shown, (kind.to_owned(), labels(sample)));
    }
    shapes
}

fn labels(sample: &str) -> BTreeSet<String> {
    let Some((_, rest)) = sample.split_once('{') else {
        return BTreeSet::new();
    };
    let (inside, _) = rest.rsplit_once('}').expect("a brace");
    inside
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "le")
        .collect()
}

/// A world in which everything that is counted has happened.
async fn busy() -> (World, [ScriptedUpstream; 2]) {
    let broken = ScriptedUpstream::start().await.expect("a cloud");
    let priced = ScriptedUpstream::start().await.expect("a cloud");
    broken.set(Behavior::status(500));
    let world = world()
        .cloud("broken", &broken, 0.9)
        .cloud_with("priced", &priced, 0.5, |backend| {
            backend.models[0].price = Some(Price {
                input_per_million: 1e6,
                output_per_million: 2e6,
                currency: String::from("EUR"),
            });
        })
        .floor()
        .drilled(std::time::Duration::from_hours(1))
        .policy(|policy| policy.max_share = Some(0.75))
        .recorded(PrivacyLevel::Restricted, &Arc::new(Memory::new()))
        .start();
    world.chat(ask("hello")).await;
    world.chat(ask_streaming("hello")).await;
    world.chat(ask("card 4111 1111 1111 1111")).await;
    priced.kill().await;
    world.chat(ask("hello")).await;
    let drilled = format!("{PREFIX}floor_drill_succeeded{{backend=\"floor\"}}");
    while world.metric(&drilled).is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    (world, [broken, priced])
}

#[tokio::test]
async fn what_is_rendered_is_what_the_page_promises() {
    let (world, _clouds) = busy().await;
    assert_eq!(rendered(&world.metrics()), promised());
}

#[tokio::test]
async fn tokens_cost_and_degradation_are_counted_once() {
    let (world, _clouds) = busy().await;
    let text = world.metrics();
    let value = |line: &str| {
        let line = format!("{PREFIX}{line}");
        world
            .metric(&line)
            .unwrap_or_else(|| panic!("{line} in\n{text}"))
    };
    let input = value(
        "tokens_total{backend=\"priced\",sovereignty_class=\"cloud_domestic\",privacy_level=\"public\",direction=\"input\"}",
    );
    let output = value(
        "tokens_total{backend=\"priced\",sovereignty_class=\"cloud_domestic\",privacy_level=\"public\",direction=\"output\"}",
    );
    let cost = value("cost_total{backend=\"priced\",currency=\"EUR\"}");
    assert!(input > 0.0 && output > 0.0);
    assert!((cost - (input + 2.0 * output)).abs() < 1e-6, "{cost}");
    assert!((value("degraded_requests_total{reason=\"floor_only\"}") - 1.0).abs() < 1e-9);
    assert!(
        (value("decisions_total{privacy_level=\"restricted\",task=\"chat\"}") - 1.0).abs() < 1e-9
    );
    assert!(
        (value("request_duration_seconds_count{surface=\"chat\",outcome=\"ok\"}") - 4.0).abs()
            < 1e-9
    );
    assert!((value("floor_ready") - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn a_backend_is_described_by_what_is_declared_and_what_its_file_states() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud_with("known", &cloud, 0.9, |backend| {
            backend.hardware_vendor = Some(String::from("google"));
            let mut other = backend.models[0].clone();
            other.name = String::from("other");
            other.family = Some(String::from("gemini"));
            backend.models[0].family = Some(String::from("claude"));
            backend.models.insert(0, other);
        })
        .cloud("silent", &cloud, 0.9)
        .floor()
        .start();
    let told = |labels: &str| world.metric(&format!("{PREFIX}backend_info{{{labels}}}"));
    for labels in [
        "backend=\"known\",provider=\"known inc\",jurisdiction=\"DE\",family=\"claude+gemini\",hardware_vendor=\"google\"",
        "backend=\"silent\",provider=\"silent inc\",jurisdiction=\"DE\",family=\"unknown\",hardware_vendor=\"unknown\"",
        "backend=\"floor\",provider=\"unknown\",jurisdiction=\"unknown\",family=\"llama\",hardware_vendor=\"unknown\"",
    ] {
        assert_eq!(told(labels), Some(1.0), "{labels} in\n{}", world.metrics());
    }
    assert!(!world.metrics().contains("concentration_limit"));
}

#[tokio::test]
async fn of_several_limits_of_concentration_the_lowest_is_told() {
    let world = world().floor().start();
    let mut newer = (*world.store.current()).clone();
    for share in [0.9, 0.6, 0.7] {
        let mut policy = (*newer.policies[0]).clone();
        policy.max_share = Some(share);
        newer.policies.push(Arc::new(policy));
    }
    world.store.replace(newer);
    assert_eq!(
        world.metric(&format!("{PREFIX}concentration_limit")),
        Some(0.6)
    );
}

#[tokio::test]
async fn a_request_that_no_backend_may_serve_is_counted_and_a_fault_of_its_caller_is_not() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world().cloud("only", &cloud, 0.9).start();
    let unserved = |level: &str, reason: &str| {
        let line =
            format!("{PREFIX}unserved_total{{privacy_level=\"{level}\",reason=\"{reason}\"}}");
        world.metric(&line)
    };
    assert_eq!(unserved("restricted", "policy_denied"), Some(0.0));
    assert_eq!(
        world.chat(ask("card 4111 1111 1111 1111")).await.status,
        403
    );
    let mut unknown = ask("hello");
    unknown["model"] = serde_json::json!("nobody-serves-this");
    assert_eq!(world.chat(unknown).await.status, 404);
    assert_eq!(unserved("restricted", "policy_denied"), Some(1.0));
    assert_eq!(unserved("public", "policy_denied"), Some(0.0));
    assert_eq!(unserved("public", "no_backend"), Some(0.0));
    assert_eq!(cloud.requests().len(), 0, "nothing was sent");
}
