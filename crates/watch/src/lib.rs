//! What a cluster declares, kept in memory by watches. What was known stays known while the API server is
//! away; whoever reads is told of every change, and of what has not been listed yet.
//!
//! Refuses: writing anything, knowing what objects mean, and in an installation of one namespace to look
//! at anything else.

mod scope;

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use scope::Scope;

/// Starts watches and counts those that have not told everything yet.
pub struct Watches {
    client: Client,
    /// The only namespace that is looked at; none = all.
    namespace: Option<String>,
    tracker: TaskTracker,
    stop: CancellationToken,
    changed: Arc<watch::Sender<u64>>,
    unsynced: Arc<AtomicUsize>,
}

/// How far a set of watches has come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    changed: watch::Receiver<u64>,
    unsynced: Arc<AtomicUsize>,
}

impl Progress {
    /// Tells of every change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What is not known yet, in words; empty once everything has been listed.
    pub fn missing(&self) -> Vec<String> {
        match self.unsynced.load(Ordering::Acquire) {
            0 => Vec::new(),
            number => vec![format!(
                "{number} kinds of objects have not been listed yet"
            )],
        }
    }
}

impl Watches {
    /// Watches run on `tracker` until `stop`.
    pub fn new(client: Client, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            client,
            namespace: None,
            tracker,
            stop,
            changed: Arc::new(watch::channel(0).0),
            unsynced: Arc::default(),
        }
    }

    /// Looks at `namespace` only, if that is the scope.
    #[must_use]
    pub fn within(mut self, scope: Scope, namespace: &str) -> Self {
        self.namespace = (scope == Scope::Namespaced).then(|| namespace.to_owned());
        self
    }

    /// How far they have come.
    pub fn progress(&self) -> Progress {
        Progress {
            changed: self.changed.subscribe(),
            unsynced: Arc::clone(&self.unsynced),
        }
    }

    /// Objects of kind `K` as they came: one that cannot be read must not hide the others.
    pub fn raw<K>(&self) -> Store<DynamicObject>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.dynamic(ApiResource::erase::<K>(&()), "")
    }

    /// Objects of a kind that no type here knows, with this label (a selector; empty = all).
    pub fn dynamic(&self, resource: ApiResource, selector: &str) -> Store<DynamicObject> {
        let client = self.client.clone();
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        self.start(api, config(selector), resource)
    }

    /// Objects of kind `K` that have this label (a selector; empty = all).
    pub fn labeled<K>(&self, selector: &str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let client = self.client.clone();
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        self.start(api, config(selector), ())
    }

    /// Objects of a kind that lives in no namespace. An installation of one namespace has no right to
    /// them: there are none.
    pub fn of_cluster<K>(&self, selector: &str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        if self.namespace.is_some() {
            return reflector::store::Writer::new(()).as_reader();
        }
        self.start(Api::all(self.client.clone()), config(selector), ())
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
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
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
            stop.run_until_cancelled(follow).await;
        });
        store
    }
}

fn config(selector: &str) -> watcher::Config {
    if selector.is_empty() {
        watcher::Config::default()
    } else {
        watcher::Config::default().labels(selector)
    }
}
