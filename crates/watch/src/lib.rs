//! What a cluster declares, kept in memory by watches. What was known stays known while the API server is
//! away; whoever reads is told of every change, and of what has not been listed yet.
//!
//! Refuses: writing anything, knowing what objects mean, and in an installation of one namespace to look
//! at anything else.

mod follow;
pub mod issuer;
mod rest;
mod scope;
pub mod strip;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::OptionFuture;
use futures::{FutureExt, StreamExt};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::follow::{code, refusal};
use crate::rest::Rest;
pub use scope::Scope;

/// One change, for whoever wants to know more than that there was one.
#[derive(Debug, Clone, Copy)]
pub enum Touched<'a> {
    /// An object came, changed or went.
    Object {
        /// Its kind.
        kind: &'a str,
        /// Its namespace; empty for kinds without.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
        /// Its labels.
        labels: &'a BTreeMap<String, String>,
    },
    /// All objects of a kind were listed anew.
    Listed(&'a str),
}

/// Called for every change, before [`Progress::changed`] tells of it.
pub type Listener = Arc<dyn Fn(Touched<'_>) + Send + Sync>;

/// How far the watch of one kind has come.
#[derive(Debug, Clone, Default)]
struct Place {
    listed: bool,
    /// The API server does not serve this kind, or not to us.
    refused: Option<String>,
}

/// By kind, and which of several watches of that kind.
type Key = (String, usize);
type Places = Arc<Mutex<BTreeMap<Key, Place>>>;

fn lock(places: &Places) -> MutexGuard<'_, BTreeMap<Key, Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts watches and knows which have not told everything yet.
pub struct Watches {
    client: Client,
    /// The only namespace that is looked at; none = all.
    namespace: Option<String>,
    tracker: TaskTracker,
    stop: CancellationToken,
    changed: Arc<watch::Sender<u64>>,
    places: Places,
    listener: Option<Listener>,
}

/// How far a set of watches has come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    changed: watch::Receiver<u64>,
    places: Places,
}

impl Progress {
    /// Tells of every change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What is not known yet, a line for each kind; empty once everything has been listed, for ever.
    pub fn missing(&self) -> Vec<String> {
        let line = |((kind, _), place): (&Key, &Place)| {
            let why = place.refused.as_deref().unwrap_or_default();
            (!place.listed).then(|| format!("objects of kind {kind} have not been listed yet{why}"))
        };
        lock(&self.places).iter().filter_map(line).collect()
    }

    /// What was known once and can no longer be asked for: its kind was removed, or the right to see it.
    /// What is known of it is of the past.
    pub fn lost(&self) -> Vec<String> {
        let line = |((kind, _), place): (&Key, &Place)| {
            let why = place.refused.as_deref()?;
            place
                .listed
                .then(|| format!("objects of kind {kind} can no longer be listed{why}"))
        };
        lock(&self.places).iter().filter_map(line).collect()
    }
}

/// What is done to objects before they are kept.
struct Keep<K> {
    trim: fn(&mut K),
    /// An API server that does not serve the kind has none of it: what is then to be done, for a person.
    optional: Option<&'static str>,
    /// Changes in nothing that is kept are nobody's news.
    same: Option<fn(&K, &K) -> bool>,
}

impl<K> Keep<K> {
    fn whole() -> Self {
        Self {
            trim: |_| (),
            optional: None,
            same: None,
        }
    }

    fn part(trim: fn(&mut K)) -> Self
    where
        K: PartialEq,
    {
        Self {
            trim,
            optional: None,
            same: Some(K::eq),
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
            places: Places::default(),
            listener: None,
        }
    }

    /// Looks at `namespace` only, if that is the scope.
    #[must_use]
    pub fn within(mut self, scope: Scope, namespace: &str) -> Self {
        self.namespace = (scope == Scope::Namespaced).then(|| namespace.to_owned());
        self
    }

