//! From what the cluster declares to the snapshot that requests are decided from. An object with a fault
//! is left out by itself, and whatever needs it; a policy is never left out, it gets stricter.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use mesh_backends::Backends;
use mesh_core::Snapshot;
use mesh_crds::{
    ConvertInput, Document, Object, PodMap, Problem, cluster_networks, label, mend, object_file,
    parse_object, to_snapshot_lenient,
};
use mesh_dataplane::SnapshotStore;
use mesh_runtime::Shutdown;
use mesh_watch::Scope;
use serde_json::Value;

use crate::callers::ClusterCallers;
use crate::pods;
use crate::secrets::Secrets;
use crate::watch::Cluster;

/// Changes that come in a burst become one snapshot.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// A snapshot is made anew at least this often: claims expire, names move, keys change.
const REFRESH: Duration = Duration::from_secs(30);
/// How often a policy is mended part by part before nothing but its selector is kept.
const ATTEMPTS: usize = 4;

/// What snapshots are made with.
pub(crate) struct Maker {
    pub(crate) cluster: Cluster,
    pub(crate) secrets: Secrets,
    pub(crate) backends: Arc<Backends>,
    pub(crate) callers: Arc<ClusterCallers>,
    pub(crate) mesh_namespace: String,
    /// Addresses of this pod and of the API server.
    pub(crate) own: Vec<IpAddr>,
    /// Networks of pods and Services that no object tells.
    pub(crate) cluster_networks: Vec<IpNet>,
}

impl Maker {
    /// Keeps the snapshot up to date until the end.
    pub(crate) fn keep(mut self, snapshots: SnapshotStore, shutdown: &Shutdown) {
        let token = shutdown.token.clone();
        let mut changed = self.cluster.changed();
        let work = async move {
            loop {
                changed.borrow_and_update();
                if self.cluster.missing().is_empty() {
                    let made = self.make().await;
                    put(&snapshots, made);
                }
                tokio::time::sleep(DEBOUNCE).await;
                let quiet = tokio::time::timeout(REFRESH, changed.changed()).await;
                if let Ok(Err(_)) = quiet {
                    break;
                }
            }
        };
        shutdown.spawn(async move {
            token.run_until_cancelled(work).await;
        });
    }

    async fn make(&mut self) -> Option<Snapshot> {
        let mesh = pods::own_addresses(&self.cluster.pods.state(), &self.cluster.services.state());
        let own = self.own.iter().copied();
        self.backends.set_closed(mesh.into_iter().chain(own));
        let seen = Seen::new(&self.cluster, &self.mesh_namespace, &self.cluster_networks);
        // Names are resolved meanwhile, which may take seconds.
        let mut made = tokio::task::spawn_blocking(move || seen.snapshot(&resolve))
            .await
            .ok()?;
        made.created = self.callers.as_of(made.created);
        self.secrets.refresh(&made).await;
        Some(made)
    }
}

/// One that could not be made changes nothing.
fn put(snapshots: &SnapshotStore, made: Option<Snapshot>) {
    if let Some(made) = made {
        snapshots.replace(made);
    } else {
        snapshots.reject();
        tracing::error!("a snapshot could not be made; the last one stays");
    }
}

/// Everything that is declared at one moment.
struct Seen {
    mesh_namespace: String,
    objects: Vec<Arc<DynamicObject>>,
    scope: Scope,
    policies: Vec<Arc<DynamicObject>>,
    revisions: Vec<Arc<ControllerRevision>>,
    pods: PodMap,
    cluster_networks: Arc<[IpNet]>,
}

