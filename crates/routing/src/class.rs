//! The sovereignty class of a backend, derived from evidence at the moment of the decision.
//!
//! Nothing a backend's author writes can raise its class: a process of this mesh is owned, a pod is
//! where its node lets a policy's claim stand, an external server only where a policy of the mesh namespace says so, and a cloud is always one of
//! the three cloud classes, whatever its address. Claims count until they expire. A proxy on the way never raises a class: what is
//! behind one is no owned hardware, and a cloud whose TLS the proxy itself may end is at best a foreign one. Another mesh is a peer
//! and never ours; an invitation counts where those who run this mesh wrote it.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_core::policy::Ownership;
use mesh_core::{
    Backend, Claims, Endpoint, Jurisdiction, JurisdictionSet, Node, Peer, Place, Pod, ServedModel,
    SovereigntyClass, Trust,
};

/// Schemes of `spec.providerID` that say nothing about who owns a node: what installs a cluster on
/// machines that are there already.
const NEUTRAL_PROVIDERS: [&str; 4] = ["k3s", "kind", "metal3", "vsphere"];

/// Prefixes of labels that only the node controllers and installers of clouds set.
const CLOUD_LABELS: [&str; 9] = [
    "cloud.google.com/",
    "csi.hetzner.cloud/",
    "doks.digitalocean.com/",
    "eks.amazonaws.com/",
    "ibm-cloud.kubernetes.io/",
    "k8s.scaleway.com/",
    "kubernetes.azure.com/",
    "lke.linode.com/",
    "oci.oraclecloud.com/",
];

/// A class and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Derived {
    /// The class.
    pub class: SovereigntyClass,
    /// What it rests on.
    pub basis: Basis,
}

/// What a class rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The engine runs in this process.
    InProcess,
    /// Its pods run on nodes that `ownership.nodeSelector` claims and nobody rents out.
    OwnedNodes,
    /// A pod runs on a node whose providerID or labels name a cloud.
    RentedNode,
    /// A pod runs on a node that `ownership.nodeSelector` does not claim, or of which nothing is known.
    UnclaimedNode,
    /// No pod is ready, so there is nothing to look at.
    NoPods,
    /// `ownership.external` lists the backend.
    Listed,
    /// Every address lies inside `ownership.networks`; to be checked again at connect time.
    Networks,
    /// Its addresses lie inside `ownership.networks`, but one is a pod's or a Service's.
    ClusterNetwork,
    /// `ownership.external` lists the backend, but a proxy stands before it.
    ListedBehindProxy,
    /// A proxy looks up its address, so `ownership.networks` says nothing of it.
    BehindProxy,
    /// An external server of which nothing is known.
    UnknownOperator,
    /// A model server that forwards one of its models to a cloud.
    RunsRemotely,
    /// A cloud without claims.
    NoClaims,
    /// Claims that no longer count.
    Expired,
    /// Prompts are kept, or nobody says that they are not.
    Retention,
    /// Prompts are used for training, or nobody says that they are not.
    Training,
    /// Seat, data centers and law lie inside the home jurisdictions.
    Home,
    /// One of the three lies outside, or is not claimed.
    Abroad,
    /// A cloud that proves itself by an authority of its own: so does whoever ends its TLS on the way, of whom nothing is claimed.
    Inspected,
    /// A peer that the mesh namespace invites, with a pinned identity.
    Invited,
    /// A peer whose invitation stands outside of the mesh namespace, where it does not count.
    InvitedElsewhere,
    /// A peer that nobody invited.
    OpenPeer,
}

