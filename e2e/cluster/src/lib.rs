//! A real Kubernetes on this machine, for tests and for trying things out: a control plane on loopback,
//! or nodes in network namespaces of their own, with kubelet, containerd, kube-proxy and CoreDNS.
//!
//! ```text
//! namespaces:  cp (10.77.0.254: etcd, kube-apiserver, …) -- br0 -- n1 (10.77.0.1, pods 10.78.1.0/24), n2 …
//! ```
//!
//! Everything is ended by process id, and a crash leaves nothing behind at the next start ([`sweep`]).
//! Refuses to touch the machine's own network, mounts and cgroups beyond folders named after the cluster.

mod certificate;
mod control_plane;
mod fake;
mod image;
mod namespace;
mod node;
mod process;
mod state;
pub mod sweep;
pub mod tool;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use image::{Image, NOBODY, build_image};
use serde_json::Value;

use crate::certificate::Authority;
use crate::control_plane::ControlPlane;
use crate::node::Node;
use crate::process::Daemon;
use crate::state::State;

/// Length of a uid in its text form (RFC 9562).
const UID: usize = 36;

/// How much of a Kubernetes is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Tier {
    /// etcd and kube-apiserver on loopback.
    #[default]
    ControlPlane,
    /// The same with controller-manager, scheduler and kwok: nodes and pods that only seem to be.
    FakeNodes,
    /// Real nodes in namespaces of their own.
    Nodes,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much.
    pub tier: Tier,
    /// Real nodes, 1 to 9; ignored by the other tiers.
    pub nodes: u8,
    /// Names the folder of its state; two clusters of one name do not live at once.
    pub name: String,
    /// It outlives this process: for a developer's cluster.
    pub detached: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tier: Tier::default(),
            nodes: 1,
            name: String::from("dev"),
            detached: false,
        }
    }
}

/// A running cluster; ended with this value unless it is detached.
#[derive(Debug)]
pub struct Cluster {
    state: State,
    control_plane: ControlPlane,
    nodes: Vec<Node>,
    detached: bool,
}

impl Cluster {
    /// Builds what is missing and starts a cluster; gives it when the API server answers and all nodes
    /// are ready.
    ///
    /// # Errors
    /// If the machine has not what it takes, with what to do about it, or something does not start: then
    /// the last lines of its log are in the message.
    pub fn start(options: &Options) -> Result<Self> {
        tool::needed(options.tier)?;
        sweep::abandoned()?;
        let state = State::create(options)?;
        let authority = Authority::new(&state.path("pki"))?;
        let control_plane = ControlPlane::start(options, &state, &authority)?;
        let mut cluster = Self {
            state,
            control_plane,
            nodes: Vec::new(),
            // What does not come up is ended, whoever wanted it to stay.
            detached: false,
        };
        cluster.control_plane.wait()?;
        match options.tier {
            Tier::ControlPlane => {}
            Tier::FakeNodes => cluster.control_plane.start_fake_nodes(&cluster.state)?,
            Tier::Nodes => cluster.start_nodes(options.nodes, &authority)?,
        }
        if options.detached {
            cluster.state.detach()?;
            cluster.detached = true;
        }
        Ok(cluster)
    }

    fn start_nodes(&mut self, count: u8, authority: &Authority) -> Result<()> {
        let images = [image::pause()?, image::dns()?];
        for number in 1..=count {
            let node = Node::start(number, &self.state, &self.control_plane, authority)?;
            self.nodes.push(node);
        }
        for node in &self.nodes {
            node.connect(count)?;
            for image in &images {
                node.import(&image.archive)?;
            }
        }
        self.control_plane.apply(&node::proxy_binding())?;
        self.control_plane.apply(&image::dns_objects())?;
        for number in 1..=count {
            let node = format!("node/n{number}");
            let ready = ["wait", "--for=condition=Ready", &node, "--timeout=60s"];
            let limit = Duration::from_mins(1);
            process::until("the node is ready", limit, || self.kubectl(&ready).ok())?;
        }
        Ok(())
    }

    /// The administrator's kubeconfig. Of a cluster with nodes it works inside its network only: see
    /// [`Cluster::kubectl_command`].
    pub fn kubeconfig(&self) -> &Path {
        &self.control_plane.kubeconfig
    }

    /// The folder of its state: logs, certificates, kubeconfigs.
    pub fn folder(&self) -> &Path {
        &self.state.folder
    }

