//! What the dashboards ask has an answer, and the rules of the chart are computed.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::chapter::{ask, recorded, sidecar};
use crate::world::{APP, HOME, TEAM, World, until};

/// Clouds of this chapter: one that costs, one that is gone.
const PAID: (&str, &str) = ("paid-cloud", "paid");
const GONE: (&str, &str) = ("gone-cloud", "gone");
/// A namespace that is confined and asks for sidecars.
const WATCHED: &str = "watched";

/// A query as Prometheus gets it.
fn short(query: &str) -> String {
    let query = query.replace("$namespace", ".*");
    let query = query.replace("$__range", "5m");
    query.replace("$__rate_interval", "2m")
}

/// The first query of a panel.
pub(crate) fn panel(world: &World, page: &str, title: &str) -> String {
    let file = world.path(&format!(
        "charts/inference-mesh/files/dashboards/{page}.json"
    ));
    let page: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut panels = page["panels"].as_array().unwrap().iter();
    let panel = panels.find(|panel| panel["title"] == title).unwrap();
    short(text(&panel["targets"][0]["expr"]))
}

/// What the panels ask, as Grafana would ask it over the last minutes.
fn queries(world: &World) -> BTreeSet<String> {
    let folder = world.path("charts/inference-mesh/files/dashboards");
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let page: Value =
            serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for panel in page["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                all.insert(short(text(&target["expr"])));
            }
        }
    }
    assert!(all.len() > 40, "{}", all.len());
    all
}

/// Requests of every kind that a panel counts, and a change for the operator, again and again while Prometheus looks.
fn traffic(world: &World, round: usize) {
    let change = json!({"spec": {"limits": {"concurrentRequests": 100 + round}}}).to_string();
    let backend = format!("inferencebackend/{}", PAID.0);
    world.kubectl(&["patch", "-n", HOME, &backend, "--type=merge", "-p", &change]);
    for request in [
        json!({"model": "smollm2", "text": "Hello", "max_tokens": 4}),
        json!({"model": "auto", "text": "Hello", "max_tokens": 4}),
        json!({"model": "auto", "text": "Hello", "max_tokens": 4, "stream": true}),
        json!({"model": PAID.1, "text": "Hello", "max_tokens": 4}),
        // Nobody is there, so the floor answers, and says that it is less than was asked for.
        json!({"model": GONE.1, "text": "Hello", "max_tokens": 4}),
        json!({"model": "auto", "text": "Charge 4111 1111 1111 1111", "max_tokens": 4}),
    ] {
        world.ask(TEAM, &request);
    }
    sidecar::asked(world, "Hello");
}

/// What failovers, degradations and costs come from.
fn clouds(world: &World) {
    ask::cloud(world);
    ask::organization(world);
    for ((name, model), port) in [(PAID, 8000), (GONE, 8001)] {
        let mut backend = ask::backend(HOME, name);
        backend["spec"]["cloud"]["url"] = json!(format!("http://cloud.clouds.svc:{port}/v1"));
        let served = &mut backend["spec"]["models"][0];
        served["name"] = json!(model);
        served["family"] = json!("storyteller");
        served["price"] =
            json!({"inputPerMillion": "2.00", "outputPerMillion": "8.00", "currency": "EUR"});
        backend["spec"]["hardwareVendor"] = json!("nvidia");
        world.apply(&backend);
        world.wait(
            HOME,
            &format!("inferencebackend/{name}"),
            "Ready",
            Duration::from_mins(1),
        );
    }
}

/// What confinement and injection are told of: a namespace with both, and a pod that the webhook is asked about.
fn watched(world: &World) {
    let labels =
        json!({"inferencemesh.dev/inject": "enabled", "inferencemesh.dev/confine": "enabled"});
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": WATCHED, "labels": labels}}));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": HOME, "name": WATCHED},
        "spec": {
            "selector": {"namespaceSelector": {"matchLabels": {"inferencemesh.dev/confine": "enabled"}}},
            "floor": {"backendRef": {"name": "floor"}},
            "egress": {"confine": true},
        }}));
}

