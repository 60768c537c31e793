//! Counts the packets that get to an address, behind whatever the policy engine lets through.

use anyhow::{Context, Result, ensure};

use crate::Cluster;

/// The nftables table of the counters.
const TABLE: &str = "mesh-count";

/// What was counted on its way to an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets of any kind from the one pod.
    pub of_pod: u64,
    /// Packets that push data, from wherever: what keeps a connection open, or closes it, is not among them.
    pub data: u64,
}

impl Cluster {
    /// From now on counts, from zero, the packets that get to an address: those of the pod with address `from`, and
    /// those of anybody with data in them; on all nodes.
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
            "type filter hook forward priority 10; policy accept;\n\
             ip saddr {from} ip daddr {to} counter;\n\
             ip daddr {to} tcp flags & psh == psh counter;"
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
    pub fn counted_packets(&self) -> Result<Counted> {
        let mut sum = Counted::default();
        for node in &self.own()?.nodes {
            let text = node.namespace.sh(&format!("nft list table inet {TABLE}"))?;
            let mut counters = text.split("counter packets ").skip(1);
            let mut next = || -> Result<u64> {
                let after = counters.next().context("nothing is counted")?;
                let number = after.split(' ').next().unwrap_or_default();
                Ok(number.parse()?)
            };
            sum.of_pod += next()?;
            sum.data += next()?;
        }
        Ok(sum)
    }
}
