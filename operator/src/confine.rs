//! Confinement: a namespace labeled `inferencemesh.dev/confine: enabled` that an accepted policy with
//! `egress.confine` selects gets a NetworkPolicy after which its pods reach the mesh, DNS and what policies
//! of the mesh namespace allow, and nothing else. Whether the network keeps it, canaries try.
//!
//! Refuses: namespaces of Kubernetes itself, of the mesh, and those that the installation excludes.

mod canaries;
mod enforced;
mod holds;
mod loose;
mod options;
mod places;
mod pools;
mod proof;
mod targets;
mod told;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use mesh_crds::guard::{Dns, Egress, EgressRule};
use mesh_crds::label;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::apply::{Error, Writer, digest};
use crate::args::Run;
use crate::pass::setback::{self, Setbacks};
use crate::world::{MANAGED, World};

pub(crate) use canaries::{Canaries, confined};
#[cfg(test)]
pub(crate) use enforced::Observed;
pub(crate) use enforced::enforced;
pub(crate) use loose::FRESH;
use loose::Loose;
pub(crate) use options::Options;
#[cfg(test)]
pub(crate) use told::REASONS;
pub(crate) use told::{ages, unenforced};

/// Name of the NetworkPolicy of a confined namespace. The chart's admission policies know it too.
pub(crate) const NAME: &str = "mesh-confine";
/// Where the usual cache of a node's names listens.
const NODE_LOCAL: &str = "169.254.20.10/32";
/// Label and value of the usual DNS pods.
const DNS_PODS: (&str, &str) = ("k8s-app", "kube-dns");
/// Ports of the gateway's pods: plain, TLS.
const GATEWAY: [u16; 2] = [8080, 8443];
/// Port of a worker with TLS, for sidecars.
const WORKER: u16 = 8444;

type Labels = BTreeMap<String, String>;

/// A policy as it was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) spec: Value,
}

/// What confinement is decided from.
pub(crate) struct Inputs<'a> {
    pub(crate) mesh_namespace: &'a str,
    /// Namespaces that are never confined, besides Kubernetes' and the mesh's.
    pub(crate) never: &'a [String],
    /// Namespaces that carry the label, with their labels.
    pub(crate) namespaces: &'a [(String, Labels)],
    pub(crate) policies: &'a [Accepted],
}

/// What shall be.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The NetworkPolicy of every confined namespace.
    pub(crate) wanted: Vec<NetworkPolicy>,
    /// Namespaces that a policy confines, by the policy's namespace and name.
    by_policy: BTreeMap<(String, String), BTreeSet<String>>,
    /// Policies that want to confine and cannot, and why.
    refused: BTreeMap<(String, String), String>,
    /// Policies that want to confine.
    asking: BTreeSet<(String, String)>,
    /// Why not everything stands as it shall, by namespace.
    pub(crate) failed: BTreeMap<String, String>,
    /// Something was not tried, or may be done the next time.
    pub(crate) unfinished: bool,
    /// What pods of confined namespaces are.
    loose: BTreeMap<String, Loose>,
}

impl Accepted {
    /// Its group `egress`, as far as it can be read: an entry that cannot opens nothing.
    fn egress(&self) -> Egress {
        let group = &self.spec["egress"];
        let allow = group["allow"].as_array().into_iter().flatten();
        Egress {
            confine: group["confine"].as_bool().unwrap_or_default(),
            allow: allow
                .filter_map(|rule| serde_json::from_value(rule.clone()).ok())
                .collect(),
            dns: serde_json::from_value(group["dns"].clone()).unwrap_or_default(),
        }
    }

    fn selects(&self, mesh_namespace: &str, namespace: &str, labels: &Labels) -> bool {
        if self.namespace != mesh_namespace && self.namespace != namespace {
            return false;
        }
        let wanted = &self.spec["selector"]["namespaceSelector"]["matchLabels"];
        wanted
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| {
                let own_name = key == label::NAMESPACE_NAME && *value == namespace;
                own_name || labels.get(key).is_some_and(|found| *value == **found)
            })
    }

    /// NetworkPolicies select pods by labels, which are the application's to change.
    fn by_account(&self) -> bool {
        let accounts = &self.spec["selector"]["serviceAccounts"];
        accounts.as_array().is_some_and(|list| !list.is_empty())
    }

    fn id(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }
}

/// True for a namespace that nobody confines.
fn never(inputs: &Inputs<'_>, namespace: &str) -> bool {
    namespace.starts_with("kube-")
        || namespace == inputs.mesh_namespace
        || inputs.never.iter().any(|one| one == namespace)
}

