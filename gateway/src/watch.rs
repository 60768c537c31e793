//! What the cluster declares, kept by watches. What was known stays known while the API server is away.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use mesh_crds::{InferenceBackend, ModelCache, SovereigntyPolicy, label};
use mesh_runtime::Shutdown;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::args::Args;

/// Everything that is watched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The kinds, as they came: one that cannot be read must not hide the others.
    pub(crate) caches: Store<DynamicObject>,
    pub(crate) backends: Store<DynamicObject>,
    pub(crate) policies: Store<DynamicObject>,
    pub(crate) revisions: Store<ControllerRevision>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) nodes: Store<Node>,
    pub(crate) namespaces: Store<Namespace>,
    changed: watch::Receiver<u64>,
    unsynced: Arc<AtomicUsize>,
}

/// Starts watches and counts those that have not told everything yet.
struct Watches<'a> {
    client: &'a Client,
    shutdown: &'a Shutdown,
    changed: Arc<watch::Sender<u64>>,
    unsynced: Arc<AtomicUsize>,
}

impl Cluster {
    pub(crate) fn watch(client: &Client, _args: &Args, shutdown: &Shutdown) -> Self {
        let (sender, changed) = watch::channel(0);
        let watches = Watches {
            client,
            shutdown,
            changed: Arc::new(sender),
            unsynced: Arc::default(),
        };
        let labeled = |key: &str| watcher::Config::default().labels(key);
        Self {
            caches: watches.kind::<ModelCache>(),
            backends: watches.kind::<InferenceBackend>(),
            policies: watches.kind::<SovereigntyPolicy>(),
            revisions: watches.typed(labeled(label::POLICY)),
            slices: watches.typed(labeled(label::BACKEND)),
            nodes: watches.typed(watcher::Config::default()),
            namespaces: watches.typed(watcher::Config::default()),
            changed,
            unsynced: watches.unsynced,
        }
    }

    /// Tells of every change.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What is not known yet.
    pub(crate) fn missing(&self) -> Vec<String> {
        match self.unsynced.load(Ordering::Acquire) {
            0 => Vec::new(),
            number => vec![format!(
                "{number} kinds of objects have not been listed yet"
            )],
        }
    }

    /// Labels of all namespaces.
    pub(crate) fn namespace_labels(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let all = self.namespaces.state();
        all.iter()
            .map(|namespace| (namespace.name_any(), namespace.labels().clone()))
            .collect()
    }
}

impl Watches<'_> {
    fn kind<K: Resource<DynamicType = ()>>(&self) -> Store<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        let api = Api::all_with(self.client.clone(), &resource);
        self.start(api, watcher::Config::default(), resource)
    }

    fn typed<K>(&self, config: watcher::Config) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.start(Api::all(self.client.clone()), config, ())
    }

    fn start<K>(&self, api: Api<K>, config: watcher::Config, kind: K::DynamicType) -> Store<K>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync,
    {
        let writer = reflector::store::Writer::new(kind);
        let store = writer.as_reader();
        self.unsynced.fetch_add(1, Ordering::AcqRel);
        let (unsynced, changed) = (Arc::clone(&self.unsynced), Arc::clone(&self.changed));
        let stream = watcher(api, config)
            .default_backoff()
            // Who changed which field when is most of an object, and nobody here asks.
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer);
        let token = self.shutdown.token.clone();
        self.shutdown.spawn(async move {
            let mut synced = false;
            let follow = stream.for_each(|event| {
                match event {
                    Ok(watcher::Event::InitDone) if !synced => {
                        synced = true;
                        unsynced.fetch_sub(1, Ordering::AcqRel);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "a watch was interrupted"),
                }
                changed.send_modify(|number| *number += 1);
                std::future::ready(())
            });
            token.run_until_cancelled(follow).await;
        });
        store
    }
}
