//! What the cluster declares and the gateway looks at.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use mesh_crds::{InferenceBackend, ModelCache, SovereigntyPolicy, label};
use mesh_runtime::Shutdown;
use mesh_watch::{Progress, Watches};
use tokio::sync::watch;

/// Everything that is watched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) caches: Store<DynamicObject>,
    pub(crate) backends: Store<DynamicObject>,
    pub(crate) policies: Store<DynamicObject>,
    /// Accepted versions of the policies.
    pub(crate) revisions: Store<ControllerRevision>,
    /// Where the pods of backends are.
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) nodes: Store<Node>,
    namespaces: Store<Namespace>,
    progress: Progress,
}

impl Cluster {
    pub(crate) fn watch(client: &Client, shutdown: &Shutdown) -> Self {
        let watches = Watches::new(
            client.clone(),
            shutdown.tracker.clone(),
            shutdown.token.clone(),
        );
        Self {
            caches: watches.raw::<ModelCache>(),
            backends: watches.raw::<InferenceBackend>(),
            policies: watches.raw::<SovereigntyPolicy>(),
            revisions: watches.labeled(label::POLICY),
            slices: watches.labeled(label::BACKEND),
            nodes: watches.labeled(""),
            namespaces: watches.labeled(""),
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

    /// Labels of all namespaces.
    pub(crate) fn namespace_labels(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let all = self.namespaces.state();
        all.iter()
            .map(|namespace| (namespace.name_any(), namespace.labels().clone()))
            .collect()
    }
}
