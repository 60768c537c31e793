//! A cluster that somebody else runs, named by `KUBECONFIG`: it is used with what kubectl can do, in a
//! namespace of its own. Refuses what only the owner of a cluster can do.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::namespace::{Namespace, enter_network};
use crate::process::run;
use crate::{Options, Tier, state, tool};

/// Holds the `KUBECONFIG` that this crate gave to a child process, which so does not mistake it for the
/// user's.
pub(crate) const OURS: &str = "MESH_CLUSTER_KUBECONFIG";

/// What is used of it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) namespace: String,
    kubectl: PathBuf,
    /// Its network, if it is one that `cargo xtask cluster up` started.
    network: Option<Namespace>,
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

/// The network of the cluster whose folder a kubeconfig lies in.
fn network(kubeconfig: &Path) -> Option<Namespace> {
    let folder = kubeconfig.parent()?;
    let ours = folder.parent()? == state::root().ok()?;
    let holder = ours.then(|| state::holder(folder, "cp")).flatten()?;
    Some(Namespace { holder })
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