    /// What the API server was asked, a JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.state.path("audit.log")
    }

    /// A program of the control plane's network, with the administrator's `KUBECONFIG`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.control_plane.enter(program);
        command
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null());
        command
    }

    /// `kubectl` for this cluster.
    ///
    /// # Errors
    /// If it is not built.
    pub fn kubectl_command(&self) -> Result<Command> {
        Ok(self.command(&tool::path("kubectl")?))
    }

    /// Runs kubectl to its end: what it wrote, or what it said when it refused.
    ///
    /// # Errors
    /// The words of a refusal.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let done = self
            .kubectl_command()
            .and_then(|mut command| process::run(command.args(args)));
        done.map_err(|error| format!("{error:#}"))
    }

    /// Server-side apply of an object or a list of them, in the name of `manager`.
    ///
    /// # Errors
    /// The words of a refusal.
    pub fn apply(&self, object: &Value, manager: &str) -> Result<String, String> {
        let file = self.state.path(&format!("apply-{manager}.json"));
        std::fs::write(&file, object.to_string()).map_err(|error| error.to_string())?;
        let file = file.display().to_string();
        let manager = format!("--field-manager={manager}");
        self.kubectl(&["apply", "--server-side", &manager, "-f", &file])
    }

    /// A kubeconfig of another user, signed by the cluster's authority.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn user_kubeconfig(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let authority = Authority::load(&self.state.path("pki"))?;
        self.control_plane.kubeconfig_for(&authority, user, group)
    }

    /// Makes an OCI archive known to all nodes.
    ///
    /// # Errors
    /// If containerd refuses it.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.import(archive))
    }

    /// Name of an image that is on every node and does nothing: its file system is empty.
    pub const PAUSE_IMAGE: &str = image::PAUSE;

    /// Ends a daemon as a crash would: `kill -9`. `etcd`, `kube-apiserver`, `kubelet-n1`, `containerd-n1`, ….
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn kill(&self, daemon: &str) -> Result<()> {
        self.daemon(daemon)?.kill()
    }

    /// Starts a daemon again on its data.
    ///
    /// # Errors
    /// If there is none of that name, or it does not start.
    pub fn restart(&self, daemon: &str) -> Result<()> {
        self.daemon(daemon)?.start(&self.state)
    }

    fn daemon(&self, name: &str) -> Result<&Daemon> {
        let nodes = self.nodes.iter().flat_map(|node| &node.daemons);
        let found = self
            .control_plane
            .daemons
            .iter()
            .chain(nodes)
            .find(|daemon| daemon.name == name);
        found.with_context(|| format!("there is no daemon {name}"))
    }

    /// `kill -9` for every process of a pod but its sandbox; gives how many there were.
    ///
    /// # Errors
    /// If this is no uid.
    pub fn kill_pod(&self, uid: &str) -> Result<usize> {
        ensure!(uid.len() == UID, "{uid} is not the uid of a pod");
        let ours = format!("/{}", sweep::prefix(&self.state.name));
        let plain = uid.replace('-', "_");
        Ok(process::kill_in_cgroups(|path| {
            path.contains(&ours) && (path.contains(uid) || path.contains(&plain))
        }))
    }

    /// Cuts the link of a node.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn cut(&self, node: u8) -> Result<()> {
        self.control_plane.link(node, false)
    }

    /// Heals the link of a node.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn heal(&self, node: u8) -> Result<()> {
        self.control_plane.link(node, true)
    }

    /// Ends the cluster of that name, whoever started it; true if there was one.
    ///
    /// # Errors
    /// If something of it cannot be ended.
    pub fn down(name: &str) -> Result<bool> {
        let folder = state::folder(name)?;
        let there = folder.exists();
        if there {
            sweep::sweep(&folder)?;
        }
        Ok(there)
    }

    /// `kubectl` for the running cluster of that name.
    ///
    /// # Errors
    /// If none runs.
    pub fn kubectl_for(name: &str) -> Result<Command> {
        let folder = state::folder(name)?;
        let kubeconfig = folder.join("admin.kubeconfig");
        if !kubeconfig.exists() {
            bail!("there is no cluster {name}: start one with `cargo xtask cluster up`");
        }
        let kubectl = tool::path("kubectl")?;
        let mut command = match state::holder(&folder, "cp") {
            Some(pid) => namespace::enter_network(pid, &kubectl),
            None => Command::new(&kubectl),
        };
        command.env("KUBECONFIG", kubeconfig);
        Ok(command)
    }

    /// Names of the clusters whose state is here.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn names() -> Result<Vec<String>> {
        state::names()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        let begun = Instant::now();
        if std::env::var_os("MESH_KEEP_CLUSTER").is_some() {
            eprintln_kept(&self.state.folder);
        } else if let Err(error) = sweep::sweep(&self.state.folder) {
            // Nobody can be told by a result here; the next start sweeps again.
            tell(&format!(
                "the cluster was not ended wholly ({:?}): {error:#}",
                begun.elapsed()
            ));
        }
    }
}

fn eprintln_kept(folder: &Path) {
    tell(&format!("the cluster is kept: {}", folder.display()));
}

/// Progress, for whoever watches a test or a command.
fn tell(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{text}"));
}
