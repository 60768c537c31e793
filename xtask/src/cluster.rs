//! `cargo xtask cluster …`: a Kubernetes to play with, and `cargo xtask tools`, which builds what it needs.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use mesh_cluster::{Cluster, Options, Tier, Vendor};

/// What to do with a cluster.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Task {
    /// Start one and leave it running.
    Up(Up),
    /// End it.
    Down {
        /// Its name.
        #[arg(long, default_value = "dev")]
        name: String,
    },
    /// Say which clusters there are.
    Status,
    /// Make images known to its nodes, as if they had pulled them: what `cargo xtask images` wrote.
    Load {
        /// Its name.
        #[arg(long, default_value = "dev")]
        name: String,
        /// OCI archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run kubectl in it.
    Kubectl {
        /// Its name.
        #[arg(long, default_value = "dev")]
        name: String,
        /// What kubectl shall do.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// End what crashed test runs left behind.
    Sweep,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Up {
    /// Its name.
    #[arg(long, default_value = "dev")]
    name: String,
    /// How much of a Kubernetes.
    #[arg(long, value_enum, default_value_t = Depth::Nodes)]
    tier: Depth,
    /// Real nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Real nodes enforce NetworkPolicies.
    #[arg(long)]
    network_policies: bool,
    /// GPUs of each real node, by device plugin; they do not exist. Such as `nvidia=2,amd=1`.
    #[arg(long, value_delimiter = ',', value_parser = gpus)]
    gpus: Vec<(Vendor, u8)>,
    /// The same for ResourceClaims.
    #[arg(long, value_delimiter = ',', value_parser = gpus)]
    claims: Vec<(Vendor, u8)>,
}

/// `VENDOR=COUNT`.
fn gpus(word: &str) -> Result<(Vendor, u8), String> {
    let (vendor, count) = word.split_once('=').unwrap_or((word, "1"));
    let vendor = match vendor {
        "nvidia" => Vendor::Nvidia,
        "amd" => Vendor::Amd,
        "intel" => Vendor::Intel,
        other => return Err(format!("{other} is not nvidia, amd or intel")),
    };
    match count.parse() {
        Ok(count @ 1..=16) => Ok((vendor, count)),
        _ => Err(format!("a node has 1 to 16 GPUs of a vendor, not {count}")),
    }
}

/// How much of a Kubernetes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Depth {
    /// etcd and the API server.
    ControlPlane,
    /// And nodes that only seem to be.
    FakeNodes,
    /// And real nodes.
    Nodes,
}

pub(crate) fn run(task: Task) -> Result<bool> {
    match task {
        Task::Up(up) => start(&up).map(|()| true),
        Task::Down { name } => {
            let there = Cluster::down(&name)?;
            println!(
                "{}",
                if there {
                    "ended"
                } else {
                    "there is none of that name"
                }
            );
            Ok(true)
        }
        Task::Status => {
            let names = Cluster::names()?;
            if names.is_empty() {
                println!("there is none: start one with `cargo xtask cluster up`");
            }
            for name in names {
                println!("{name}: {}", state(&name));
            }
            Ok(true)
        }
        Task::Load { name, archives } => {
            for archive in archives {
                let archive = std::path::absolute(archive)?;
                let count = Cluster::load(&name, &archive)?;
                println!("{}: known to {count} nodes", archive.display());
            }
            Ok(true)
        }
        Task::Kubectl { name, args } => {
            Ok(Cluster::kubectl_for(&name)?.args(args).status()?.success())
        }
        Task::Sweep => mesh_cluster::sweep::abandoned().map(|()| true),
    }
}

/// What a cluster says of itself, or why it says nothing.
fn state(name: &str) -> String {
    let counted = || -> Result<String> {
        let (nodes, ready) = count(name, &["nodes"], "Ready")?;
        let (pods, running) = count(name, &["pods", "-A"], "Running")?;
        Ok(format!(
            "{ready} of {nodes} nodes ready, {running} of {pods} pods running"
        ))
    };
    counted().unwrap_or_else(|error| format!("does not answer: {error:#}"))
}

/// How many there are, and how many in that state.
fn count(name: &str, what: &[&str], state: &str) -> Result<(usize, usize)> {
    let mut kubectl = Cluster::kubectl_for(name)?;
    kubectl
        .arg("get")
        .args(what)
        .args(["--no-headers", "--request-timeout=5s"]);
    let said = kubectl.output()?;
    ensure!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr).trim()
    );
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let good = |line: &&str| line.split_whitespace().any(|word| word == state);
    Ok((text.lines().count(), text.lines().filter(good).count()))
}

fn start(up: &Up) -> Result<()> {
    let begun = Instant::now();
    let cluster = Cluster::start_here(&Options {
        tier: match up.tier {
            Depth::ControlPlane => Tier::ControlPlane,
            Depth::FakeNodes => Tier::FakeNodes,
            Depth::Nodes => Tier::Nodes,
        },
        nodes: up.nodes,
        name: up.name.clone(),
        detached: true,
        network_policies: up.network_policies,
        gpus: up.gpus.clone(),
        claims: up.claims.clone(),
        ..Options::default()
    })?;
    println!(
        "cluster {} is up after {:.1} s",
        up.name,
        begun.elapsed().as_secs_f32()
    );
    println!("KUBECONFIG={}", cluster.kubeconfig().display());
    let name = if up.name == "dev" {
        String::new()
    } else {
        format!(" --name {}", up.name)
    };
    println!("try: cargo xtask cluster kubectl{name} -- get pods -A");
    println!("end: cargo xtask cluster down{name}");
    Ok(())
}