impl Derived {
    /// For a person: what was looked at, one sentence each.
    pub fn evidence(self, backend: &Backend) -> Vec<String> {
        let first = match self.basis {
            Basis::InProcess => "runs in a process of this mesh",
            Basis::OwnedNodes => "runs on nodes that ownership.nodeSelector claims",
            Basis::RentedNode => "a pod runs on a node whose providerID or labels name a cloud",
            Basis::UnclaimedNode => {
                "a pod runs on a node that ownership.nodeSelector does not claim"
            }
            Basis::NoPods => "no pod is ready",
            Basis::Listed => "listed in ownership.external",
            Basis::Networks => "every address lies inside ownership.networks",
            Basis::ClusterNetwork => {
                "an address is one of the cluster's pods or Services, which says nothing of who runs it, whatever ownership.networks holds"
            }
            Basis::ListedBehindProxy => {
                "listed in ownership.external, but a proxy stands before it: not owned hardware"
            }
            Basis::BehindProxy => {
                "a proxy looks up its address, so that ownership.networks says nothing of it: list it in ownership.external, for rented hardware at best"
            }
            Basis::UnknownOperator => {
                "nothing is known of who runs it: neither listed in ownership.external nor inside ownership.networks"
            }
            Basis::RunsRemotely => {
                "one of its models runs at a cloud (a name that ends in -cloud or :cloud): declare the others as a backend of their own"
            }
            Basis::NoClaims => "the cloud states no claims",
            Basis::Expired => "the claims have expired",
            Basis::Retention => "prompts are kept, or it is not claimed that they are not",
            Basis::Training => {
                "prompts are used for training, or it is not claimed that they are not"
            }
            Basis::Home => "seat, data centers and governing law are inside the home jurisdictions",
            Basis::Abroad => {
                "seat, data centers or governing law are outside the home jurisdictions, or not claimed"
            }
            Basis::Inspected => {
                "its authority is its own (tls.caRef): who has the key of that can read along on the way, and the cloud's claims say nothing of them"
            }
            Basis::Invited => "another mesh, invited by the owners of this one",
            Basis::InvitedElsewhere => {
                "another mesh; an invitation counts only in the namespace of this mesh"
            }
            Basis::OpenPeer => "another mesh, invited by nobody",
        };
        let mut lines = vec![first.to_owned()];
        match &backend.place {
            Place::InProcess { .. } => {}
            Place::Pods(pods) => lines.extend(nodes(&pods.pods)),
            Place::External(endpoint) => lines.push(format!(
                "addresses: {}",
                list(&endpoint.resolved, "none known")
            )),
            Place::Cloud(cloud) => lines.extend(cloud.claims.iter().map(describe)),
            Place::Peer(peer) => lines.extend([
                format!("address: {}:{}", peer.host, peer.port),
                format!("identity: {}, not proven by anybody yet", peer.identity),
            ]),
        }
        lines.extend(backend.endpoint().into_iter().flat_map(way));
        lines
    }
}

/// Derives the class of `backend` at the instant `now`.
///
/// `mesh_namespace` matters because `ownership.networks` speaks only for backends declared there:
/// elsewhere the author of a backend could point a name at an owned address and move it later.
pub fn derive(
    backend: &Backend,
    ownership: &Ownership,
    mesh_namespace: &str,
    now: jiff::Timestamp,
) -> Derived {
    let (class, basis) = match &backend.place {
        Place::InProcess { .. } => (SovereigntyClass::OwnHardware, Basis::InProcess),
        Place::Pods(pods) => {
            // The worst pod speaks for all: who looks at the backend as a whole may meet any.
            let all = pods.pods.iter().map(|pod| of_pod(pod, ownership));
            let worst = all.min_by_key(|derived| derived.class);
            return worst.unwrap_or_else(|| no_pods(ownership));
        }
        Place::External(endpoint) => external(backend, endpoint, ownership, mesh_namespace),
        Place::Cloud(cloud) => match cloud.claims.as_ref() {
            None => (SovereigntyClass::CloudRetained, Basis::NoClaims),
            Some(_) if inspected(&cloud.endpoint) => {
                (SovereigntyClass::CloudRetained, Basis::Inspected)
            }
            Some(claims) => claimed(claims, ownership, now),
        },
        Place::Peer(peer) => of_peer(peer, backend.id.namespace == mesh_namespace),
    };
    Derived { class, basis }
}

