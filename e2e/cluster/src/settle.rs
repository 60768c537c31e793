//! After an API server was gone, what watches it comes back by and by: each client waits longer from one
//! refusal to the next. Until kube-proxy and the controllers have, connections to a Service go to pods that are no more.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{Cluster, process};

/// The longest wait of a client between two tries is half of that.
const LIMIT: Duration = Duration::from_mins(1);
/// Where pods are that every cluster with nodes has, and their label.
const PLACE: &str = "kube-system";
const DNS: &str = "kube-dns";

impl Cluster {
    /// Comes back when a Service that is made now leads to its pods on every node: its endpoints were found by
    /// the controller-manager, and kube-proxy knows of both.
    ///
    /// # Errors
    /// If there are no nodes of ours, or one does not learn of it.
    pub fn services_settled(&self) -> Result<()> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let name = format!("settled-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let own = self.own()?;
        self.apply_here(&json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": PLACE},
            "spec": {"selector": {"k8s-app": DNS}, "ports": [{"port": 9, "targetPort": 53}]}}))?;
        // A Service has a chain once it has endpoints.
        let chain = format!("{PLACE}/{name}/tcp/ {{");
        for node in &own.nodes {
            let known = || {
                let rules = node.namespace.sh("nft list table ip kube-proxy").ok()?;
                rules.contains(&chain).then_some(())
            };
            process::until("a new Service leads to its pods", LIMIT, known)
                .with_context(|| node.name())?;
        }
        self.kubectl(&["delete", "service", "-n", PLACE, "--wait=false", &name])
            .map(drop)
            .map_err(anyhow::Error::msg)
    }
}
