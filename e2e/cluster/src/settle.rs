//! After an API server was gone, what watches it comes back by and by: each client waits longer from one
//! refusal to the next. Until kube-proxy has, connections to a Service go to pods that are no more.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{Cluster, process};

/// kube-proxy's longest wait between two tries is half of that.
const LIMIT: Duration = Duration::from_mins(1);

impl Cluster {
    /// Comes back when kube-proxy of every node knows of a Service that is made now, and of its endpoint.
    ///
    /// # Errors
    /// If there are no nodes of ours, or one does not learn of it.
    pub fn services_settled(&self) -> Result<()> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // An address that is nobody's (RFC 5737), and another one each time.
        let (name, address) = (format!("settled-{number}"), format!("192.0.2.{number}"));
        let own = self.own()?;
        self.apply_here(&json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
             "spec": {"ports": [{"port": 9}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
             "ports": [{"port": 9}], "endpoints": [{"addresses": [address]}]}]}))?;
        for node in &own.nodes {
            let known = || {
                let rules = node.namespace.sh("nft list table ip kube-proxy").ok()?;
                rules.contains(&address).then_some(())
            };
            process::until("kube-proxy knows of a new Service", LIMIT, known)
                .with_context(|| node.name())?;
        }
        let both = [format!("service/{name}"), format!("endpointslice/{name}")];
        self.kubectl(&[
            "delete",
            "-n",
            "default",
            "--wait=false",
            &both[0],
            &both[1],
        ])
        .map(drop)
        .map_err(anyhow::Error::msg)
    }
}