/// No policy can make a peer ours: somebody else runs it, whatever its address.
fn of_peer(peer: &Peer, home: bool) -> (SovereigntyClass, Basis) {
    match (peer.trust, home) {
        (Trust::Invited, true) => (SovereigntyClass::TrustedSwarm, Basis::Invited),
        (Trust::Invited, false) => (SovereigntyClass::OpenSwarm, Basis::InvitedElsewhere),
        (Trust::Open, _) => (SovereigntyClass::OpenSwarm, Basis::OpenPeer),
    }
}

/// True if the TLS of a cloud may end on the way to it: whoever looks into everything shows certificates of an authority of
/// its own, as a declared proxy or as one that the network puts there.
const fn inspected(endpoint: &Endpoint) -> bool {
    endpoint.authority.is_some()
}

/// For a person: what is special about the way to an endpoint. Not where the proxy is: nothing rests on that.
fn way(endpoint: &Endpoint) -> Vec<String> {
    let proxied = endpoint
        .proxy
        .is_some()
        .then_some("reached over a proxy, which learns its name and how much is said, and when");
    let proven = endpoint.authority.is_some().then_some(
        "proves itself by an authority of its own (tls.caRef), the system's count for nothing",
    );
    let lines = proxied.into_iter().chain(proven);
    lines.map(str::to_owned).collect()
}

/// Without a pod there is nothing to look at and nobody to send to: what the policy claims is taken
/// as declared, so that a policy can be judged before its floor has started.
fn no_pods(ownership: &Ownership) -> Derived {
    let class = if ownership.nodes.is_some() {
        SovereigntyClass::OwnHardware
    } else {
        SovereigntyClass::RentedHardware
    };
    let basis = Basis::NoPods;
    Derived { class, basis }
}

/// The class of one pod, from its node. A claim of ownership stands only where nothing speaks against
/// it: `spec.providerID` is empty or of a scheme that says nothing, and no label names a cloud.
pub fn of_pod(pod: &Pod, ownership: &Ownership) -> Derived {
    let (class, basis) = match &pod.node {
        Some(node) if rented(node) => (SovereigntyClass::RentedHardware, Basis::RentedNode),
        Some(node) if claims(node, ownership) => (SovereigntyClass::OwnHardware, Basis::OwnedNodes),
        Some(_) | None => (SovereigntyClass::RentedHardware, Basis::UnclaimedNode),
    };
    Derived { class, basis }
}

fn rented(node: &Node) -> bool {
    let provider = node.provider_id.as_deref().unwrap_or_default();
    let neutral = provider.is_empty()
        || provider
            .split_once("://")
            .is_some_and(|(scheme, _)| NEUTRAL_PROVIDERS.contains(&scheme));
    let label = |key: &String| CLOUD_LABELS.iter().any(|prefix| key.starts_with(prefix));
    !neutral || node.labels.keys().any(label)
}

fn claims(node: &Node, ownership: &Ownership) -> bool {
    let Some(selectors) = &ownership.nodes else {
        return false;
    };
    let mut wanted = selectors.iter().flatten();
    wanted.all(|(key, value)| node.labels.get(key) == Some(value))
}

