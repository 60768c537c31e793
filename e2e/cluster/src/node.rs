//! A real node: its namespace, containerd, kubelet, kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::certificate::Authority;
use crate::control_plane::{ADDRESS, ControlPlane};
use crate::namespace::Namespace;
use crate::process::{self, Daemon};
use crate::state::{self, State};
use crate::{image, sweep, tool};

/// Folders whose paths are fixed in kubelet and containerd.
const OWN: [&str; 7] = [
    "/run/netns",
    "/run/containerd",
    "/var/run/cdi",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
];

/// One node of a cluster.
#[derive(Debug)]
pub(crate) struct Node {
    number: u8,
    pub(crate) namespace: Namespace,
    pub(crate) daemons: Vec<Daemon>,
    socket: PathBuf,
    ctr: PathBuf,
}

impl Node {
    pub(crate) fn start(
        number: u8,
        state: &State,
        plane: &ControlPlane,
        authority: &Authority,
    ) -> Result<Self> {
        let name = format!("n{number}");
        let folder = state.path(&name);
        fs::create_dir_all(&folder)?;
        let namespace = Namespace::create(state, &name, &OWN)?;
        link(number, namespace, plane.namespace()?)?;
        cgroups(&sweep::cgroup(&state.name, number))?;
        cni(&folder, number)?;
        let containerd = containerd(&folder, &name)?
            .inside(namespace.holder, true)
            .logged(state);
        containerd.start(state)?;
        let kubelet = kubelet(number, state, plane, authority, &folder)?
            .inside(namespace.holder, true)
            .logged(state);
        let proxy = kube_proxy(plane, authority, &name)?
            .inside(namespace.holder, true)
            .logged(state);
        let socket = folder.join("containerd.sock");
        let node = Self {
            number,
            namespace,
            daemons: vec![containerd, kubelet, proxy],
            socket,
            ctr: tool::path("ctr")?,
        };
        let there = || node.namespace.sh(&node.ctr("version")).ok();
        process::until("containerd answers", Duration::from_secs(30), there).map_err(|error| {
            let tail = node.daemons.first().map(Daemon::tail).unwrap_or_default();
            error.context(tail)
        })?;
        node.daemons
            .iter()
            .skip(1)
            .try_for_each(|daemon| daemon.start(state))?;
        Ok(node)
    }

    pub(crate) fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Starts one more daemon inside.
    pub(crate) fn run(&mut self, daemon: Daemon, state: &State) -> Result<()> {
        let daemon = daemon.inside(self.namespace.holder, true).logged(state);
        daemon.start(state)?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// Routes to the pods of the other nodes.
    pub(crate) fn connect(&self, count: u8) -> Result<()> {
        for other in (1..=count).filter(|other| *other != self.number) {
            self.namespace.sh(&format!(
                "ip route add 10.78.{other}.0/24 via 10.77.0.{other}"
            ))?;
        }
        Ok(())
    }

    /// Makes an OCI archive known to this node.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let line = import_line(archive);
        self.namespace.sh(&self.ctr(&line)).map(drop)
    }

    /// The same for node `number` of a cluster that somebody else of this machine started; false if it has none.
    pub(crate) fn load(folder: &Path, number: u8, archive: &Path) -> Result<bool> {
        let name = format!("n{number}");
        let Some(holder) = state::holder(folder, &name) else {
            return Ok(false);
        };
        let (ctr, socket) = (
            tool::path("ctr")?,
            folder.join(&name).join("containerd.sock"),
        );
        let line = import_line(archive);
        let line = format!("{} -a {} {line}", ctr.display(), socket.display());
        Namespace { holder }.sh(&line).map(|_| true)
    }

    pub(crate) fn tag(&self, image: &str, name: &str) -> Result<()> {
        let line = format!("-n k8s.io images tag --force {image} {name}");
        self.namespace.sh(&self.ctr(&line)).map(drop)
    }

    fn ctr(&self, line: &str) -> String {
        format!("{} -a {} {line}", self.ctr.display(), self.socket.display())
    }
}

fn import_line(archive: &Path) -> String {
    format!("-n k8s.io images import --no-unpack {}", archive.display())
}

/// A cable from the node to the bridge of the control plane.
fn link(number: u8, node: Namespace, plane: Namespace) -> Result<()> {
    let holder = node.holder;
    plane.sh(&format!(
        "ip link add v{number} type veth peer name eth0 netns /proc/{holder}/ns/net && ip link set v{number} master br0 up && \
         ip route add 10.78.{number}.0/24 via 10.77.0.{number}"
    ))?;
    node.sh(&format!(
        "ip addr add 10.77.0.{number}/24 dev eth0 && ip link set eth0 up && ip route add default via {ADDRESS}"
    ))?;
    Ok(())
}

