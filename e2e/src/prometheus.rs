//! Debian's Prometheus with the rules of the chart, on this machine's own network: scrapes addresses that a test gives it
//! and says which alerts fire. Refuses a rule that is not as the test believes it to be.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::child::end;
use crate::http::Connection;

/// Where Debian puts it.
const PROGRAM: &str = "/usr/bin/prometheus";

/// Ends with this value.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    api: String,
}

/// The rules of the chart with these words in place of others, and every `for` two seconds long.
///
/// # Errors
/// If the rules do not say something that is to be replaced.
pub fn rules(shorter: &[(&str, &str)]) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut rules = std::fs::read_to_string(root.join("charts/inference-mesh/files/rules.yaml"))?;
    for (chart, here) in shorter {
        ensure!(rules.contains(chart), "no rule says {chart} any more");
        rules = rules.replace(chart, here);
    }
    let short = |line: &str| {
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        if trimmed.starts_with("for: ") {
            format!("{indent}for: 2s\n")
        } else {
            format!("{line}\n")
        }
    };
    Ok(rules.lines().map(short).collect())
}

impl Prometheus {
    /// Starts it in a folder of its own. Targets: address, and labels as a discovery would give them.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn start(folder: &Path, rules: &str, targets: &[(&str, Value)]) -> Result<Self> {
        mesh_cluster::tool::prometheus()?;
        std::fs::create_dir_all(folder)?;
        let targets: Vec<Value> = targets
            .iter()
            .map(|(address, labels)| json!({"targets": [address], "labels": labels}))
            .collect();
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "mesh", "static_configs": targets}],
        });
        std::fs::write(folder.join("rules.yaml"), rules)?;
        // What is JSON is YAML.
        let file = folder.join("prometheus.yaml");
        std::fs::write(&file, config.to_string())?;
        // It takes no port 0.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(PROGRAM)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .spawn()
            .context("could not start Prometheus")?;
        Ok(Self {
            child,
            api: format!("http://{address}"),
        })
    }

    /// Labels of the alerts that fire; an error while it cannot be asked.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn firing(&self) -> Result<Vec<Value>> {
        let alerts = self.get("/api/v1/alerts")?;
        let all = alerts["alerts"].as_array().context("alerts")?.iter();
        let firing = all.filter(|one| one["state"] == "firing");
        Ok(firing.map(|one| one["labels"].clone()).collect())
    }

    /// The number that a query has now, if it has exactly one.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn number(&self, query: &str) -> Result<Option<f64>> {
        let mut escaped = String::new();
        for byte in query.bytes() {
            write!(escaped, "%{byte:02X}")?;
        }
        let data = self.get(&format!("/api/v1/query?query={escaped}"))?;
        let value = data.pointer("/result/0/value/1").and_then(Value::as_str);
        Ok(value.map(str::parse).transpose()?)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = Connection::open(&self.api)?.send("GET", path, &[], b"")?;
        let answer: Value = serde_json::from_slice(&answer.body)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].clone())
    }

    /// How long a test waits for it: a scrape, a round of the rules and their `for`, on a busy machine.
    pub const PATIENCE: Duration = Duration::from_mins(1);
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
