//! etcd, kube-apiserver and what runs beside them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::certificate::Authority;
use crate::namespace::{Namespace, enter_network};
use crate::process::{self, Daemon};
use crate::state::State;
use crate::{Options, Tier, fake, tool};

/// Address of the API server inside a cluster with nodes.
pub(crate) const ADDRESS: &str = "10.77.0.254";
/// Service addresses.
pub(crate) const SERVICES: &str = "10.0.0.0/24";
const START: Duration = Duration::from_mins(1);

/// Every request's user, verb and resource: what RBAC is compared with.
const AUDIT: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
  {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*"]},
  {"level": "Metadata"}]}"#;

/// The control plane of a cluster.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) server: String,
    namespace: Option<Namespace>,
    kubectl: PathBuf,
    folder: PathBuf,
}

/// Two ports that were free a moment ago. etcd and the API server cannot be asked for the port they got.
fn ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

impl ControlPlane {
    pub(crate) fn start(options: &Options, state: &State, authority: &Authority) -> Result<Self> {
        let namespace = (options.tier == Tier::Nodes)
            .then(|| network(state))
            .transpose()?;
        let ([etcd_port, peer_port, api_port], address) = if namespace.is_some() {
            ([2379, 2380, 6443], ADDRESS)
        } else {
            (ports()?, "127.0.0.1")
        };
        let place = |daemon: Daemon| {
            let daemon = daemon.logged(state);
            match namespace {
                Some(namespace) => daemon.inside(namespace.holder, false),
                None => daemon,
            }
        };
        let etcd = place(Daemon::new(
            "etcd",
            &tool::path("etcd")?,
            etcd_args(state, etcd_port, peer_port),
        ));
        let api = api_args(
            state,
            authority,
            address,
            [api_port, etcd_port],
            namespace.is_some(),
        )?;
        let api = place(Daemon::new(
            "kube-apiserver",
            &tool::path("kube-apiserver")?,
            api,
        ));
        let server = format!("https://{address}:{api_port}");
        let mut this = Self {
            daemons: vec![etcd, api],
            kubeconfig: state.path("admin.kubeconfig"),
            server,
            namespace,
            kubectl: tool::path("kubectl")?,
            folder: state.folder.clone(),
        };
        let admin = authority.user("admin", Some("system:masters"))?;
        authority.kubeconfig(&this.kubeconfig, &this.server, &admin)?;
        if options.tier > Tier::ControlPlane {
            this.daemons
                .push(place(this.controller_manager(options.silence, authority)?));
            this.daemons.push(place(this.scheduler(authority)?));
        }
        this.daemons
            .iter()
            .try_for_each(|daemon| daemon.start(state))?;
        Ok(this)
    }

    fn controller_manager(&self, silence: Duration, authority: &Authority) -> Result<Daemon> {
        let config = self.kubeconfig_for(authority, "system:kube-controller-manager", None)?;
        let args = words(&[
            &format!("--kubeconfig={}", config.display()),
            &format!(
                "--service-account-private-key-file={}",
                authority.account_key().display()
            ),
            &format!("--root-ca-file={}", authority.certificate().display()),
            &format!(
                "--cluster-signing-cert-file={}",
                authority.certificate().display()
            ),
            &format!("--cluster-signing-key-file={}", authority.key().display()),
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--node-monitor-period=2s",
            &format!("--node-monitor-grace-period={}s", silence.as_secs()),
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
            "--concurrent-gc-syncs=40",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ]);
        Ok(Daemon::new(
            "kube-controller-manager",
            &tool::path("kube-controller-manager")?,
            args,
        ))
    }

    fn scheduler(&self, authority: &Authority) -> Result<Daemon> {
        let config = self.kubeconfig_for(authority, "system:kube-scheduler", None)?;
        let args = words(&[
            &format!("--kubeconfig={}", config.display()),
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ]);
        Ok(Daemon::new(
            "kube-scheduler",
            &tool::path("kube-scheduler")?,
            args,
        ))
    }

    pub(crate) fn kubeconfig_for(
        &self,
        authority: &Authority,
        user: &str,
        group: Option<&str>,
    ) -> Result<PathBuf> {
        let file = self
            .folder
            .join(format!("{}.kubeconfig", user.replace([':', '/'], "-")));
        authority.kubeconfig(&file, &self.server, &authority.user(user, group)?)?;
        Ok(file)
    }

    /// A program in the control plane's network.
    pub(crate) fn enter(&self, program: &Path) -> Command {
        match self.namespace {
            Some(namespace) => enter_network(namespace.holder, program),
            None => Command::new(program),
        }
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.enter(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        process::run(&mut command)
    }

    /// Waits until the API server is ready.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut ended = None;
        let ready = process::until("the API server is ready", START, || {
            ended = self.daemons.iter().find_map(|daemon| daemon.alive().err());
            (ended.is_some() || self.kubectl(&["get", "--raw", "/readyz"]).is_ok()).then_some(())
        });
        match ended {
            Some(error) => Err(error),
            None => {
                ready.with_context(|| self.daemons.iter().map(Daemon::tail).collect::<String>())
            }
        }
    }