/// The cgroup below which the kubelet keeps its pods, in every hierarchy.
fn cgroups(name: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        fs::create_dir_all(root.join(name))?;
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
        let all: Vec<String> = controllers
            .split_whitespace()
            .map(|one| format!("+{one}"))
            .collect();
        return Ok(fs::write(
            root.join(name).join("cgroup.subtree_control"),
            all.join(" "),
        )?);
    }
    for entry in fs::read_dir(root)?.flatten() {
        let folder = entry.path().join(name);
        // A link such as `cpu` leads to a hierarchy that was met already.
        if entry.file_type()?.is_symlink() || fs::create_dir_all(&folder).is_err() {
            continue;
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if folder.join(file).exists() {
                fs::write(folder.join(file), fs::read(entry.path().join(file))?)?;
            }
        }
    }
    Ok(())
}

fn cni(folder: &Path, number: u8) -> Result<()> {
    let conf = folder.join("cni");
    fs::create_dir_all(&conf)?;
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.78.{number}.0/24")}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    Ok(fs::write(conf.join("10-pods.conflist"), list.to_string())?)
}

fn containerd(folder: &Path, name: &str) -> Result<Daemon> {
    let program = tool::path("containerd")?;
    let bin = program.parent().map(Path::to_path_buf).unwrap_or_default();
    let at = |file: &str| folder.join(file).display().to_string();
    let config = format!(
        r#"version = 3
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{cni}"
"#,
        root = at("containerd"),
        state = at("containerd-run"),
        socket = at("containerd.sock"),
        cni = at("cni"),
        pause = image::PAUSE,
    );
    fs::write(folder.join("containerd.toml"), config)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let args = vec![String::from("--config"), at("containerd.toml")];
    let daemon = Daemon::new(&format!("containerd-{name}"), &program, args);
    Ok(daemon.env("PATH", &format!("{}:{path}:/usr/sbin:/sbin", bin.display())))
}

fn kubelet(
    number: u8,
    state: &State,
    plane: &ControlPlane,
    authority: &Authority,
    folder: &Path,
) -> Result<Daemon> {
    let (name, address) = (format!("n{number}"), format!("10.77.0.{number}"));
    let config = plane.kubeconfig_for(
        authority,
        &format!("system:node:{name}"),
        Some("system:nodes"),
    )?;
    let server = authority.server(&format!("kubelet-{name}"), &[&address, &name])?;
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": true, "enforceNodeAllocatable": ["pods"],
        "cgroupRoot": format!("/{}", sweep::cgroup(&state.name, number)),
        "failSwapOn": false, "oomScoreAdj": 0,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": authority.certificate()}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": server.certificate, "tlsPrivateKeyFile": server.key,
        "containerRuntimeEndpoint": format!("unix://{}", folder.join("containerd.sock").display()),
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "2s", "nodeStatusReportFrequency": "10s",
        "resolvConf": "/dev/null", "clusterDNS": ["10.0.0.10"], "clusterDomain": "cluster.local",
        "syncFrequency": "10s", "serializeImagePulls": false, "maxPods": 110,
        "podPidsLimit": 1024, "shutdownGracePeriod": "0s",
    });
    let file = folder.join("kubelet.json");
    fs::write(&file, settings.to_string())?;
    let args = vec![
        format!("--config={}", file.display()),
        format!("--kubeconfig={}", config.display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={address}"),
        String::from("--root-dir=/var/lib/kubelet"),
    ];
    let daemon = Daemon::new(&format!("kubelet-{name}"), &tool::path("kubelet")?, args);
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(daemon.env("PATH", &format!("{path}:/usr/sbin:/sbin")))
}

fn kube_proxy(plane: &ControlPlane, authority: &Authority, name: &str) -> Result<Daemon> {
    let config = plane.kubeconfig_for(authority, "system:kube-proxy", None)?;
    let args = vec![
        format!("--kubeconfig={}", config.display()),
        format!("--hostname-override={name}"),
        String::from("--proxy-mode=nftables"),
        String::from("--cluster-cidr=10.78.0.0/16"),
        String::from("--conntrack-max-per-core=0"),
        String::from("--conntrack-tcp-timeout-established=0s"),
        String::from("--conntrack-tcp-timeout-close-wait=0s"),
        String::from("--oom-score-adj=0"),
        String::from("--metrics-bind-address=127.0.0.1:10249"),
    ];
    let daemon = Daemon::new(
        &format!("kube-proxy-{name}"),
        &tool::path("kube-proxy")?,
        args,
    );
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(daemon.env("PATH", &format!("{path}:/usr/sbin:/sbin")))
}

/// kube-proxy's rights.
pub(crate) fn proxy_binding() -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "mesh-test-kube-proxy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}]})
}