    /// Tells `listener` of every change, too.
    #[must_use]
    pub fn told(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// How far they have come.
    pub fn progress(&self) -> Progress {
        Progress {
            changed: self.changed.subscribe(),
            places: Arc::clone(&self.places),
        }
    }

    /// Objects of kind `K` as they came: one that cannot be read must not hide the others.
    pub fn raw<K>(&self) -> Store<DynamicObject>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.dynamic(ApiResource::erase::<K>(&()), "", &Keep::whole())
    }

    /// Objects of a kind that no type here knows, with this label (a selector; empty = all), and that an API server need
    /// not serve, or not for ever: that is told once together with what it means (`without`), and nothing waits for it.
    /// What was known of it stays known.
    pub fn dynamic_if_served(
        &self,
        resource: ApiResource,
        selector: &str,
        without: &'static str,
    ) -> Store<DynamicObject> {
        let keep = Keep {
            optional: Some(without),
            ..Keep::whole()
        };
        self.dynamic(resource, selector, &keep)
    }

    fn dynamic(
        &self,
        resource: ApiResource,
        selector: &str,
        keep: &Keep<DynamicObject>,
    ) -> Store<DynamicObject> {
        let client = self.client.clone();
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        self.start(api, config(selector), resource, keep)
    }

    /// Objects of kind `K` that have this label (a selector; empty = all).
    pub fn labeled<K>(&self, selector: &str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.start(self.api(), config(selector), (), &Keep::whole())
    }

    /// The same, but only what `trim` leaves of each object is kept. It need not leave the resource
    /// version; where it does not, a change in what is not kept is not told.
    pub fn trimmed<K>(&self, selector: &str, trim: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + PartialEq,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.start(self.api(), config(selector), (), &Keep::part(trim))
    }

    /// Objects of kind `K` whose fields are so (a field selector), trimmed.
    pub fn fields<K>(&self, selector: &str, trim: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + PartialEq,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let config = watcher::Config::default().fields(selector);
        self.start(self.api(), config, (), &Keep::part(trim))
    }

    /// Objects of kind `K` in one namespace.
    pub fn of_namespace<K>(&self, namespace: &str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let api = Api::namespaced(self.client.clone(), namespace);
        self.start(api, config(""), (), &Keep::whole())
    }

    /// Objects of a kind that lives in no namespace. An installation of one namespace has no right to
    /// them: there are none.
    pub fn of_cluster<K>(&self, selector: &str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + PartialEq,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.of_cluster_trimmed(selector, |_| ())
    }

    /// The same, of which only what `trim` leaves is kept, as with [`Watches::trimmed`].
    pub fn of_cluster_trimmed<K>(&self, selector: &str, trim: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + PartialEq,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.of_cluster_kept(selector, &Keep::part(trim))
    }