/// A pod that is not made: the webhook is asked all the same.
fn injected(world: &World) {
    let mut pod = world
        .python
        .pod(WATCHED, APP, Cluster::PAUSE_IMAGE, &["-c", ""]);
    pod["spec"]["serviceAccountName"] = json!("default");
    let file = format!("{}/pod.json", world.scratch("watched"));
    std::fs::write(&file, pod.to_string()).unwrap();
    world.kubectl(&["create", "--dry-run=server", "-f", &file]);
}

pub(crate) fn every_panel(world: &World) {
    sidecar::application(world);
    clouds(world);
    recorded::ledger(world);
    watched(world);
    let prometheus = world.prometheus();
    let seen = [
        "mesh_gateway_floor_ready",
        "mesh_operator_leader",
        "vllm:num_requests_running",
        "mesh_sidecar_tokens_total",
    ];
    let all = || seen.iter().all(|metric| prometheus.knows(world, metric));
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !all() {
        let late = std::time::Instant::now() > deadline;
        assert!(
            !late,
            "not all are scraped: {}",
            prometheus.diagnosis(world)
        );
        prometheus.discover(world);
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut missing = queries(world);
    let (wanted, mut round) = (missing.len(), 0);
    until("every panel has data", Duration::from_mins(2), || {
        round += 1;
        traffic(world, round);
        injected(world);
        prometheus.discover(world);
        missing.retain(|query| !prometheus.knows(world, query));
        if round % 10 == 0 {
            println!(
                "  {} of {wanted} queries have no data yet: {missing:#?}",
                missing.len()
            );
        }
        missing.is_empty().then_some(())
    });
    println!("  {wanted} queries have data after {round} rounds of requests");
    shares_are_known(world);
    rules_are_evaluated(world);
    world.kubectl(&["label", "namespace", WATCHED, "inferencemesh.dev/confine-"]);
    world.kubectl(&["delete", "-n", HOME, "sovereigntypolicy", WATCHED]);
    world.kubectl(&["delete", "namespace", WATCHED, "--wait=false"]);
    for (name, _) in [PAID, GONE] {
        world.kubectl(&["delete", "-n", HOME, "inferencebackend", name]);
    }
}

/// Whose hardware and whose model answered is known of what the chart and this story declare, and shares are shares.
fn shares_are_known(world: &World) {
    let prometheus = world.prometheus();
    for known in [
        "mesh_gateway_backend_info{backend=\"floor\", family=\"llama\", hardware_vendor=\"cpu\"}",
        "mesh_gateway_backend_info{backend=\"paid-cloud\", provider=\"scripted\", jurisdiction=\"DE\", family=\"storyteller\", hardware_vendor=\"nvidia\"}",
    ] {
        assert!(prometheus.knows(world, known), "{known}");
    }
    let mut shares = queries(world);
    shares.retain(|query| query.contains(" / on () group_left () (sum("));
    assert!(shares.len() > 4, "{shares:?}");
    for query in shares {
        let wrong = format!("({query}) > 1.000001 or ({query}) < 0");
        assert!(!prometheus.knows(world, &wrong), "no share: {query}");
    }
}

/// The rules of the chart are loaded, and none of them ends in an error.
fn rules_are_evaluated(world: &World) {
    let loaded = until("all rules were evaluated", Duration::from_secs(90), || {
        let data = world.prometheus().get(world, "rules", &[])?;
        let groups = data["groups"].as_array()?.clone();
        let rules: Vec<Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().into_iter().flatten().cloned())
            .collect();
        rules
            .iter()
            .all(|rule| rule["health"] == "ok")
            .then_some(rules)
    });
    assert!(loaded.len() > 15, "{}", loaded.len());
    let errors: Vec<&Value> = loaded
        .iter()
        .filter(|rule| !text(&rule["lastError"]).is_empty())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
