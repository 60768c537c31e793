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
mod counter;
mod fake;
mod fault;
mod given;
mod image;
mod namespace;
mod node;
mod process;
mod settle;
mod standin;
mod state;
pub mod sweep;
pub mod tool;
mod vendor;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail, ensure};

pub use counter::Counted;
pub use image::{Image, NOBODY, build_image};
use serde_json::Value;
pub use vendor::Vendor;

use crate::certificate::Authority;
use crate::control_plane::ControlPlane;
use crate::given::Given;
use crate::node::Node;
use crate::process::Daemon;
use crate::state::State;

/// As many real nodes as a cluster may have.
const MOST_NODES: u8 = 9;

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
    /// Real nodes enforce NetworkPolicies from the start: [`Cluster::enforce_network_policies`].
    pub network_policies: bool,
    /// GPUs of each real node that a device plugin offers. They do not exist.
    pub gpus: Vec<(Vendor, u8)>,
    /// GPUs of each real node that a driver offers to `ResourceClaims`. They do not exist either.
    pub claims: Vec<(Vendor, u8)>,
    /// After how much silence a node counts as lost. kwok renews the leases of two hundred nodes every ten
    /// seconds, and never again makes a pod ready that was once called lost with its node; a kubelet on a busy
    /// machine takes its time after an outage of the API server. Kubernetes says 50 s.
    pub silence: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tier: Tier::default(),
            nodes: 1,
            name: String::from("dev"),
            detached: false,
            network_policies: false,
            gpus: Vec::new(),
            claims: Vec::new(),
            silence: Duration::from_mins(1),
        }
    }
}

/// A running cluster; ended with this value unless it is detached. One that was given by `KUBECONFIG` only
/// loses what was made in its namespace.
#[derive(Debug)]
pub struct Cluster {
    state: State,
    kubeconfig: PathBuf,
    whose: Whose,
    detached: bool,
}

#[derive(Debug)]
enum Whose {
    Ours(Box<Own>),
    Given(Given),
}

/// What was started here.
#[derive(Debug)]
struct Own {
    plane: ControlPlane,
    nodes: Vec<Node>,
    engine: Option<Daemon>,
}

/// For tests that need what this machine or a given cluster has not: says why they are skipped.
///
/// # Errors
/// The reason itself with `CI` set, where everything has to run.
pub fn skipped(reason: Error) -> Result<()> {
    if std::env::var_os("CI").is_some() {
        return Err(reason);
    }
    tell(&format!("skipped: {reason:#}"));
    Ok(())
}

impl Cluster {
    /// The cluster of `KUBECONFIG` if the user set it, in a namespace of its own; else as
    /// [`Cluster::start_here`].
    ///
    /// # Errors
    /// As there; or if the given cluster does not answer, or has not what is asked for.
    pub fn start(options: &Options) -> Result<Self> {
        match given::kubeconfig() {
            Some(users) => {
                sweep::abandoned()?;
                let state = State::create(options)?;
                let kubeconfig = state.path("admin.kubeconfig");
                match Given::new(options, &users, &kubeconfig) {
                    Ok(given) => Ok(Self {
                        state,
                        kubeconfig,
                        whose: Whose::Given(given),
                        detached: false,
                    }),
                    Err(error) => {
                        sweep::sweep(&state.folder)?;
                        Err(error)
                    }
                }
            }
            None => Self::start_here(options),
        }
    }

    /// As [`Cluster::start`], for tests: none, with the reason told, where there can be no such cluster.
    ///
    /// # Errors
    /// The reason itself with `CI` set, where everything has to run.
    pub fn start_or_skip(options: &Options) -> Result<Option<Self>> {
        match Self::start(options) {
            Ok(cluster) => Ok(Some(cluster)),
            Err(reason) => skipped(reason).map(|()| None),
        }
    }

