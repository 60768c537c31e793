//! What the cluster declares and the gateway looks at.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use mesh_crds::{InferenceBackend, ModelCache, SovereigntyPolicy, label};
use mesh_runtime::Shutdown;
use mesh_watch::{Progress, Scope, Watches, strip};
use tokio::sync::watch;

use crate::pods::PART_OF;

/// Everything that is watched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) caches: Store<DynamicObject>,
    pub(crate) backends: Store<DynamicObject>,
    pub(crate) policies: Store<DynamicObject>,
    /// Accepted versions of the policies.
    pub(crate) revisions: Store<ControllerRevision>,
    /// All pods of the mesh.
    pub(crate) pods: Store<Pod>,
    pub(crate) nodes: Store<Node>,
    pub(crate) namespaces: Store<Namespace>,
    /// Networks of Services.
    pub(crate) service_networks: Store<ServiceCIDR>,
    /// Services of the mesh namespace.
    pub(crate) services: Store<Service>,
    pub(crate) scope: Scope,
    progress: Progress,
}

impl Cluster {
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
        Self {
            caches: watches.raw::<ModelCache>(),
            backends: watches.raw::<InferenceBackend>(),
            policies: watches.raw::<SovereigntyPolicy>(),
            revisions: watches.labeled(label::POLICY),
            pods: watches.trimmed(PART_OF, strip::pod),
            nodes: watches.of_cluster_trimmed("", strip::node),
            namespaces: watches.of_cluster_trimmed("", strip::namespace),
            service_networks: watches
                .of_cluster_if_served(strip::service_network, mesh_crds::NO_SERVICE_NETWORKS),
            services: watches.of_namespace(namespace),
            scope,
            progress: watches.progress(),
        }
    }

    /// Tells of every change.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.progress.changed()
    }

    /// What is not known yet.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.progress.missing()
    }

    /// Objects of one of the kinds, but not those of namespaces with a mesh of their own.
    pub(crate) fn declared(&self, store: &Store<DynamicObject>) -> Vec<Arc<DynamicObject>> {
        let own = |namespace: &Arc<Namespace>| {
            namespace.labels().get(label::MESH).map(String::as_str) == Some(label::OWN)
        };
        let namespaces = self.namespaces.state();
        let others: BTreeSet<String> = namespaces
            .iter()
            .filter(|namespace| own(namespace))
            .map(|namespace| namespace.name_any())
            .collect();
        let mut all = store.state();
        all.retain(|object| !object.namespace().is_some_and(|one| others.contains(&one)));
        all
    }
}