/// For a person: the nodes that pods run on, each once.
fn nodes(pods: &[std::sync::Arc<Pod>]) -> Vec<String> {
    let describe = |pod: &std::sync::Arc<Pod>| match &pod.node {
        None => format!("pod {}: nothing is known of its node", pod.name),
        Some(node) => format!(
            "node {}: providerID {}",
            node.name,
            node.provider_id
                .as_deref()
                .filter(|id| !id.is_empty())
                .unwrap_or("none")
        ),
    };
    let mut lines: Vec<String> = pods.iter().map(describe).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// True if `address` lies inside one of `networks`. An IPv4 address written as IPv6 counts as what
/// it is.
pub fn inside(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The claims of a cloud that still count at `now`.
pub(crate) fn current_claims(backend: &Backend, now: jiff::Timestamp) -> Option<&Claims> {
    match &backend.place {
        // What a cloud claims, nobody claims of who inspects the way to it.
        Place::Cloud(cloud) if inspected(&cloud.endpoint) => None,
        Place::Cloud(cloud) => cloud.claims.as_ref().filter(|claims| now < claims.expires),
        Place::InProcess { .. } | Place::Pods(_) | Place::External(_) | Place::Peer(_) => None,
    }
}

fn external(
    backend: &Backend,
    endpoint: &Endpoint,
    ownership: &Ownership,
    mesh_namespace: &str,
) -> (SovereigntyClass, Basis) {
    let listed = ownership
        .external
        .iter()
        .any(|(namespace, name)| *namespace == backend.id.namespace && *name == backend.id.name);
    let owned_address = backend.id.namespace == mesh_namespace
        && !endpoint.resolved.is_empty()
        && endpoint
            .resolved
            .iter()
            .all(|address| inside(*address, &ownership.networks));
    let anybodys = |address: &IpAddr| inside(*address, &endpoint.cluster_networks);
    if backend.models.iter().any(runs_remotely) {
        (SovereigntyClass::CloudRetained, Basis::RunsRemotely)
    } else if listed && endpoint.proxy.is_some() {
        (SovereigntyClass::RentedHardware, Basis::ListedBehindProxy)
    } else if listed {
        (SovereigntyClass::OwnHardware, Basis::Listed)
    } else if endpoint.proxy.is_some() {
        (SovereigntyClass::CloudRetained, Basis::BehindProxy)
    } else if owned_address && endpoint.resolved.iter().any(anybodys) {
        (SovereigntyClass::CloudRetained, Basis::ClusterNetwork)
    } else if owned_address {
        (SovereigntyClass::OwnHardware, Basis::Networks)
    } else {
        (SovereigntyClass::CloudRetained, Basis::UnknownOperator)
    }
}

/// True for the names of ollama's cloud models (`gpt-oss:120b-cloud`, `deepseek-v3.1:cloud`): an
/// ollama on owned hardware forwards those to its maker.
fn runs_remotely(model: &ServedModel) -> bool {
    let name = model.upstream_name();
    name.ends_with("-cloud") || name.ends_with(":cloud")
}

fn claimed(
    claims: &Claims,
    ownership: &Ownership,
    now: jiff::Timestamp,
) -> (SovereigntyClass, Basis) {
    let home = &ownership.home_jurisdictions;
    if now >= claims.expires {
        (SovereigntyClass::CloudRetained, Basis::Expired)
    } else if claims.retention_days != Some(0) {
        (SovereigntyClass::CloudRetained, Basis::Retention)
    } else if claims.training != Some(false) {
        (SovereigntyClass::CloudRetained, Basis::Training)
    } else if [&claims.seat, &claims.data_centers, &claims.governing_law]
        .into_iter()
        .all(|places| wholly_within(places, home))
    {
        (SovereigntyClass::CloudDomestic, Basis::Home)
    } else {
        (SovereigntyClass::CloudForeign, Basis::Abroad)
    }
}

/// True if something is claimed and all of it lies inside `home`.
fn wholly_within(places: &JurisdictionSet, home: &JurisdictionSet) -> bool {
    !places.0.is_empty() && places.0.iter().all(|place| home.covers(place))
}

fn describe(claims: &Claims) -> String {
    let places = |set: &JurisdictionSet| list::<Jurisdiction>(&set.0, "not claimed");
    format!(
        "claims until {}: seat {}, data centers {}, governing law {}, retention {}, training {}",
        claims.expires,
        places(&claims.seat),
        places(&claims.data_centers),
        places(&claims.governing_law),
        claims.retention_days.map_or_else(
            || String::from("not claimed"),
            |days| format!("{days} days")
        ),
        match claims.training {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not claimed",
        },
    )
}

fn list<T: std::fmt::Display>(items: &[T], none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    let words: Vec<String> = items.iter().map(ToString::to_string).collect();
    words.join(", ")
}
