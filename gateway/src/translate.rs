//! From what the cluster declares to the snapshot that requests are decided from. An object with a fault
//! is left out by itself, and whatever needs it; a policy is never left out, it gets stricter.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use mesh_core::{Pod, Snapshot};
use mesh_crds::{
    ConvertInput, Document, PodMap, Problem, label, node_evidence, object_file, parse_object,
    to_snapshot_lenient,
};
use mesh_dataplane::SnapshotStore;
use mesh_runtime::Shutdown;
use mesh_watch::Scope;
use serde_json::{Value, json};

use crate::secrets::Secrets;
use crate::watch::Cluster;

/// Changes that come in a burst become one snapshot.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// A snapshot is made anew at least this often: claims expire, names move, keys change.
const REFRESH: Duration = Duration::from_mins(1);

/// Keeps the snapshot up to date until the end.
pub(crate) fn keep(
    cluster: Cluster,
    snapshots: SnapshotStore,
    mut secrets: Secrets,
    mesh_namespace: &str,
    shutdown: &Shutdown,
) {
    let (mesh_namespace, token) = (mesh_namespace.to_owned(), shutdown.token.clone());
    let mut changed = cluster.changed();
    let work = async move {
        loop {
            changed.borrow_and_update();
            if cluster.missing().is_empty() {
                let seen = Seen::new(&cluster);
                let namespace = mesh_namespace.clone();
                // Names are resolved meanwhile, which may take seconds.
                let made = tokio::task::spawn_blocking(move || seen.snapshot(&namespace)).await;
                let Ok(made) = made else { break };
                secrets.refresh(&made, false).await;
                snapshots.replace(made);
            }
            tokio::time::sleep(DEBOUNCE).await;
            let quiet = tokio::time::timeout(REFRESH, changed.changed()).await;
            match quiet {
                Ok(Ok(())) => {}
                Ok(Err(_)) => break,
                Err(_) => secrets.refresh(&snapshots.current(), true).await,
            }
        }
    };
    shutdown.spawn(async move {
        token.run_until_cancelled(work).await;
    });
}

/// Everything that is declared at one moment.
struct Seen {
    objects: Vec<Arc<DynamicObject>>,
    scope: Scope,
    policies: Vec<Arc<DynamicObject>>,
    revisions: Vec<Arc<ControllerRevision>>,
    pods: PodMap,
}

impl Seen {
    fn new(cluster: &Cluster) -> Self {
        let mut objects = cluster.declared(&cluster.caches);
        objects.extend(cluster.declared(&cluster.backends));
        Self {
            objects,
            scope: cluster.scope,
            policies: cluster.declared(&cluster.policies),
            revisions: cluster.revisions.state(),
            pods: pods(&cluster.slices.state(), &cluster.nodes.state()),
        }
    }

    fn snapshot(&self, mesh_namespace: &str) -> Snapshot {
        let mut documents: Vec<Document> = self
            .objects
            .iter()
            .filter_map(|object| declared(object))
            .collect();
        documents.extend(
            self.policies
                .iter()
                .filter_map(|policy| self.accepted(policy)),
        );
        let input = ConvertInput {
            mesh_namespace,
            generation: 0,
            now: Timestamp::now(),
            resolve: &resolve,
            pods: Some(&self.pods),
        };
        let stricter = |document: &Document| {
            let policy = self
                .policies
                .iter()
                .find(|policy| object_file(policy) == document.file())?;
            read(policy, &stand_in(policy), &[(label::STAND_IN, "true")])
        };
        let (mut converted, problems) = to_snapshot_lenient(documents, &input, &stricter);
        tell(&problems);
        if self.scope == Scope::Namespaced {
            converted.snapshot.forget_nodes();
        }
        converted.snapshot
    }

    /// The newest accepted spec of a policy. Without one the traffic that it selects may use owned
    /// hardware only.
    fn accepted(&self, policy: &DynamicObject) -> Option<Document> {
        let uid = policy.meta().uid.as_deref();
        let own = |revision: &&Arc<ControllerRevision>| {
            let owners = revision.metadata.owner_references.iter().flatten();
            revision.metadata.namespace == policy.metadata.namespace
                && owners
                    .into_iter()
                    .any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let newest = self
            .revisions
            .iter()
            .filter(own)
            .max_by_key(|revision| revision.revision);
        let spec = newest.and_then(|revision| revision.data.as_ref()?.0.get("spec").cloned());
        let document = spec.and_then(|spec| read(policy, &spec, &[]));
        document.or_else(|| read(policy, &stand_in(policy), &[(label::STAND_IN, "true")]))
    }
}

/// A policy that selects the same and allows owned hardware only.
fn stand_in(policy: &DynamicObject) -> Value {
    let classes = ["restricted", "confidential", "internal", "public"];
    let minimum: BTreeMap<&str, &str> = classes.map(|level| (level, "OwnHardware")).into();
    let mut spec = json!({"constraints": {"minimumClass": minimum}});
    if let Some(selector) = policy
        .data
        .pointer("/spec/selector")
        .filter(|value| !value.is_null())
    {
        spec["selector"] = selector.clone();
    }
    spec
}

fn declared(object: &DynamicObject) -> Option<Document> {
    read(object, object.data.get("spec")?, &[])
}

fn read(object: &DynamicObject, spec: &Value, labels: &[(&str, &str)]) -> Option<Document> {
    let mut parsed = parse_object(object, Some(spec), labels);
    tell(&parsed.problems);
    parsed.documents.pop()
}

fn tell(problems: &[Problem]) {
    for problem in problems.iter().filter(|problem| problem.error()) {
        tracing::warn!(
            object = problem.file,
            field = problem.field,
            reason = problem.reason(),
            "left out: {}",
            problem.message
        );
    }
}

fn resolve(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    found
        .map(|found| found.map(|address| address.ip()).collect())
        .unwrap_or_default()
}

/// Pods that are ready, by backend, with what is known of their nodes.
fn pods(slices: &[Arc<EndpointSlice>], nodes: &[Arc<Node>]) -> PodMap {
    let nodes: BTreeMap<String, Arc<mesh_core::Node>> = nodes
        .iter()
        .map(|node| (node.name_any(), Arc::new(node_evidence(node))))
        .collect();
    let mut pods = PodMap::new();
    for slice in slices {
        let (Some(namespace), Some(backend)) =
            (slice.namespace(), slice.labels().get(label::BACKEND))
        else {
            continue;
        };
        let Some(port) = slice
            .ports
            .iter()
            .flatten()
            .find_map(|port| u16::try_from(port.port?).ok())
        else {
            continue;
        };
        let list = pods.entry((namespace, backend.clone())).or_default();
        for endpoint in &slice.endpoints {
            let ready = endpoint
                .conditions
                .as_ref()
                .is_none_or(|conditions| conditions.ready.unwrap_or(true));
            let address = endpoint
                .addresses
                .first()
                .and_then(|address| address.parse::<IpAddr>().ok());
            let (true, Some(address)) = (ready, address) else {
                continue;
            };
            list.push(Arc::new(Pod {
                name: endpoint
                    .target_ref
                    .as_ref()
                    .and_then(|target| target.name.clone())
                    .unwrap_or_default(),
                address: SocketAddr::new(address, port),
                node: endpoint
                    .node_name
                    .as_ref()
                    .and_then(|name| nodes.get(name).cloned()),
            }));
        }
    }
    for list in pods.values_mut() {
        list.sort_by_key(|pod| pod.address);
        list.dedup_by_key(|pod| pod.address);
    }
    pods
}