impl Seen {
    fn new(cluster: &Cluster, mesh_namespace: &str, stated: &[IpNet]) -> Self {
        let nodes = cluster.nodes.state();
        let mut objects = cluster.declared(&cluster.caches);
        objects.extend(cluster.declared(&cluster.backends));
        Self {
            mesh_namespace: mesh_namespace.to_owned(),
            objects,
            scope: cluster.scope,
            policies: cluster.declared(&cluster.policies),
            revisions: cluster.revisions.state(),
            pods: pods::serving(&cluster.pods.state(), &nodes),
            cluster_networks: cluster_networks(&nodes, &cluster.service_networks.state(), stated),
        }
    }

    fn snapshot(&self, resolve: &dyn Fn(&str) -> Vec<IpAddr>) -> Snapshot {
        let mut documents: Vec<Document> = self
            .objects
            .iter()
            .filter_map(|object| declared(object))
            .collect();
        documents.extend(
            self.policies
                .iter()
                .filter_map(|policy| self.readable(policy, self.accepted(policy))),
        );
        let input = ConvertInput {
            mesh_namespace: &self.mesh_namespace,
            generation: 0,
            now: Timestamp::now(),
            resolve,
            pods: Some(&self.pods),
            cluster_networks: &self.cluster_networks,
        };
        let replace = |document: &Document, problems: &[Problem], before: usize| {
            self.replacement(document, problems, before)
        };
        let (mut converted, problems) = to_snapshot_lenient(documents, &input, &replace);
        tell(&problems);
        if self.scope == Scope::Namespaced {
            converted.snapshot.forget_nodes();
        }
        converted.snapshot
    }

    /// The newest accepted spec of a policy.
    fn accepted(&self, policy: &DynamicObject) -> Option<Value> {
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
            .max_by_key(|revision| revision.revision)?;
        newest.data.as_ref()?.0.get("spec").cloned()
    }

    /// The policy as it was accepted, or what of it can be read and something stricter for the rest. One
    /// that was never accepted: owned hardware only, for the traffic that it selects.
    fn readable(&self, policy: &DynamicObject, accepted: Option<Value>) -> Option<Document> {
        let Some(mut spec) = accepted else {
            return stand_in(policy, policy.data.pointer("/spec/selector"));
        };
        for attempt in 0..ATTEMPTS {
            let mut parsed = parse_object(policy, Some(&spec), &[]);
            tell(&parsed.problems);
            if let Some(document) = parsed.documents.pop() {
                return Some(document);
            }
            spec = self.stricter(policy, &spec, &parsed.problems, attempt);
        }
        stand_in(policy, spec.get("selector"))
    }

    /// What takes the place of a document that cannot be used beside the others. Only policies are replaced.
    fn replacement(
        &self,
        document: &Document,
        problems: &[Problem],
        before: usize,
    ) -> Option<Document> {
        let Object::SovereigntyPolicy(now) = &document.object else {
            return None;
        };
        let mut policies = self.policies.iter();
        let policy = policies.find(|policy| object_file(policy) == document.file())?;
        let spec = serde_json::to_value(&now.spec).unwrap_or_default();
        if before >= ATTEMPTS || document.object.labeled(label::STAND_IN) {
            return stand_in(policy, None);
        }
        self.readable(policy, Some(self.stricter(policy, &spec, problems, before)))
    }

    /// First what is at fault goes, then everything that only prefers.
    fn stricter(
        &self,
        policy: &DynamicObject,
        spec: &Value,
        problems: &[Problem],
        attempt: usize,
    ) -> Value {
        let groups = mend::faulty_groups(problems).filter(|_| attempt.is_multiple_of(2));
        let home = policy.namespace().as_deref() == Some(self.mesh_namespace.as_str());
        mend::stricter(spec, groups.as_ref(), home)
    }
}

/// A policy that selects the same and allows owned hardware only; everything, if it cannot be told what.
fn stand_in(policy: &DynamicObject, selector: Option<&Value>) -> Option<Document> {
    let labels = [(label::STAND_IN, "true")];
    let read = |selector| read(policy, &mend::stand_in(selector), &labels);
    read(selector).or_else(|| read(None))
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

#[cfg(test)]
mod tests;
