//! Counts packets behind whatever the policy engine lets through: those that get to an address, or all that leave the
//! cluster.

use anyhow::{Result, bail, ensure};

use crate::Cluster;
use crate::control_plane::SERVICES;

/// The nftables table of the counters.
const TABLE: &str = "mesh-count";
/// Addresses of nodes and of the control plane, and of pods.
const NODES: &str = "10.77.0.0/24";
const PODS: &str = "10.78.0.0/16";

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
        self.count(&[(
            "forward",
            &[
                format!("ip saddr {from} ip daddr {to}"),
                format!("ip daddr {to} tcp flags & psh == psh"),
            ],
        )])
    }

    /// From now on counts, instead, what would leave the cluster, on all nodes: packets of pods, and of the nodes
    /// themselves, which would be theirs if they looked for an image.
    ///
    /// # Errors
    /// If there are no real nodes of ours.
    pub fn count_departures(&self) -> Result<()> {
        // What a node tells all its neighbors goes no further than they.
        let inside =
            format!("127.0.0.0/8, 224.0.0.0/4, 255.255.255.255, {NODES}, {PODS}, {SERVICES}");
        let away = format!("ip daddr != {{ {inside} }}");
        let of_pods = format!("ip saddr {PODS} {away}");
        self.count(&[("forward", &[of_pods]), ("output", &[away])])
    }

    /// A counter each for what matches at a hook.
    fn count(&self, hooks: &[(&str, &[String])]) -> Result<()> {
        let table = format!("table inet {TABLE}");
        let mut rules = format!("add {table}\ndelete {table}\n{table} {{\n");
        for (hook, matching) in hooks {
            // Later than the engine's chain, so that what that dropped is not seen.
            let head =
                format!("chain {hook} {{\ntype filter hook {hook} priority 10; policy accept;\n");
            rules.push_str(&head);
            for one in *matching {
                rules.extend([one, " counter;\n"]);
            }
            rules.push_str("}\n");
        }
        rules.push('}');
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
        for counters in self.counters()? {
            let [of_pod, data] = counters[..] else {
                bail!("something else is counted");
            };
            sum.of_pod += of_pod;
            sum.data += data;
        }
        Ok(sum)
    }

    /// How many would have left since.
    ///
    /// # Errors
    /// If nothing is counted.
    pub fn counted_departures(&self) -> Result<u64> {
        Ok(self.counters()?.concat().iter().sum())
    }

    /// What is counted, by node.
    fn counters(&self) -> Result<Vec<Vec<u64>>> {
        let mut all = Vec::new();
        for node in &self.own()?.nodes {
            let text = node.namespace.sh(&format!("nft list table inet {TABLE}"))?;
            let counters = text.split("counter packets ").skip(1);
            let numbers = counters.map(|after| after.split(' ').next().unwrap_or_default().parse());
            let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
            ensure!(!numbers.is_empty(), "nothing is counted");
            all.push(numbers);
        }
        Ok(all)
    }
}
