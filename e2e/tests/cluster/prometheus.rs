//! A Prometheus as it stands beside many clusters: it scrapes the pods as the PodMonitors of the chart say, loads its
//! rules, and says which alerts fire. One for the whole story, from the first chapter that asks on.
//!
//! Nobody here waits for hours, so the rules run in a shorter time: every `for`, every range and the limits that are
//! ages are smaller ([`shortened`]). What is asked, of which numbers, and against which other limits is as in the chart.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_cluster::tool;
use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::world::{HOME, RELEASE, World, until};

/// Where it listens, in the network of the control plane.
const ADDRESS: &str = "127.0.0.1:9099";
/// The version of Debian's, which says what an operator may write for it.
const DEBIAN: &str = "2.42.0";
/// A folder that keeps what it saw, for who wants to look at it afterwards.
const KEEP: &str = "MESH_PROMETHEUS_DATA";
/// Until something is so and two rounds of scraping and computing have seen it.
const LIMIT: Duration = Duration::from_mins(2);
/// What is written in the chart, and what stands in its place.
const SHORTER: [(&str, &str); 9] = [
    ("interval: 1m", "interval: 1s"),
    ("[6h]", "[30s]"),
    ("[1h]", "[1m]"),
    ("[30m]", "[1m]"),
    // An operator that fails tries again ever more seldom.
    (
        "outcome=\"error\"}[15m])) > 3",
        "outcome=\"error\"}[15s])) > 0.5",
    ),
    ("[10m]", "[8s]"),
    (
        "4 * mesh_operator_egress_proof_interval_seconds + 600",
        "mesh_operator_egress_proof_interval_seconds * 0 + 25",
    ),
    // Below the shortest interval: a floor that answered when it was last asked is exempt.
    (
        "> 2 * mesh_gateway_floor_drill_interval_seconds + 60",
        "> 0.05 * mesh_gateway_floor_drill_interval_seconds",
    ),
    // A view is made anew at least every 30 seconds; where it is made all the time it is younger than this.
    ("snapshot_age_seconds) > 300", "snapshot_age_seconds) > 5"),
];
/// What every `for` becomes.
const FOR: &str = "for: 2s";

/// Ends with this value.
pub(crate) struct Prometheus {
    child: Child,
    folder: tempfile::TempDir,
    api: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The rules of the chart in a shorter time. Each replacement must be needed: one that is not is an edit of the rules
/// that nobody told here.
fn shortened(rules: &str) -> String {
    let mut rules = rules.to_owned();
    for (chart, here) in SHORTER {
        assert!(rules.contains(chart), "no rule says {chart} any more");
        rules = rules.replace(chart, here);
    }
    let short = |line: &str| match line.trim_start() {
        trimmed if trimmed.starts_with("for: ") => {
            format!("{}{FOR}\n", &line[..line.len() - trimmed.len()])
        }
        _ => format!("{line}\n"),
    };
    rules.lines().map(short).collect()
}

/// What discovery in Kubernetes finds of every pod: a target for each port of each container, with the labels that the
/// jobs of monitors choose by. Nothing while nobody can be asked. (Debian's Prometheus is built without that discovery;
/// jobs and relabeling are as the operator makes them.)
fn targets(world: &World) -> Option<Value> {
    let pods = world.try_kubectl(&["get", "pods", "-A", "-o", "json"]);
    let pods: Value = serde_json::from_str(&pods.ok()?).ok()?;
    let pods = pods["items"].as_array()?.iter();
    let addressed = pods.filter(|pod| pod["status"]["podIP"].is_string());
    Some(addressed.flat_map(ports).collect())
}

fn ports(pod: &Value) -> Vec<Value> {
    let mut labels = json!({
        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
        "__meta_kubernetes_pod_uid": pod["metadata"]["uid"],
        "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
    });
    for (name, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
        let name = name.replace(|other: char| !other.is_ascii_alphanumeric(), "_");
        labels[format!("__meta_kubernetes_pod_label_{name}")] = value.clone();
        labels[format!("__meta_kubernetes_pod_labelpresent_{name}")] = json!("true");
    }
    let of = |kind: &str| pod["spec"][kind].as_array().into_iter().flatten();
    let containers = of("containers").chain(of("initContainers"));
    let target = |container: &Value, port: &Value| {
        let mut labels = labels.clone();
        labels["__meta_kubernetes_pod_container_name"] = container["name"].clone();
        labels["__meta_kubernetes_pod_container_port_name"] =
            json!(port["name"].as_str().unwrap_or_default());
        let address = format!(
            "{}:{}",
            text(&pod["status"]["podIP"]),
            port["containerPort"]
        );
        json!({"targets": [address], "labels": labels})
    };
    containers
        .flat_map(|one| {
            let ports = one["ports"].as_array().into_iter().flatten();
            ports.map(|port| target(one, port)).collect::<Vec<_>>()
        })
        .collect()
}

/// What an operator would have this Prometheus scrape, by the monitors that the chart renders.
fn jobs(world: &World, targets: &Path) -> Value {
    let chart = world.path("charts/inference-mesh");
    let monitors = world.helm(&[
        "template",
        RELEASE,
        &chart,
        "--namespace",
        HOME,
        "--api-versions",
        "monitoring.coreos.com/v1/PodMonitor",
        "--set",
        "monitoring.podMonitor.enabled=true,monitoring.podMonitor.interval=1s",
        "--show-only",
        "templates/monitoring.yaml",
    ]);
    let mut child = Command::new(tool::obtain("scrape").unwrap())
        .args([Path::new(DEBIAN), targets])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(monitors.as_bytes()).unwrap();
    drop(input);
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "of {monitors}");
    serde_json::from_slice(&done.stdout).unwrap()
}

