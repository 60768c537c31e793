//! A running `mesh-operator run` against a test cluster, with the rights that the chart grants and no
//! more: its user is the ServiceAccount's name, bound by the chart's own rules, so that a missing right
//! shows. Refuses to wait forever for anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_cluster::{Cluster, tool};

use crate::child::{self, Output, end, signal};
use crate::http::{Connection, Response};

/// The environment variable that names the built operator for this crate's tests.
pub const BINARY: &str = "MESH_OPERATOR";
/// The namespace of the mesh in tests.
pub const HOME: &str = "mesh-system";
/// Whom the chart's rules are bound to.
pub const USER: &str = "system:serviceaccount:mesh-system:mesh-operator";

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);
/// Lines of its log that a failed test shows.
const SHOWN: usize = 25;
const ADMIN: &str = "admin on http://";
const SIGNING: &str = "signing on https://";
const KINDS: [&str; 3] = ["modelcaches", "inferencebackends", "sovereigntypolicies"];

/// The operator under test: `MESH_OPERATOR`, as set by `cargo xtask test`.
pub fn binary() -> Option<PathBuf> {
    std::env::var_os(BINARY).map(PathBuf::from)
}

/// Puts the kinds, the namespace of the mesh and the chart's rules into a cluster; waits until the kinds
/// are served.
pub fn install(cluster: &Cluster) -> Result<()> {
    kinds(cluster)?;
    let namespace =
        serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}});
    said(cluster.apply(&namespace, "e2e"))?;
    let rules = cluster.folder().join("rbac.yaml");
    std::fs::write(&rules, rendered(cluster, "templates/rbac.yaml")?)?;
    let rules = rules.display().to_string();
    said(cluster.kubectl(&["apply", "--server-side", "-f", &rules])).map(drop)
}

/// Puts the chart's admission policies into a cluster.
pub fn admission(cluster: &Cluster) -> Result<()> {
    let file = cluster.folder().join("admission.yaml");
    let text = rendered(cluster, "templates/admission.yaml")?;
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    said(cluster.kubectl(&["apply", "--server-side", "-f", &file])).map(drop)
}

/// Puts the kinds into a cluster and waits until they are served.
pub fn kinds(cluster: &Cluster) -> Result<()> {
    let manifests = root()?.join("crds/manifests").display().to_string();
    said(cluster.kubectl(&["apply", "--server-side", "-f", &manifests]))?;
    let kinds = KINDS.map(|kind| format!("crd/{kind}.inferencemesh.dev"));
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=20s"];
    wait.extend(kinds.iter().map(String::as_str));
    said(cluster.kubectl(&wait)).map(drop)
}

fn root() -> Result<PathBuf> {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(e2e.parent().context("e2e lies in the checkout")?.to_owned())
}

/// One template of the chart, as Helm renders it.
pub fn rendered(cluster: &Cluster, template: &str) -> Result<String> {
    rendered_with(cluster, template, &[])
}

