//! Everything the operator looks at, kept in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use mesh_crds::{
    Document, InferenceBackend, ModelCache, Object, Parsed, SovereigntyPolicy, label, parse_object,
};
use mesh_runtime::Shutdown;
use mesh_watch::{Progress, Scope, Watches};
use tokio::sync::watch;

use crate::backend::Claims;

/// Label and value of everything that the operator makes.
pub(crate) const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "mesh-operator");

/// Everything that is watched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) caches: Store<DynamicObject>,
    pub(crate) backends: Store<DynamicObject>,
    pub(crate) policies: Store<DynamicObject>,
    pub(crate) revisions: Store<ControllerRevision>,
    pub(crate) nodes: Store<Node>,
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) pods: Store<Pod>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) stateful_sets: Store<StatefulSet>,
    pub(crate) services: Store<Service>,
    pub(crate) accounts: Store<ServiceAccount>,
    pub(crate) budgets: Store<PodDisruptionBudget>,
    pub(crate) networks: Store<NetworkPolicy>,
    pub(crate) claims: Claims,
    progress: Progress,
}

impl World {
    /// Looks at `namespace` only, if that is the scope.
    pub(crate) fn watch(
        client: &Client,
        shutdown: &Shutdown,
        (scope, namespace): (Scope, &str),
    ) -> Self {
        let watches = Watches::new(
            client.clone(),
            shutdown.tracker.clone(),
            shutdown.token.clone(),
        )
        .within(scope, namespace);
        let managed = format!("{}={}", MANAGED.0, MANAGED.1);
        Self {
            caches: watches.raw::<ModelCache>(),
            backends: watches.raw::<InferenceBackend>(),
            policies: watches.raw::<SovereigntyPolicy>(),
            revisions: watches.labeled(label::POLICY),
            nodes: watches.of_cluster(""),
            namespaces: watches.of_cluster(""),
            pods: watches.labeled(label::BACKEND),
            deployments: watches.labeled(&managed),
            stateful_sets: watches.labeled(&managed),
            services: watches.labeled(&managed),
            accounts: watches.labeled(&managed),
            budgets: watches.labeled(&managed),
            networks: watches.labeled(&managed),
            progress: watches.progress(),
            claims: Claims::new(client.clone(), watches),
        }
    }

    /// Tells of every change.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.progress.changed()
    }

    /// Namespaces with a mesh of their own, which a mesh of the whole cluster leaves alone.
    pub(crate) fn own_meshes(&self) -> BTreeSet<String> {
        let all = self.namespaces.state();
        all.iter()
            .filter(|namespace| has_own_mesh(&***namespace))
            .map(|namespace| namespace.name_any())
            .collect()
    }

    /// What is not known yet.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.progress.missing()
    }
}

/// True if a namespace says that it has a mesh of its own.
pub(crate) fn has_own_mesh(namespace: &impl ResourceExt) -> bool {
    namespace.labels().get(label::MESH).map(String::as_str) == Some(label::OWN)
}

/// An object of one of the kinds, through the same door as files: schema, rules, and what a cluster does
/// not have.
pub(crate) struct Read {
    /// The object as it came.
    pub(crate) raw: Arc<DynamicObject>,
    /// What it says, if that can be used.
    pub(crate) document: Option<Document>,
    /// What is wrong with it.
    pub(crate) parsed: Parsed,
}

impl Read {
    pub(crate) fn new(raw: Arc<DynamicObject>) -> Self {
        let mut parsed = parse_object(&raw, raw.data.get("spec"), &[]);
        Self {
            document: parsed.documents.pop(),
            raw,
            parsed,
        }
    }

    /// What it says, if that can be used.
    pub(crate) fn object(&self) -> Option<&Object> {
        self.document.as_ref().map(|document| &document.object)
    }

    pub(crate) fn namespace(&self) -> String {
        self.raw.namespace().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> String {
        self.raw.name_any()
    }

    pub(crate) fn deleted(&self) -> bool {
        self.raw.meta().deletion_timestamp.is_some()
    }

    /// Everything that keeps the object from being used, as one message.
    pub(crate) fn faults(&self) -> Option<String> {
        let faults: Vec<String> = self
            .parsed
            .problems
            .iter()
            .filter(|problem| problem.error())
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// The reason of the first of them.
    pub(crate) fn reason(&self) -> &'static str {
        let mut faults = self
            .parsed
            .problems
            .iter()
            .filter(|problem| problem.error());
        faults
            .next()
            .map_or("InvalidSpec", mesh_crds::Problem::reason)
    }
}