    /// Builds what is missing and starts a cluster on this machine; gives it when the API server answers
    /// and all nodes are ready.
    ///
    /// # Errors
    /// If the machine has not what it takes, with what to do about it, or something does not start: then
    /// the last lines of its log are in the message.
    pub fn start_here(options: &Options) -> Result<Self> {
        let standins =
            options.network_policies || !options.gpus.is_empty() || !options.claims.is_empty();
        ensure!(
            options.tier == Tier::Nodes || !standins,
            "a policy engine and GPUs are for real nodes: tier `nodes`"
        );
        tool::needed(options.tier)?;
        sweep::abandoned()?;
        let state = State::create(options)?;
        let authority = Authority::new(&state.path("pki"))?;
        let plane = ControlPlane::start(options, &state, &authority)?;
        let mut cluster = Self {
            state,
            kubeconfig: plane.kubeconfig.clone(),
            whose: Whose::Ours(Box::new(Own {
                plane,
                nodes: Vec::new(),
                engine: None,
            })),
            // What does not come up is ended, whoever wanted it to stay.
            detached: false,
        };
        cluster.own()?.plane.wait()?;
        match options.tier {
            Tier::ControlPlane => {}
            Tier::FakeNodes => {
                let (own, state) = cluster.own_mut()?;
                own.plane.start_fake_nodes(state)?;
            }
            Tier::Nodes => cluster.start_nodes(options, &authority)?,
        }
        if options.detached {
            cluster.state.detach()?;
            cluster.detached = true;
        }
        Ok(cluster)
    }

    fn start_nodes(&mut self, options: &Options, authority: &Authority) -> Result<()> {
        let images = [image::pause()?, image::dns()?, image::talk()?];
        let (own, state) = self.own_mut()?;
        for number in 1..=options.nodes {
            let node = Node::start(number, state, &own.plane, authority)?;
            own.nodes.push(node);
        }
        for node in &own.nodes {
            node.connect(options.nodes)?;
            for image in &images {
                node.import(&image.archive)?;
            }
        }
        self.apply_here(&node::proxy_binding())?;
        self.apply_here(&image::dns_objects())?;
        for name in self.node_names()? {
            let node = format!("node/{name}");
            let ready = ["wait", "--for=condition=Ready", &node, "--timeout=60s"];
            let limit = Duration::from_mins(1);
            process::until("the node is ready", limit, || self.kubectl(&ready).ok())?;
        }
        let engine = self.engine()?;
        self.own_mut()?.0.engine = Some(engine);
        if options.network_policies {
            self.enforce_network_policies(true)?;
        }
        self.start_gpus(options)
    }

    fn own(&self) -> Result<&Own> {
        match &self.whose {
            Whose::Ours(own) => Ok(own),
            Whose::Given(_) => bail!(
                "the cluster of KUBECONFIG was not started here: its daemons, links, nodes and images are its owner's"
            ),
        }
    }

    fn own_mut(&mut self) -> Result<(&mut Own, &State)> {
        self.own()?;
        match &mut self.whose {
            Whose::Ours(own) => Ok((own, &self.state)),
            Whose::Given(_) => bail!("the cluster of KUBECONFIG was not started here"),
        }
    }

    fn nodes_mut(&mut self) -> Result<impl Iterator<Item = (&mut Node, &State)>> {
        let (own, state) = self.own_mut()?;
        Ok(own.nodes.iter_mut().map(move |node| (node, state)))
    }

    fn node_names(&self) -> Result<Vec<String>> {
        Ok(self.own()?.nodes.iter().map(Node::name).collect())
    }

    fn apply_here(&self, objects: &Value) -> Result<()> {
        self.own()?.plane.apply(objects)
    }

    /// Whether this machine runs it: only then can its daemons be killed, its links cut and images be
    /// brought to its nodes. A test that needs that gives the reason to [`skipped`].
    ///
    /// # Errors
    /// If it was given by `KUBECONFIG`.
    pub fn started_here(&self) -> Result<()> {
        self.own().map(drop)
    }

