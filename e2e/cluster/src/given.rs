//! A cluster that somebody else runs, named by `KUBECONFIG`: it is used with what kubectl can do, in a
//! namespace of its own. Refuses what only the owner of a cluster can do.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::namespace::{Namespace, enter_network};
use crate::process::run;
use crate::{Cluster, Options, Tier, Whose, state, tool};

/// Holds the `KUBECONFIG` that this crate gave to a child process, which so does not mistake it for the
/// user's.
pub(crate) const OURS: &str = "MESH_CLUSTER_KUBECONFIG";

/// How often, and how long between, somebody is looked for who makes ServiceAccounts.
const PATIENCE: u32 = 8;
const STEP: Duration = Duration::from_millis(250);

/// What is used of it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) namespace: String,
    kubectl: PathBuf,
    /// Its network, if it is one that `cargo xtask cluster up` started.
    network: Option<Namespace>,
    /// What its API server was asked, if it is such a one.
    pub(crate) record: Option<PathBuf>,
    /// The part of the user's file that is in use.
    config: Value,
}

/// The user's `KUBECONFIG`.
pub(crate) fn kubeconfig() -> Option<OsString> {
    let ours = std::env::var_os(OURS);
    users(std::env::var_os("KUBECONFIG"), ours.as_deref())
}

fn users(kubeconfig: Option<OsString>, ours: Option<&OsStr>) -> Option<OsString> {
    kubeconfig.filter(|path| !path.is_empty() && Some(path.as_os_str()) != ours)
}

/// Sets `KUBECONFIG` for a child.
pub(crate) fn set(command: &mut Command, kubeconfig: &Path) {
    command.env("KUBECONFIG", kubeconfig).env(OURS, kubeconfig);
}

impl Given {
    /// Looks at the cluster and writes a kubeconfig of our own for it.
    pub(crate) fn new(options: &Options, users: &OsStr, file: &Path) -> Result<Self> {
        ensure!(
            !options.network_policies && options.gpus.is_empty() && options.claims.is_empty(),
            "the cluster of KUBECONFIG cannot be given a policy engine or GPUs"
        );
        let kubectl = tool::kubectl()?;
        let mut view = Command::new(&kubectl);
        view.args([
            "config",
            "view",
            "--raw",
            "--flatten",
            "--minify",
            "-o",
            "json",
        ])
        .env("KUBECONFIG", users);
        let text = run(&mut view).context("KUBECONFIG cannot be read")?;
        let mut config: Value = serde_json::from_str(&text)?;
        let namespace = format!("mesh-test-{}", options.name);
        config["contexts"][0]["context"]["namespace"] = json!(namespace);
        std::fs::write(file, config.to_string())?;
        let given = Self {
            namespace,
            kubectl,
            network: network(Path::new(users)),
            record: record(Path::new(users)),
            config,
        };
        given.check(options, file)?;
        Ok(given)
    }

    /// Whether it is what the options ask for; then the namespace is made.
    fn check(&self, options: &Options, file: &Path) -> Result<()> {
        self.kubectl(file, &["get", "--raw", "/readyz"])
            .context("the cluster of KUBECONFIG does not answer")?;
        let nodes = |selector: &str| -> Result<usize> {
            let args = ["get", "nodes", "-l", selector, "-o", "name"];
            Ok(self.kubectl(file, &args)?.lines().count())
        };
        match options.tier {
            Tier::ControlPlane => {}
            Tier::FakeNodes => ensure!(
                nodes("type=kwok")? > 0,
                "the cluster of KUBECONFIG has no fake nodes (label type=kwok)"
            ),
            Tier::Nodes => {
                let (found, wanted) = (nodes("type!=kwok")?, usize::from(options.nodes));
                ensure!(
                    found >= wanted,
                    "the cluster of KUBECONFIG has {found} nodes, not {wanted}"
                );
            }
        }
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        let object = file.with_extension("namespace.json");
        std::fs::write(&object, namespace.to_string())?;
        let object = object.display().to_string();
        self.kubectl(file, &["apply", "--server-side", "-f", &object])?;
        Ok(())
    }

    /// A program that reaches it.
    pub(crate) fn enter(&self, program: &Path) -> Command {
        match self.network {
            Some(network) => enter_network(network.holder, program),
            None => Command::new(program),
        }
    }

    pub(crate) fn program(&self) -> &Path {
        &self.kubectl
    }

    fn kubectl(&self, file: &Path, args: &[&str]) -> Result<String> {
        let mut command = self.enter(&self.kubectl);
        set(&mut command, file);
        run(command.args(args))
    }