/// What shall be.
pub(crate) fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    for policy in inputs
        .policies
        .iter()
        .filter(|policy| policy.egress().confine)
    {
        plan.asking.insert(policy.id());
        if policy.by_account() {
            let message = "a NetworkPolicy cannot select by ServiceAccount: confine in a policy without selector.serviceAccounts";
            plan.refused.insert(policy.id(), message.to_owned());
        }
    }
    for (namespace, labels) in inputs.namespaces {
        if never(inputs, namespace) {
            continue;
        }
        let selecting: Vec<&Accepted> = inputs
            .policies
            .iter()
            .filter(|policy| policy.selects(inputs.mesh_namespace, namespace, labels))
            .collect();
        let confining: Vec<&&Accepted> = selecting
            .iter()
            .filter(|policy| policy.egress().confine && !policy.by_account())
            .collect();
        if confining.is_empty() {
            continue;
        }
        for policy in confining {
            let of_policy = plan.by_policy.entry(policy.id()).or_default();
            of_policy.insert(namespace.clone());
        }
        let home = selecting
            .iter()
            .filter(|policy| policy.namespace == inputs.mesh_namespace && !policy.by_account());
        let opened: Vec<Egress> = home.map(|policy| policy.egress()).collect();
        let made = network_policy(inputs.mesh_namespace, namespace, &opened);
        match serde_json::from_value(made) {
            Ok(made) => plan.wanted.push(made),
            Err(error) => drop(plan.failed.insert(namespace.clone(), error.to_string())),
        }
    }
    plan
}

fn network_policy(mesh_namespace: &str, namespace: &str, opened: &[Egress]) -> Value {
    let mut rules = mesh(mesh_namespace, namespace);
    let mut dns: Vec<Dns> = opened
        .iter()
        .filter_map(|egress| egress.dns.clone())
        .collect();
    if dns.is_empty() {
        dns.push(Dns::default());
    }
    rules.extend(dns.iter().map(names));
    rules.extend(opened.iter().flat_map(|egress| &egress.allow).map(allowed));
    rules.dedup();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": NAME, "namespace": namespace,
            "labels": {MANAGED.0: MANAGED.1, "app.kubernetes.io/part-of": "inference-mesh", "app.kubernetes.io/component": "confinement"},
        },
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": rules},
    })
}

fn ports(protocol: &str, numbers: impl IntoIterator<Item = u16>) -> Vec<Value> {
    let port = |number| json!({"port": number, "protocol": protocol});
    numbers.into_iter().map(port).collect()
}

/// Gateways, and workers for a sidecar that has lost them.
fn mesh(mesh_namespace: &str, namespace: &str) -> Vec<Value> {
    let pods = |namespace: &str, component: &str| {
        json!({
            "namespaceSelector": {"matchLabels": {label::NAMESPACE_NAME: namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "inference-mesh", "app.kubernetes.io/component": component}},
        })
    };
    let workers = [pods(mesh_namespace, "worker"), pods(namespace, "worker")];
    vec![
        json!({"to": [pods(mesh_namespace, "gateway")], "ports": ports("TCP", GATEWAY)}),
        json!({"to": workers, "ports": ports("TCP", [WORKER])}),
    ]
}

fn names(dns: &Dns) -> Value {
    let namespaces = dns.namespace_selector.as_ref().map_or_else(
        || json!({"matchLabels": {label::NAMESPACE_NAME: "kube-system"}}),
        |selector| json!(selector),
    );
    let pods = dns.pod_selector.as_ref().map_or_else(
        || json!({"matchLabels": {DNS_PODS.0: DNS_PODS.1}}),
        |selector| json!(selector),
    );
    let mut to = vec![json!({"namespaceSelector": namespaces, "podSelector": pods})];
    let mut numbers: BTreeSet<u16> = dns
        .ports
        .iter()
        .filter_map(|port| u16::try_from(*port).ok())
        .collect();
    if dns.node_local {
        to.push(json!({"ipBlock": {"cidr": NODE_LOCAL}}));
        numbers.insert(53);
    }
    if numbers.is_empty() {
        numbers.insert(53);
    }
    let both = [ports("UDP", numbers.clone()), ports("TCP", numbers)].concat();
    json!({"to": to, "ports": both})
}

fn allowed(rule: &EgressRule) -> Value {
    let mut peer = json!({});
    if let Some(cidr) = &rule.cidr {
        peer["ipBlock"] = json!({"cidr": cidr.0});
    }
    if let Some(selector) = &rule.namespace_selector {
        peer["namespaceSelector"] = json!(selector);
    }
    if let Some(selector) = &rule.pod_selector {
        peer["podSelector"] = json!(selector);
    }
    let mut made = json!({"to": [peer]});
    if !rule.ports.is_empty() {
        let numbers = rule
            .ports
            .iter()
            .filter_map(|port| u16::try_from(*port).ok());
        made["ports"] = json!(ports("TCP", numbers));
    }
    made
}

/// Makes it so: writes what is lacking and removes what is no longer wanted.
pub(crate) async fn keep(
    (writer, world): (&Writer, &World),
    options: &Run,
    policies: &[Accepted],
    setbacks: &mut Setbacks,
) -> Plan {
    let known = world.namespaces.state();
    let namespaces: Vec<(String, Labels)> = known
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
        .filter(|namespace| confinable(namespace.labels()))
        .map(|namespace| (namespace.name_any(), namespace.labels().clone()))
        .collect();
    let mut plan = plan(&Inputs {
        mesh_namespace: &options.mesh_namespace,
        never: &options.confine_never,
        namespaces: &namespaces,
        policies,
    });
    let leaving = known
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
        .map(|namespace| namespace.name_any())
        .collect();
    let failed = write((writer, world), &plan, &leaving, setbacks).await;
    plan.unfinished = failed.unfinished || !plan.failed.is_empty();
    plan.failed.extend(failed.by_namespace);
    plan
}