/// The same with these values, as `a.b=c`.
pub fn rendered_with(cluster: &Cluster, template: &str, values: &[&str]) -> Result<String> {
    let root = root()?;
    let home = cluster.folder().join("helm");
    let done = Command::new(tool::obtain("helm")?)
        .args(["template", "mesh"])
        .arg(root.join("charts/inference-mesh"))
        .args(["--namespace", HOME, "--show-only", template])
        .args(values.iter().flat_map(|value| ["--set", value]))
        .env("HELM_CACHE_HOME", &home)
        .env("HELM_CONFIG_HOME", &home)
        .env("HELM_DATA_HOME", &home)
        .output()?;
    if !done.status.success() {
        bail!("helm: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// kubectl's words as an error.
fn said(outcome: Result<String, String>) -> Result<String> {
    outcome.map_err(anyhow::Error::msg)
}

/// How an operator is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose rights it has, and where the API server is.
    pub kubeconfig: PathBuf,
    /// Name of the replica.
    pub identity: String,
    /// Further variables of its environment.
    pub env: Vec<(String, String)>,
}

impl Settings {
    /// An operator of this name with the rights of the chart.
    pub fn new(cluster: &Cluster, identity: &str) -> Result<Self> {
        Ok(Self {
            kubeconfig: cluster.user_kubeconfig(USER, Some("system:serviceaccounts"))?,
            identity: identity.to_owned(),
            env: Vec::new(),
        })
    }

    /// The same with one more variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, asking another address.
    pub fn through(mut self, kubeconfig: &Path) -> Self {
        kubeconfig.clone_into(&mut self.kubeconfig);
        self
    }
}

/// A child process that reconciles; ended when dropped.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    output: Output,
    /// `http://127.0.0.1:PORT` of the admin port.
    pub admin: String,
}

impl Operator {
    /// Starts it and waits until its admin port is open. It need not lead yet.
    pub fn start(binary: &Path, settings: &Settings) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("run");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MESH_") {
                command.env_remove(name);
            }
        }
        command
            .env("KUBECONFIG", &settings.kubeconfig)
            .env("MESH_NAMESPACE", HOME)
            .env("MESH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("MESH_SIGN_LISTEN", "127.0.0.1:0")
            .env("MESH_POD_NAME", &settings.identity)
            // Who asks it here needs no time to learn that it ends.
            .env("MESH_DRAIN_DELAY", "0s")
            .env("MESH_WORKER_IMAGE", "inferencemesh.local/worker:test")
            .env(
                "MESH_WORKER_FLOOR_IMAGE",
                "inferencemesh.local/worker-floor:test",
            )
            .envs(settings.env.iter().map(|(name, value)| (name, value)));
        let (mut child, output) = child::spawn(&mut command)?;
        let text = output.wait(START, |text| text.contains(ADMIN));
        let Some(address) = address(&text) else {
            end(&mut child);
            bail!("the operator did not say `{ADMIN}…`; it wrote:\n{text}");
        };
        Ok(Self {
            child,
            output,
            admin: format!("http://{address}"),
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote so far.
    pub fn written(&self) -> String {
        self.output.text()
    }

    /// Waits for a line that contains `part`.
    pub fn wait_for(&self, part: &str, limit: Duration) -> Result<()> {
        let text = self.output.wait(limit, |text| text.contains(part));
        if !text.contains(part) {
            bail!("`{part}` was not written within {limit:?}; it wrote:\n{text}");
        }
        Ok(())
    }

    /// Where it signs certificates, by the name that the test gave it in `MESH_SIGN_HOSTS`.
    pub fn signs(&self, host: &str) -> Result<String> {
        self.wait_for(SIGNING, START)?;
        let text = self.written();
        let port = after(&text, SIGNING).and_then(|address| address.rsplit_once(':'));
        let (_, port) = port.context("it says where it signs")?;
        Ok(format!("https://{host}:{port}"))
    }

    /// Waits until it leads.
    pub fn leads(&self, limit: Duration) -> Result<()> {
        self.wait_for("\"message\":\"leading\"", limit)
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        end(&mut self.child);
    }

    /// SIGTERM, as a pod gets it; gives how it ended.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        signal(self.pid(), "TERM")?;
        self.ended(STOP)
    }

    /// The same, without waiting for its end.
    pub fn ask_to_end(&self) -> Result<()> {
        signal(self.pid(), "TERM")
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let text = self.output.wait(limit, |_| false);
        if self.output.open() {
            bail!("the operator still ran after {limit:?}; it wrote:\n{text}");
        }
        Ok(self.child.wait()?)
    }

    /// Asks the admin port.
    pub fn get(&self, path: &str) -> Result<Response> {
        Connection::open(&self.admin)?.send("GET", path, &[], b"")
    }

    /// One number of `/metrics`, by its name and labels as they are written; 0 if it was never counted.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?.text();
        let line = text.lines().find_map(|line| {
            let rest = line.strip_prefix("mesh_operator_")?.strip_prefix(name)?;
            rest.strip_prefix(' ')
        });
        Ok(line.map(str::parse).transpose()?.unwrap_or_default())
    }

    /// How many objects it wrote so far, of all kinds.
    pub fn writes(&self) -> Result<usize> {
        let text = self.get("/metrics")?.text();
        let counted = text
            .lines()
            .filter(|line| line.starts_with("mesh_operator_api_writes_total{"));
        let numbers = counted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
        Ok(numbers.sum())
    }

    /// Waits until `/readyz` says this: its code, and a part of its text.
    pub fn readiness(&self, code: u16, part: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.get("/readyz")?;
            if answer.status == code && answer.text().contains(part) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "not {code} with `{part}` within {limit:?} but {}: {}",
                    answer.status,
                    answer.text()
                );
            }
            std::thread::sleep(STEP);
        }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: u64 = kilobytes.context("a process has memory")?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let (_, after) = stat.rsplit_once(") ").context("a process has a state")?;
        // utime and stime, in hundredths of a second: proc_pid_stat(5).
        let ticks = after.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            let text = self.written();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            // Nothing can be done if standard error is closed.
            drop(writeln!(
                std::io::stderr(),
                "the operator wrote last:\n{}",
                last.join("\n")
            ));
        }
    }
}

fn address(text: &str) -> Option<&str> {
    after(text, ADMIN)
}

/// The address that is written behind some words.
pub(crate) fn after<'t>(text: &'t str, words: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(words)?;
    rest.split(['"', '\n', ' ', '/']).next()
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn the_admin_port_is_found_in_a_line_of_json() {
        let line = r#"{"level":"INFO","message":"admin on http://127.0.0.1:4711","target":"mesh_operator"}"#;
        assert_eq!(address(line), Some("127.0.0.1:4711"));
        assert_eq!(address("nothing"), None);
    }
}
