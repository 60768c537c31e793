//! What real clusters have and a machine without GPUs and a network plugin has not: an engine for
//! NetworkPolicies, and GPUs that do not exist, by device plugin and by dynamic resource allocation. Our
//! own programs in `e2e/tools/standins`. For tests only: nothing here defends anything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::{self, Daemon};
use crate::{Cluster, Options, Vendor, tool};

/// The nftables table of the engine.
const TABLE: &str = "mesh-policies";
const ENGINE: &str = "policies";
const LIMIT: Duration = Duration::from_secs(30);

impl Cluster {
    /// Switches the enforcement of NetworkPolicies on or off on all nodes; comes back when it is so. Off is
    /// how a cluster starts: policies are accepted and mean nothing, as with many network plugins.
    ///
    /// # Errors
    /// If there are no real nodes of ours, or a node refuses the rules.
    pub fn enforce_network_policies(&self, on: bool) -> Result<()> {
        let own = self.own()?;
        let engine = own
            .engine
            .as_ref()
            .context("only real nodes enforce NetworkPolicies")?;
        if on && engine.alive().is_err() {
            engine.start(&self.state)?;
        }
        if !on && engine.alive().is_ok() {
            engine.kill()?;
        }
        for node in &own.nodes {
            let table = || node.namespace.sh(&format!("nft list table inet {TABLE}"));
            if on {
                process::until("NetworkPolicies are enforced", LIMIT, || table().ok())
                    .with_context(|| engine.tail())?;
            } else if table().is_ok() {
                node.namespace
                    .sh(&format!("nft delete table inet {TABLE}"))?;
            }
        }
        Ok(())
    }

    /// The engine, not yet running.
    pub(crate) fn engine(&self) -> Result<Daemon> {
        let own = self.own()?;
        let mut args = vec![format!("-kubeconfig={}", self.kubeconfig.display())];
        args.extend(
            own.nodes
                .iter()
                .map(|node| node.namespace.holder.to_string()),
        );
        let daemon = Daemon::new(ENGINE, &tool::path("policies")?, args)
            .inside(own.plane.namespace()?.holder, false)
            .logged(&self.state);
        let path = std::env::var("PATH").unwrap_or_default();
        Ok(daemon.env("PATH", &format!("{path}:/usr/sbin:/sbin")))
    }

    /// Gives every node GPUs; comes back when pods can ask for them.
    pub(crate) fn start_gpus(&mut self, options: &Options) -> Result<()> {
        for (vendor, count) in options.gpus.iter().chain(&options.claims) {
            ensure!(
                (1..=16).contains(count),
                "a node has 1 to 16 GPUs of {vendor:?}, not {count}"
            );
        }
        if !options.gpus.is_empty() {
            self.start_plugins(&options.gpus)?;
        }
        if !options.claims.is_empty() {
            self.start_drivers(&options.claims)?;
        }
        Ok(())
    }

    fn start_plugins(&mut self, gpus: &[(Vendor, u8)]) -> Result<()> {
        let word = |(vendor, count): &(Vendor, u8)| {
            let variable = vendor.variable().map(|name| format!(":{name}"));
            format!(
                "{}={count}{}",
                vendor.resource(),
                variable.unwrap_or_default()
            )
        };
        let (program, args): (_, Vec<String>) =
            (tool::path("gpus")?, gpus.iter().map(word).collect());
        for (node, state) in self.nodes_mut()? {
            let daemon = Daemon::new(&format!("gpus-{}", node.name()), &program, args.clone());
            node.run(daemon, state)?;
        }
        for name in self.node_names()? {
            for (vendor, count) in gpus {
                self.apply_here(&json!({"apiVersion": "v1", "kind": "Node",
                    "metadata": {"name": name, "labels": vendor.labels(*count)}}))?;
                let path = format!(
                    "jsonpath={{.status.allocatable.{}}}",
                    vendor.resource().replace('.', "\\.")
                );
                process::until("a node has its GPUs", LIMIT, || {
                    let said = self.kubectl(&["get", "node", &name, "-o", &path]).ok()?;
                    (said == count.to_string()).then_some(())
                })?;
            }
        }
        Ok(())
    }

    fn start_drivers(&mut self, claims: &[(Vendor, u8)]) -> Result<()> {
        let classes: Vec<Value> = claims.iter().map(|(vendor, _)| vendor.class()).collect();
        self.apply_here(&json!({"apiVersion": "v1", "kind": "List", "items": classes}))?;
        let program = tool::path("claims")?;
        let kubeconfig = self.kubeconfig.clone();
        let mut files = Vec::new();
        for (vendor, count) in claims {
            let file = self.state.path(&format!("{}.json", vendor.driver()));
            let devices = json!({"driver": vendor.driver(), "devices": vendor.devices(*count)});
            std::fs::write(&file, devices.to_string())?;
            files.push(file.display().to_string());
        }
        for (node, state) in self.nodes_mut()? {
            let name = node.name();
            let mut args = vec![
                format!("-kubeconfig={}", kubeconfig.display()),
                format!("-node={name}"),
            ];
            args.extend(files.iter().cloned());
            node.run(
                Daemon::new(&format!("claims-{name}"), &program, args),
                state,
            )?;
        }
        for name in self.node_names()? {
            for (vendor, _) in claims {
                let chosen = format!(
                    "--field-selector=spec.nodeName={name},spec.driver={}",
                    vendor.driver()
                );
                process::until("a node's devices are published", LIMIT, || {
                    let said = self.kubectl(&["get", "resourceslices", &chosen, "-o", "name"]);
                    said.ok().filter(|said| !said.trim().is_empty())
                })?;
            }
        }
        Ok(())
    }
}