    /// The same as a step of a chain: the cluster, if this machine runs it.
    ///
    /// # Errors
    /// If it was given by `KUBECONFIG`.
    pub fn here(self) -> Result<Self> {
        self.started_here().map(|()| self)
    }

    /// The administrator's kubeconfig. Of a cluster with nodes it works inside its network only: see
    /// [`Cluster::kubectl_command`].
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of its state: logs, certificates, kubeconfigs.
    pub fn folder(&self) -> &Path {
        &self.state.folder
    }

    /// A program of the control plane's network, with the administrator's `KUBECONFIG`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match &self.whose {
            Whose::Ours(own) => own.plane.enter(program),
            Whose::Given(given) => given.enter(program),
        };
        given::set(&mut command, &self.kubeconfig);
        command.stdin(Stdio::null());
        command
    }

    /// `kubectl` for this cluster.
    ///
    /// # Errors
    /// If it is not built.
    pub fn kubectl_command(&self) -> Result<Command> {
        match &self.whose {
            Whose::Ours(_) => Ok(self.command(&tool::path("kubectl")?)),
            Whose::Given(given) => Ok(self.command(given.program())),
        }
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

    /// A kubeconfig of another user, signed by the cluster's authority; in a given cluster, the user's own
    /// that acts as the other.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn user_kubeconfig(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        match &self.whose {
            Whose::Ours(own) => {
                let authority = Authority::load(&self.state.path("pki"))?;
                own.plane.kubeconfig_for(&authority, user, group)
            }
            Whose::Given(given) => {
                let file = format!("{}.kubeconfig", user.replace([':', '/'], "-"));
                let file = self.state.path(&file);
                given.kubeconfig_for(&file, user, group)?;
                Ok(file)
            }
        }
    }

    /// Makes an OCI archive known to all nodes.
    ///
    /// # Errors
    /// If containerd refuses it, or the cluster was not started here.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        let nodes = &self.own()?.nodes;
        nodes.iter().try_for_each(|node| node.import(archive))
    }

    /// Gives an image another name on all nodes, as if it were of another registry.
    ///
    /// # Errors
    /// If there is no such image, or the cluster was not started here.
    pub fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        let nodes = &self.own()?.nodes;
        nodes.iter().try_for_each(|node| node.tag(image, name))
    }

    /// Name of an image that is on every node and does nothing: its file system is empty.
    pub const PAUSE_IMAGE: &str = image::PAUSE;

    /// Name of an image that is on every node and has one program, `/talk`: `serve PORT…` answers,
    /// `dial HOST:PORT…` asks, `env PREFIX` tells its environment.
    pub const TALK_IMAGE: &str = image::TALK;

    /// Ends the cluster of that name, whoever started it; true if there was one.
    ///
    /// # Errors
    /// If something of it cannot be ended.
    pub fn down(name: &str) -> Result<bool> {
        let folder = state::folder(name)?;
        let _turn = state::lock(state::TURN)?;
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
        given::set(&mut command, &kubeconfig);
        Ok(command)
    }

    /// Makes an OCI archive known to all nodes of the running cluster of that name; how many there are.
    ///
    /// # Errors
    /// If none runs, or its containerd refuses the archive.
    pub fn load(name: &str, archive: &Path) -> Result<u8> {
        let folder = state::folder(name)?;
        ensure!(
            archive.is_file(),
            "there is no archive {}: `cargo xtask images` makes some",
            archive.display()
        );
        let mut count = 0;
        while count < MOST_NODES && Node::load(&folder, count + 1, archive)? {
            count += 1;
        }
        ensure!(
            count > 0,
            "there is no cluster {name} with nodes: start one with `cargo xtask cluster up`"
        );
        Ok(count)
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
        if let Whose::Given(given) = &self.whose
            && let Err(error) = given.leave(&self.kubeconfig)
        {
            tell(&format!(
                "namespace {} is left behind: {error:#}",
                given.namespace
            ));
        }
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