/// Labeled so, and without a mesh of its own.
fn confinable(labels: &Labels) -> bool {
    let says = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
    says(label::CONFINE, label::ENABLED) && !says(label::MESH, label::OWN)
}

/// One namespace does not hinder another: what could not be done is told by namespace, and what was refused is tried
/// again ever later.
async fn write(
    (writer, world): (&Writer, &World),
    plan: &Plan,
    leaving: &BTreeSet<String>,
    setbacks: &mut Setbacks,
) -> Failed {
    let networks = world.networks.state();
    let leftovers: Vec<&Arc<NetworkPolicy>> = plan.leftovers(&networks, leaving).collect();
    let wanted = plan.wanted.iter().map(|network| (network, true));
    let unwanted = leftovers.into_iter().map(|network| (&**network, false));
    let all: Vec<(&NetworkPolicy, bool)> = wanted.chain(unwanted).collect();
    setbacks.only(&all.iter().map(|(network, _)| key(network)).collect());
    let mut failed = Failed::default();
    for (network, wanted) in all {
        let of = version(network, wanted);
        if let Some(why) = setbacks.resting(&key(network), &of, Instant::now()) {
            failed.rests(network, why);
            continue;
        }
        if failed.ended.is_some() {
            setbacks.forget(&key(network));
            failed.skipped(network);
            continue;
        }
        let done = if wanted {
            let done = writer.apply(network.clone(), &world.networks).await;
            done.map(drop)
        } else {
            writer.delete(network).await
        };
        setbacks.noted(key(network), of, &done, Instant::now());
        failed.note(network, done);
    }
    failed
}

fn key(network: &NetworkPolicy) -> setback::Key {
    (
        String::from("NetworkPolicy"),
        network.namespace().unwrap_or_default(),
        network.name_any(),
    )
}

/// What it shall be; nothing for one that shall go.
fn version(network: &NetworkPolicy, wanted: bool) -> setback::Version {
    let spec = wanted.then(|| digest(&json!(network.spec)));
    (spec.or_else(|| network.uid()), None)
}

/// What could not be done.
#[derive(Default)]
struct Failed {
    by_namespace: BTreeMap<String, String>,
    /// Why the rest was not tried: each would wait as long for an API server that does not answer.
    ended: Option<String>,
    /// Something may be done the next time.
    unfinished: bool,
}

impl Failed {
    fn note(&mut self, network: &NetworkPolicy, done: Result<(), Error>) {
        let Err(error) = done else { return };
        let namespace = network.namespace().unwrap_or_default();
        tracing::warn!(reason = error.reason(), %error, namespace, "what confines a namespace could not be written");
        if error.unanswered() {
            self.ended = Some(error.to_string());
        }
        // Of a name that is taken a watch tells when it is free.
        self.unfinished |= !error.refused() && !error.stalls();
        self.by_namespace.insert(namespace, error.to_string());
    }

    fn rests(&mut self, network: &NetworkPolicy, why: &str) {
        let namespace = network.namespace().unwrap_or_default();
        self.by_namespace.insert(namespace, why.to_owned());
    }

    fn skipped(&mut self, network: &NetworkPolicy) {
        let namespace = network.namespace().unwrap_or_default();
        let why = self.ended.clone().unwrap_or_default();
        self.unfinished = true;
        self.by_namespace.insert(namespace, why);
    }
}

/// Ours: by name and by who manages it.
pub(crate) fn ours(network: &NetworkPolicy) -> bool {
    let managed = network.labels().get(MANAGED.0);
    managed.is_some_and(|value| value == MANAGED.1)
}

impl Plan {
    /// Takes what is known of the pods of everything that is confined.
    pub(crate) fn look(&mut self, canaries: &Canaries) {
        self.loose = canaries.loose();
    }

    /// True if there is something to look at.
    pub(crate) fn confines_something(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// NetworkPolicies of ours whose namespace is no longer confined. One that is being deleted stays closed to its
    /// end: its pods may run until then.
    pub(crate) fn leftovers<'n>(
        &self,
        networks: &'n [Arc<NetworkPolicy>],
        leaving: &BTreeSet<String>,
    ) -> impl Iterator<Item = &'n Arc<NetworkPolicy>> {
        let wanted: BTreeSet<Option<String>> = self
            .wanted
            .iter()
            .map(|policy| policy.metadata.namespace.clone())
            .collect();
        let leaving = leaving.clone();
        networks.iter().filter(move |network| {
            let there = network.name_any() == NAME && ours(network);
            let namespace = &network.metadata.namespace;
            there
                && network.metadata.deletion_timestamp.is_none()
                && !wanted.contains(namespace)
                && !namespace.as_ref().is_some_and(|one| leaving.contains(one))
        })
    }
}

#[cfg(test)]
mod tests;