impl Prometheus {
    pub(crate) fn start(world: &World) -> Self {
        tool::prometheus().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut config = jobs(world, &path("targets.json"));
        config["rule_files"] = json!(["rules.yaml"]);
        let rules = std::fs::read_to_string(world.path("charts/inference-mesh/files/rules.yaml"));
        std::fs::write(path("rules.yaml"), shortened(&rules.unwrap())).unwrap();
        // What is JSON is YAML.
        std::fs::write(path("prometheus.yaml"), config.to_string()).unwrap();
        let data = std::env::var_os(KEEP).map_or_else(|| path("data"), PathBuf::from);
        let child = world
            .cluster
            .command(Path::new("/usr/bin/prometheus"))
            .arg(format!(
                "--config.file={}",
                path("prometheus.yaml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let started = Self {
            child,
            folder,
            api: format!("http://{ADDRESS}/api/v1"),
        };
        started.discover(world);
        let ready = || started.get(world, "status/buildinfo", &[]);
        until("Prometheus answers", LIMIT, ready);
        started
    }

    /// Tells it which pods there are now. Those that are gone do no harm: it cannot reach them and says nothing of them.
    pub(crate) fn discover(&self, world: &World) {
        let Some(found) = targets(world) else { return };
        let (part, whole) = (
            self.folder.path().join("targets.part"),
            self.folder.path().join("targets.json"),
        );
        std::fs::write(&part, found.to_string()).unwrap();
        std::fs::rename(part, whole).unwrap();
    }

    /// An answer of its API.
    pub(crate) fn get(&self, world: &World, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let mut curl: Command = world.cluster.command(Path::new("/usr/bin/curl"));
        curl.args(["--silent", "--noproxy", "*", "--max-time", "20", "--get"]);
        for (name, value) in query {
            curl.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        let done = curl.arg(format!("{}/{path}", self.api)).output().ok()?;
        let answer: Value = serde_json::from_slice(&done.stdout).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// True if a query has an answer that is a number.
    pub(crate) fn knows(&self, world: &World, query: &str) -> bool {
        let data = self.get(world, "query", &[("query", query)]);
        let data = data.unwrap_or_default();
        let mut results = data["result"].as_array().into_iter().flatten();
        results.any(|one| {
            text(&one["value"][1])
                .parse::<f64>()
                .is_ok_and(f64::is_finite)
        })
    }

    /// What it says of itself, for who has to find out why it knows nothing.
    pub(crate) fn diagnosis(&self, world: &World) -> String {
        let targets = self.get(world, "targets", &[("state", "active")]);
        let targets = targets.unwrap_or_default();
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

    /// Alerts that fire, by name and labels.
    fn firing(&self, world: &World) -> Option<Vec<Value>> {
        let alerts = self.get(world, "alerts", &[])?;
        let alerts = alerts["alerts"].as_array()?.iter();
        let firing = alerts.filter(|one| one["state"] == "firing");
        Some(firing.map(|one| one["labels"].clone()).collect())
    }

    fn has(&self, world: &World, (alert, labels): (&str, &[(&str, &str)])) -> Option<bool> {
        self.discover(world);
        let firing = self.firing(world)?;
        let meant = |one: &Value| {
            one["alertname"] == alert && labels.iter().all(|(name, value)| one[*name] == *value)
        };
        Some(firing.iter().any(meant))
    }

    /// Holds what is so until the alert about it fires; `meanwhile` keeps it so.
    pub(crate) fn fires(
        &self,
        world: &World,
        (alert, labels): (&str, &[(&str, &str)]),
        mut meanwhile: impl FnMut(),
    ) {
        let begun = Instant::now();
        until(&format!("{alert} {labels:?} fires"), LIMIT, || {
            meanwhile();
            self.has(world, (alert, labels))?.then_some(())
        });
        println!(
            "  {alert} fires after {:.1} s",
            begun.elapsed().as_secs_f32()
        );
    }

    /// Waits until the alert does not fire, while it has no reason to; `meanwhile` keeps it so.
    pub(crate) fn silent(
        &self,
        world: &World,
        (alert, labels): (&str, &[(&str, &str)]),
        mut meanwhile: impl FnMut(),
    ) {
        let begun = Instant::now();
        until(&format!("{alert} {labels:?} is silent"), LIMIT, || {
            meanwhile();
            (!self.has(world, (alert, labels))?).then_some(())
        });
        println!(
            "  {alert} is silent after {:.1} s",
            begun.elapsed().as_secs_f32()
        );
    }

    /// Waits until no alert fires.
    pub(crate) fn quiet(&self, world: &World) {
        let (begun, mut left) = (Instant::now(), Vec::new());
        while begun.elapsed() < LIMIT {
            self.discover(world);
            match self.firing(world) {
                Some(firing) if firing.is_empty() => {
                    println!("  all silent after {:.1} s", begun.elapsed().as_secs_f32());
                    return;
                }
                Some(firing) => left = firing,
                None => {}
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("these still fire: {left:#?}");
    }
}
