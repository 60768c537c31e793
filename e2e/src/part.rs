//! A part of the mesh other than the operator as a process of its own, beside a test cluster: a gateway, or the guard of
//! a model server. What Kubernetes puts into a pod (its token, whom to trust) a folder has instead.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::child::{self, Output, end};
use crate::http::{Connection, Response};
use crate::operator::{HOME, after};
use crate::stage::Stage;

/// The variable that names the built gateway, and its name.
pub const GATEWAY: (&str, &str) = ("MESH_GATEWAY", "mesh-gateway");
/// The same of the worker, whose `guard` it is.
pub const WORKER: (&str, &str) = ("MESH_WORKER", "mesh-worker");
/// Audience of tokens for the mesh.
pub const AUDIENCE: &str = "inferencemesh.dev";

const START: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);
/// How often a folder is brought up to date: sooner than a kubelet does it.
const MIRROR: Duration = Duration::from_secs(1);
const ADMIN: &str = "admin on http://";

/// The binary under test, as set by `cargo xtask test`.
///
/// # Errors
/// If it is not set.
pub fn binary((variable, name): (&str, &str)) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.with_context(|| {
        format!("{variable} is not set; `cargo xtask test` builds {name} and sets it")
    })
}

/// A token of a ServiceAccount for the mesh, bound to a pod if one is named.
///
/// # Errors
/// If there is no such account or pod.
pub fn token(stage: &Stage, namespace: &str, account: &str, pod: Option<&str>) -> Result<String> {
    let mut args = vec![
        "create",
        "token",
        account,
        "-n",
        namespace,
        "--audience",
        AUDIENCE,
    ];
    if let Some(pod) = pod {
        args.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod]);
    }
    Ok(stage.kubectl(&args)?.trim().to_owned())
}

/// ConfigMap `mesh-trust` of the mesh namespace as a folder, kept up to date until dropped.
#[derive(Debug)]
pub struct Trust {
    /// The folder.
    pub folder: PathBuf,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Trust {
    /// Begins; what is not there yet comes as soon as it is.
    ///
    /// # Errors
    /// If there can be no such folder.
    pub fn mirror(stage: &Arc<Stage>, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let stop = Arc::<AtomicBool>::default();
        let (stage, target, stopped) = (Arc::clone(stage), folder.to_owned(), Arc::clone(&stop));
        let keeper = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // What cannot be read now is read the next time, as by a kubelet.
                drop(copy(&stage, &target));
                std::thread::sleep(MIRROR);
            }
        });
        Ok(Self {
            folder: folder.to_owned(),
            stop,
            keeper: Some(keeper),
        })
    }

    /// Authorities that are trusted now, PEM, in their order.
    pub fn authorities(&self) -> Vec<String> {
        const END: &str = "-----END CERTIFICATE-----";
        let text = std::fs::read_to_string(self.folder.join("ca.crt")).unwrap_or_default();
        let all = text.split_inclusive(END).map(str::trim);
        all.filter(|one| one.ends_with(END))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Trust {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.keeper.take().map(JoinHandle::join));
    }
}

fn copy(stage: &Stage, folder: &Path) -> Result<()> {
    let map = stage.get(&["-n", HOME, "configmap", "mesh-trust"])?;
    for (name, text) in map["data"].as_object().context("entries")? {
        let text = text.as_str().unwrap_or_default();
        let path = folder.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        let part = folder.join(".part");
        std::fs::write(&part, text)?;
        std::fs::rename(part, path)?;
    }
    Ok(())
}

/// A child process; ended when dropped.
#[derive(Debug)]
pub struct Part {
    child: Child,
    output: Output,
    /// `http://127.0.0.1:PORT` of its admin port.
    pub admin: String,
}

impl Part {
    /// Starts it and waits until its admin port is open. It has only these variables of ours.
    ///
    /// # Errors
    /// If it ends, or does not say where it listens.
    pub fn start(binary: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MESH_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("MESH_ADMIN_LISTEN", "127.0.0.1:0")
            .envs(env.iter().copied());
        let (mut child, output) = child::spawn(&mut command)?;
        let text = output.wait(START, |text| text.contains(ADMIN));
        let Some(admin) = after(&text, ADMIN).map(|address| format!("http://{address}")) else {
            end(&mut child);
            bail!(
                "{} did not say `{ADMIN}…`; it wrote:\n{text}",
                binary.display()
            );
        };
        Ok(Self {
            child,
            output,
            admin,
        })
    }

    /// Everything that it wrote so far.
    pub fn written(&self) -> String {
        self.output.text()
    }

    /// A field of the first line of its log with this message.
    ///
    /// # Errors
    /// If it does not write one.
    pub fn said(&self, message: &str, field: &str) -> Result<String> {
        let find = |text: &str| {
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut lines = lines.filter(|line| line["message"] == message);
            lines.next()?[field].as_str().map(str::to_owned)
        };
        let text = self.output.wait(START, |text| find(text).is_some());
        find(&text).with_context(|| format!("`{message}` was not written:\n{text}"))
    }

    /// Asks its admin port.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn get(&self, path: &str) -> Result<Response> {
        Connection::open(&self.admin)?.send("GET", path, &[], b"")
    }

    /// One number of `/metrics`, by its whole name and labels as they are written; none if there is none.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metric(&self, name: &str) -> Result<Option<f64>> {
        let text = self.get("/metrics")?.text();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?)
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// With its words if it does not.
    pub fn ready(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.get("/readyz")?;
            if answer.status == 200 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "not ready within {limit:?}: {}\n{}",
                    answer.text(),
                    self.written()
                );
            }
            std::thread::sleep(STEP);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