    /// The same of a kind that an API server need not serve: there are none then, which is told once together with what
    /// that means (`without`).
    pub fn of_cluster_if_served<K>(&self, trim: fn(&mut K), without: &'static str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + PartialEq,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let keep = Keep {
            optional: Some(without),
            ..Keep::part(trim)
        };
        self.of_cluster_kept("", &keep)
    }

    fn of_cluster_kept<K>(&self, selector: &str, keep: &Keep<K>) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        if self.namespace.is_some() {
            return reflector::store::Writer::new(()).as_reader();
        }
        let api = Api::all(self.client.clone());
        self.start(api, config(selector), (), keep)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let client = self.client.clone();
        match &self.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    fn start<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        kind: K::DynamicType,
        keep: &Keep<K>,
    ) -> Store<K>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync,
    {
        let &Keep {
            trim,
            optional,
            same,
        } = keep;
        let mut writer = reflector::store::Writer::new(kind.clone());
        let store = writer.as_reader();
        let mut teller = Teller {
            kind: K::kind(&kind).into_owned(),
            number: lock(&self.places).len(),
            optional,
            absent: false,
            changed: Arc::clone(&self.changed),
            places: Arc::clone(&self.places),
            listener: self.listener.clone(),
        };
        lock(&self.places).insert(teller.key(), Place::default());
        let known = store.clone();
        let stream = follow::anew(api, config)
            .backoff(Rest::default())
            .modify(move |object| {
                // Who changed which field when is most of an object, and nobody here asks.
                object.managed_fields_mut().clear();
                trim(object);
            });
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let told = stream.for_each(|event| {
                let rest = match event {
                    Ok(event) if unchanged(&event, &known, &kind, same) => None,
                    Ok(event) => {
                        writer.apply_watcher_event(&event);
                        teller.event(&event);
                        None
                    }
                    Err(error) => teller.failed(&error),
                };
                OptionFuture::from(rest.map(tokio::time::sleep)).map(drop)
            });
            stop.run_until_cancelled(told).await;
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

fn unchanged<K>(
    event: &watcher::Event<K>,
    known: &Store<K>,
    kind: &K::DynamicType,
    same: Option<fn(&K, &K) -> bool>,
) -> bool
where
    K: Resource + Clone + 'static,
    K::DynamicType: Clone + Eq + Hash,
{
    let (watcher::Event::Apply(object), Some(same)) = (event, same) else {
        return false;
    };
    let old = known.get(&ObjectRef::from_obj_with(object, kind.clone()));
    old.is_some_and(|old| same(&old, object))
}

/// Tells of what one watch saw.
struct Teller {
    kind: String,
    number: usize,
    optional: Option<&'static str>,
    /// It was said that the kind is not served.
    absent: bool,
    changed: Arc<watch::Sender<u64>>,
    places: Places,
    listener: Option<Listener>,
}

impl Teller {
    fn key(&self) -> Key {
        (self.kind.clone(), self.number)
    }

    fn event<K: Resource>(&mut self, event: &watcher::Event<K>) {
        match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
                self.tell(Touched::Object {
                    kind: &self.kind,
                    namespace: object.meta().namespace.as_deref().unwrap_or_default(),
                    name: object.meta().name.as_deref().unwrap_or_default(),
                    labels: object.labels(),
                });
            }
            watcher::Event::InitDone => {
                self.absent = false;
                let place = Place {
                    listed: true,
                    refused: None,
                };
                lock(&self.places).insert(self.key(), place);
                self.tell(Touched::Listed(&self.kind));
            }
            // Nothing of it can be seen before the list is whole.
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        }
    }

    /// How long nobody is asked again, where that is longer than after other interruptions.
    fn failed(&mut self, error: &watcher::Error) -> Option<Duration> {
        if let (Some(without), Some(404)) = (self.optional, code(error)) {
            self.not_served(without);
            return Some(rest::absent());
        }
        tracing::warn!(kind = self.kind, %error, "a watch was interrupted");
        let refused = refusal(error);
        let mut places = lock(&self.places);
        if let Some(place) = places.get_mut(&self.key())
            && place.refused.as_deref() != refused
            // An API server that is away says nothing about the kind.
            && refused.is_some()
        {
            place.refused = refused.map(str::to_owned);
            drop(places);
            self.changed.send_modify(|number| *number += 1);
        }
        None
    }

    fn not_served(&mut self, without: &str) {
        if !std::mem::replace(&mut self.absent, true) {
            tracing::info!(
                kind = self.kind,
                "the API server does not serve this kind; {without}"
            );
        }
        let place = Place {
            listed: true,
            refused: None,
        };
        let before = lock(&self.places).insert(self.key(), place);
        if !before.is_some_and(|place| place.listed) {
            self.tell(Touched::Listed(&self.kind));
        }
    }

    fn tell(&self, touched: Touched<'_>) {
        if let Some(listener) = &self.listener {
            listener(touched);
        }
        self.changed.send_modify(|number| *number += 1);
    }
}

#[cfg(test)]
mod tests;