    pub(crate) fn apply(&self, objects: &Value) -> Result<()> {
        let file = self.folder.join("apply.json");
        fs::write(&file, objects.to_string())?;
        let file = file.display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &file])
            .map(drop)
    }

    /// Starts kwok and hundreds of nodes that only seem to be.
    pub(crate) fn start_fake_nodes(&mut self, state: &State) -> Result<()> {
        let kwok = tool::path("kwok")?;
        let stages = kwok.with_file_name(tool::STAGES);
        let args = words(&[
            &format!("--kubeconfig={}", self.kubeconfig.display()),
            &format!("--config={}", stages.display()),
            // A node without it falls silent.
            &format!("--manage-nodes-with-label-selector={}", fake::PLAYED),
            "--node-lease-duration-seconds=40",
        ]);
        let kwok = Daemon::new("kwok", &kwok, args).logged(state);
        kwok.start(state)?;
        self.daemons.push(kwok);
        self.apply(&fake::nodes())?;
        self.apply(&fake::claims())
    }

    /// Cuts or heals the link of a node.
    pub(crate) fn link(&self, node: u8, up: bool) -> Result<()> {
        let namespace = self
            .namespace
            .context("only clusters with nodes have links")?;
        let state = if up { "up" } else { "down" };
        namespace
            .sh(&format!("ip link set v{node} {state}"))
            .map(drop)
    }

    /// The network of a cluster with nodes.
    pub(crate) fn namespace(&self) -> Result<Namespace> {
        self.namespace
            .context("only clusters with nodes have a network")
    }
}

fn network(state: &State) -> Result<Namespace> {
    let namespace = Namespace::create(state, "cp", &[])?;
    namespace.sh(&format!(
        "ip link add br0 type bridge && ip addr add {ADDRESS}/24 dev br0 && ip link set br0 up"
    ))?;
    Ok(namespace)
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn etcd_args(state: &State, client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    words(&[
        &format!("--data-dir={}", state.path("etcd").display()),
        &format!("--listen-client-urls={client}"),
        &format!("--advertise-client-urls={client}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync",
        "--log-level=warn",
    ])
}

/// What the API server trusts, and what it shows of itself.
fn api_trust(state: &State, authority: &Authority, address: &str) -> Result<Vec<String>> {
    let hosts = [
        address,
        "127.0.0.1",
        "10.0.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let server = authority.server("kube-apiserver", &hosts)?;
    let front = authority.user("front-proxy", None)?;
    let ca = authority.certificate();
    let flag = |name: &str, file: &Path| format!("--{name}={}", file.display());
    Ok(vec![
        flag("cert-dir", &state.path("pki")),
        flag("tls-cert-file", &server.certificate),
        flag("tls-private-key-file", &server.key),
        flag("client-ca-file", &ca),
        flag("service-account-key-file", &authority.account_public_key()),
        flag("service-account-signing-key-file", &authority.account_key()),
        flag("requestheader-client-ca-file", &ca),
        flag("proxy-client-cert-file", &front.certificate),
        flag("proxy-client-key-file", &front.key),
    ])
}

/// How the API server reaches kubelets and webhooks.
fn api_nodes(authority: &Authority) -> Result<Vec<String>> {
    let kubelet = authority.user("kube-apiserver-kubelet-client", Some("system:masters"))?;
    let flag = |name: &str, file: &Path| format!("--{name}={}", file.display());
    Ok(vec![
        String::from("--enable-aggregator-routing=true"),
        String::from("--kubelet-preferred-address-types=InternalIP"),
        flag("kubelet-certificate-authority", &authority.certificate()),
        flag("kubelet-client-certificate", &kubelet.certificate),
        flag("kubelet-client-key", &kubelet.key),
    ])
}

fn api_args(
    state: &State,
    authority: &Authority,
    address: &str,
    [port, etcd]: [u16; 2],
    nodes: bool,
) -> Result<Vec<String>> {
    let policy = state.path("audit-policy.json");
    fs::write(&policy, AUDIT)?;
    let mut args = words(&[
        &format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        &format!("--secure-port={port}"),
        &format!("--bind-address={address}"),
        &format!("--advertise-address={address}"),
        &format!("--service-cluster-ip-range={SERVICES}"),
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        // The second one is on in OpenShift: who makes an owner block needs a right on it.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        "--allow-privileged",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        &format!("--audit-log-path={}", state.path("audit.log").display()),
        &format!("--audit-policy-file={}", policy.display()),
    ]);
    args.extend(api_trust(state, authority, address)?);
    if nodes {
        args.extend(api_nodes(authority)?);
    } else {
        args.push(String::from("--endpoint-reconciler-type=none"));
    }
    Ok(args)
}
