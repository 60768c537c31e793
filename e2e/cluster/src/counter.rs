//! Counts the packets that leave for an address, behind whatever the policy engine lets through.

use anyhow::{Context, Result, ensure};

use crate::Cluster;

/// The nftables table of the counters.
const TABLE: &str = "mesh-count";

impl Cluster {
    /// From now on counts the packets that get from pods of one address to another, on all nodes.
    ///
    /// # Errors
    /// If there are no real nodes of ours, or these are not addresses.
    pub fn count_packets(&self, from: &str, to: &str) -> Result<()> {
        for text in [from, to] {
            let good = text.parse::<std::net::Ipv4Addr>().is_ok();
            ensure!(good, "{text} is not an address");
        }
        // Later than the engine's chain, so that what that dropped is not seen.
        let chain = format!(
            "type filter hook forward priority 10; policy accept; ip saddr {from} ip daddr {to} counter;"
        );
        let table = format!("table inet {TABLE}");
        let rules =
            format!("add {table}\ndelete {table}\n{table} {{\nchain forward {{\n{chain}\n}}\n}}");
        for node in &self.own()?.nodes {
            node.namespace.sh(&format!("echo '{rules}' | nft -f -"))?;
        }
        Ok(())
    }

    /// How many there were since.
    ///
    /// # Errors
    /// If nothing is counted.
    pub fn counted_packets(&self) -> Result<u64> {
        let mut sum = 0;
        for node in &self.own()?.nodes {
            let text = node.namespace.sh(&format!("nft list table inet {TABLE}"))?;
            let after = text.split_once("counter packets ");
            let number = after.and_then(|(_, rest)| rest.split(' ').next());
            sum += number.context("nothing is counted")?.parse::<u64>()?;
        }
        Ok(sum)
    }
}
