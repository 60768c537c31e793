//! A real API server with the kinds, for tests: what is accepted, refused, explained and merged there.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_cluster::{Cluster, Options, Tier, tool};
use serde_json::Value;

/// Plurals of the kinds.
pub const KINDS: [&str; 3] = ["modelcaches", "inferencebackends", "sovereigntypolicies"];

/// A running API server; ended with this value.
#[derive(Debug)]
pub struct ApiServer {
    cluster: Cluster,
}

/// What kubectl came to.
#[derive(Debug)]
pub struct Said {
    /// It succeeded.
    pub good: bool,
    /// What it wrote.
    pub out: String,
    /// What it said about faults.
    pub err: String,
}

impl ApiServer {
    /// A control plane with the kinds. `None` where the machine has not what it takes, which is said.
    ///
    /// # Errors
    /// The same with `CI=true`, and if the kinds are not taken.
    pub fn start(name: &str, tier: Tier) -> Result<Option<Self>> {
        let options = Options {
            name: name.to_owned(),
            tier,
            ..Options::default()
        };
        let cluster = match Cluster::start(&options) {
            Ok(cluster) => cluster,
            Err(error) if std::env::var_os("CI").is_some() => return Err(error),
            Err(error) => {
                use std::io::Write;
                drop(writeln!(std::io::stdout(), "skipped: {error:#}"));
                return Ok(None);
            }
        };
        let this = Self { cluster };
        let manifests = root().join("crds/manifests").display().to_string();
        this.kubectl(&["apply", "--server-side", "-f", &manifests])?;
        for kind in KINDS {
            let crd = format!("crd/{kind}.inferencemesh.dev");
            this.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=20s"])?;
        }
        Ok(Some(this))
    }

    /// Runs kubectl to its end, whatever it comes to.
    ///
    /// # Errors
    /// If it could not be run.
    pub fn run(&self, args: &[&str]) -> Result<Said> {
        let done = self.cluster.kubectl_command()?.args(args).output()?;
        Ok(said(&done))
    }

    /// Runs kubectl, which must succeed; gives what it wrote.
    ///
    /// # Errors
    /// The words of a refusal.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let said = self.run(args)?;
        if !said.good {
            bail!("kubectl {}: {}", args.join(" "), said.err);
        }
        Ok(said.out)
    }

    /// One object, read.
    ///
    /// # Errors
    /// If it is not there.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Server-side apply in the name of `manager`.
    ///
    /// # Errors
    /// The words of a refusal.
    pub fn apply(&self, object: &Value, manager: &str) -> Result<String> {
        let applied = self.cluster.apply(object, manager);
        applied.map_err(|said| anyhow::anyhow!("{said}"))
    }

    /// Writes a file beside the cluster's state and gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.cluster.folder().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Part of the chart as Helm renders it for release `mesh` in `mesh-system`, with these values (`a.b=c`).
    ///
    /// # Errors
    /// If Helm is not built, or refuses.
    pub fn rendered(&self, template: &str, values: &[&str]) -> Result<String> {
        let chart = root().join("charts/inference-mesh").display().to_string();
        let done = self
            .cluster
            .command(&tool::path("helm")?)
            .args(["template", "mesh", &chart, "-n", "mesh-system"])
            .args(["--show-only", &format!("templates/{template}")])
            .args(values.iter().flat_map(|value| ["--set", value]))
            .output()?;
        let said = said(&done);
        if !said.good {
            bail!("helm: {}", said.err);
        }
        Ok(said.out)
    }
}

fn said(done: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        good: done.status.success(),
        out: text(&done.stdout),
        err: text(&done.stderr),
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Looks until `found` gives something. For what kubectl cannot wait for.
///
/// # Errors
/// If it does not within half a minute.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Some(value) = found() {
            return Ok(value);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None.with_context(|| format!("{what}: not within half a minute"))
}
