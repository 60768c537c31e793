//! A Prometheus as it stands beside many clusters: it scrapes the pods, loads the rules of
//! the chart, and is asked what the dashboards ask.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::ask;
use crate::chapter::install::text;
use crate::world::{HOME, TEAM, World, until};

/// Where it listens, in the network of the control plane.
const ADDRESS: &str = "127.0.0.1:9099";
/// Clouds of this chapter: one that costs, one that is gone.
const PAID: (&str, &str) = ("paid-cloud", "paid");
const GONE: (&str, &str) = ("gone-cloud", "gone");

/// Ends with this value.
struct Prometheus<'w> {
    world: &'w World,
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where the pods of the mesh serve their numbers, labeled as a discovery would. (Debian's Prometheus has none.)
fn targets(world: &World) -> Vec<Value> {
    let pods = world.get(&[
        "pods",
        "-A",
        "-l",
        "app.kubernetes.io/part-of=inference-mesh",
    ]);
    let pods = pods["items"].as_array().unwrap().iter();
    pods.filter(|pod| pod["status"]["phase"] == "Running")
        .map(|pod| {
            let address = format!("{}:8081", text(&pod["status"]["podIP"]));
            let labels =
                json!({"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]});
            json!({"targets": [address], "labels": labels})
        })
        .collect()
}

impl<'w> Prometheus<'w> {
    fn start(world: &'w World) -> Self {
        mesh_cluster::tool::prometheus().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yaml");
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "mesh", "honor_labels": true, "static_configs": targets(world)}],
        });
        let rules = std::fs::read_to_string(world.path("charts/inference-mesh/files/rules.yaml"));
        // Nobody here waits a minute for the next round.
        let rules = rules.unwrap().replace("interval: 1m", "interval: 1s");
        std::fs::write(folder.path().join("rules.yaml"), rules).unwrap();
        // What is JSON is YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = world
            .cluster
            .command(std::path::Path::new("/usr/bin/prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            world,
            child,
            folder,
        }
    }

    /// An answer of its API.
    fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let mut curl = self
            .world
            .cluster
            .command(std::path::Path::new("/usr/bin/curl"));
        curl.args(["--silent", "--noproxy", "*", "--max-time", "20", "--get"]);
        for (name, value) in query {
            curl.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        let done = curl
            .arg(format!("http://{ADDRESS}/api/v1/{path}"))
            .output()
            .ok()?;
        let answer: Value = serde_json::from_slice(&done.stdout).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// What it says of itself, for who has to find out why it knows nothing.
    fn diagnosis(&self) -> String {
        let targets = self
            .get("targets", &[("state", "active")])
            .unwrap_or_default();
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(12).collect();
        let active = targets["activeTargets"].as_array().into_iter().flatten();
        let states: Vec<String> = active
            .map(|one| {
                format!(
                    "{} {} {}",
                    one["scrapeUrl"], one["health"], one["lastError"]
                )
            })
            .collect();
        format!("{states:#?}\n{end:#?}")
    }

    /// True if a query has an answer that is a number.
    fn knows(&self, query: &str) -> bool {
        let data = self.get("query", &[("query", query)]).unwrap_or_default();
        let mut results = data["result"].as_array().into_iter().flatten();
        results.any(|one| {
            text(&one["value"][1])
                .parse::<f64>()
                .is_ok_and(f64::is_finite)
        })
    }
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
                let short = text(&target["expr"]).replace("$namespace", ".*");
                all.insert(
                    short
                        .replace("$__range", "5m")
                        .replace("$__rate_interval", "2m"),
                );
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
        served["price"] =
            json!({"inputPerMillion": "2.00", "outputPerMillion": "8.00", "currency": "EUR"});
        world.apply(&backend);
        world.wait(
            HOME,
            &format!("inferencebackend/{name}"),
            "Ready",
            Duration::from_mins(1),
        );
    }
}

pub(crate) fn every_panel(world: &World) {
    clouds(world);
    let prometheus = Prometheus::start(world);
    let seen = [
        "mesh_gateway_floor_ready",
        "mesh_operator_leader",
        "vllm:num_requests_running",
    ];
    let all = || seen.iter().all(|metric| prometheus.knows(metric));
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !all() {
        let late = std::time::Instant::now() > deadline;
        assert!(!late, "not all are scraped: {}", prometheus.diagnosis());
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut missing = queries(world);
    let (wanted, mut round) = (missing.len(), 0);
    until("every panel has data", Duration::from_mins(2), || {
        round += 1;
        traffic(world, round);
        missing.retain(|query| !prometheus.knows(query));
        if round % 10 == 0 {
            println!(
                "  {} of {wanted} queries have no data yet: {missing:#?}",
                missing.len()
            );
        }
        missing.is_empty().then_some(())
    });
    println!("  {wanted} queries have data after {round} rounds of requests");
    rules_are_evaluated(&prometheus);
    for (name, _) in [PAID, GONE] {
        world.kubectl(&["delete", "-n", HOME, "inferencebackend", name]);
    }
}

/// The rules of the chart are loaded, and none of them ends in an error.
fn rules_are_evaluated(prometheus: &Prometheus<'_>) {
    let loaded = until("all rules were evaluated", Duration::from_secs(90), || {
        let data = prometheus.get("rules", &[])?;
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