    /// The user's own rights, used in the name of another.
    pub(crate) fn kubeconfig_for(
        &self,
        file: &Path,
        user: &str,
        group: Option<&str>,
    ) -> Result<()> {
        let mut config = self.config.clone();
        let Some(entry) = config["users"][0]["user"].as_object_mut() else {
            bail!("the cluster of KUBECONFIG is entered without a user, who cannot act as {user}");
        };
        entry.insert(String::from("as"), json!(user));
        if let Some(group) = group {
            entry.insert(String::from("as-groups"), json!([group]));
        }
        Ok(std::fs::write(file, config.to_string())?)
    }

    /// Whether nothing runs in it but the API server: tests play nodes and controllers there.
    pub(crate) fn bare(&self, file: &Path) -> Result<()> {
        let nodes = self.kubectl(file, &["get", "nodes", "-o", "name"])?;
        ensure!(
            nodes.trim().is_empty(),
            "the cluster of KUBECONFIG has nodes: this test plays them, and wants an API server and nothing else"
        );
        let account = || {
            let args = [
                "get",
                "serviceaccount",
                "default",
                "--ignore-not-found",
                "-o",
                "name",
            ];
            let said = self.kubectl(file, &args)?;
            Ok::<bool, anyhow::Error>(!said.trim().is_empty())
        };
        // A controller-manager makes one in the namespace that was just made, within moments.
        for _ in 0..PATIENCE {
            ensure!(
                !account()?,
                "the cluster of KUBECONFIG has controllers: this test plays them, and wants an API server and nothing else"
            );
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Removes what was made in it, without waiting for it.
    pub(crate) fn leave(&self, file: &Path) -> Result<()> {
        let args = [
            "delete",
            "namespace",
            &self.namespace,
            "--ignore-not-found",
            "--wait=false",
        ];
        self.kubectl(file, &args).map(drop)
    }
}

impl Cluster {
    /// What the API server was asked, a JSON object a line. Of a given cluster there is none, unless `cargo xtask cluster
    /// up` started it: [`Cluster::recorded`].
    pub fn audit_log(&self) -> PathBuf {
        match &self.whose {
            Whose::Given(given) => given.record.clone(),
            Whose::Ours(_) => None,
        }
        .unwrap_or_else(|| self.state.path("audit.log"))
    }

    /// Whether that record can be read.
    ///
    /// # Errors
    /// If its owner has it.
    pub fn recorded(&self) -> Result<()> {
        match &self.whose {
            Whose::Given(Given { record: None, .. }) => {
                bail!("what the API server of KUBECONFIG is asked, its owner knows")
            }
            Whose::Given(_) | Whose::Ours(_) => Ok(()),
        }
    }

    /// Whether the user names a cluster to be used, instead of one that is started here.
    pub fn is_given() -> bool {
        kubeconfig().is_some()
    }

    /// Whether its nodes see the files of this machine: those of ours do, and those that `cargo xtask cluster up` started.
    pub fn shares_files(&self) -> bool {
        match &self.whose {
            Whose::Given(given) => given.network.is_some(),
            Whose::Ours(_) => true,
        }
    }

    /// Whether nothing runs in it but the API server, so that tests can play nodes and controllers. One of ours of
    /// [`Tier::ControlPlane`] is so.
    ///
    /// # Errors
    /// What runs in a given one.
    pub fn bare(&self) -> Result<()> {
        match &self.whose {
            Whose::Given(given) => given.bare(&self.kubeconfig),
            Whose::Ours(_) => Ok(()),
        }
    }
}

/// The folder of a cluster of ours that a kubeconfig lies in.
fn folder(kubeconfig: &Path) -> Option<&Path> {
    let folder = kubeconfig.parent()?;
    (folder.parent()? == state::root().ok()?).then_some(folder)
}

/// The network of that cluster.
fn network(kubeconfig: &Path) -> Option<Namespace> {
    let holder = state::holder(folder(kubeconfig)?, "cp")?;
    Some(Namespace { holder })
}

/// The record of that cluster.
fn record(kubeconfig: &Path) -> Option<PathBuf> {
    let record = folder(kubeconfig)?.join("audit.log");
    record.exists().then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_we_set_for_a_child_is_not_the_users() {
        let path = |text: &str| Some(OsString::from(text));
        let ours = Some(OsStr::new("/a"));
        assert_eq!(users(path("/a"), None), path("/a"));
        assert_eq!(users(path("/a"), ours), None);
        assert_eq!(users(path("/b"), ours), path("/b"), "set anew by the user");
        assert_eq!(users(path(""), None), None);
        assert_eq!(users(None, ours), None);
    }

    #[test]
    fn a_child_of_a_cluster_gets_both_variables() {
        let mut command = Command::new("true");
        set(&mut command, Path::new("/a"));
        let values: Vec<_> = command.get_envs().map(|(_, value)| value).collect();
        assert_eq!(values, vec![Some(OsStr::new("/a")); 2]);
    }
}
