//! Writing: server-side apply, one field manager, and only what differs from what is there. An object that
//! is not ours is never taken over, whatever its name: what is not known to be there is created, which the
//! API server refuses if somebody has the name.

mod create;
mod error;
mod same;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{GroupVersionKind, NamespaceResourceScope};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use mesh_core::hex;
use mesh_crds::{Kind, label};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::metrics::Metrics;
use crate::status;
use crate::world::MANAGED;
pub(crate) use error::Error;
use same::differs;

/// Field manager of everything the operator writes.
pub(crate) const MANAGER: &str = "mesh-operator";
/// Digest of what was applied: tells that something is no longer wanted, which its absence cannot.
const APPLIED: &str = "inferencemesh.dev/applied";
/// Before that digest: it was created, and not applied since.
const CREATED: &str = "created-";

/// One of our kinds, as the API server names it.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(label::GROUP, label::VERSION, kind.as_str());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// Writes to one cluster. All clones share what they know.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
    settled: Arc<Mutex<HashMap<Key, Settled>>>,
}

/// Kind, namespace and name; a status has a key of its own.
type Key = (String, String, String);

/// The version of an object, and the digest of what is wanted, that were seen to agree.
#[derive(Debug, PartialEq, Eq)]
struct Settled {
    version: String,
    digest: String,
}

/// What an object shall be.
struct Goal {
    what: String,
    key: Key,
    meta: ObjectMeta,
    value: Value,
    digest: String,
}

/// The digest that was written last.
fn applied(meta: &ObjectMeta) -> Option<&str> {
    let said = meta.annotations.as_ref()?.get(APPLIED)?;
    Some(said.strip_prefix(CREATED).unwrap_or(said))
}

impl Goal {
    fn new<K>(wanted: &K) -> Result<Self, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let (kind, namespace, name) = (
            K::kind(&()).into_owned(),
            wanted.namespace().unwrap_or_default(),
            wanted.name_any(),
        );
        let what = format!("{kind} {namespace}/{name}");
        let value = match serde_json::to_value(wanted) {
            Ok(value) => value,
            Err(source) => return Err(Error::Json { what, source }),
        };
        let digest = digest(&value);
        Ok(Self {
            what,
            key: (kind, namespace, name),
            meta: wanted.meta().clone(),
            value,
            digest,
        })
    }

    fn failed(&self, source: kube::Error) -> Error {
        Error::Write {
            what: self.what.clone(),
            source: Box::new(source),
        }
    }
}

/// More than any mesh has children: after that many it is forgotten what agreed, and compared again.
const REMEMBERED: usize = 100_000;

impl Writer {
    pub(crate) fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            settled: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Settled>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if this version was seen to be as wanted: it is not compared again, and where the API server
    /// keeps it differently from how it was written, not written again either.
    fn agrees(&self, key: &Key, version: Option<&str>, digest: &str) -> bool {
        let known = self.known();
        let settled = known.get(key);
        settled.is_some_and(|one| Some(one.version.as_str()) == version && one.digest == digest)
    }

    fn settle(&self, key: Key, version: Option<String>, digest: String) {
        let mut known = self.known();
        if known.len() > REMEMBERED {
            known.clear();
        }
        if let Some(version) = version {
            known.insert(key, Settled { version, digest });
        }
    }

    /// Makes `wanted` so, unless it is.
    pub(crate) async fn apply<K>(&self, wanted: K, store: &Store<K>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let goal = Goal::new(&wanted)?;
        let there = store.get(&ObjectRef::from_obj(&wanted));
        if let Some(there) = &there
            && self.stands(&**there, &goal)?
        {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &goal.key.1);
        let Some(there) = there else {
            return self.create(&api, wanted, &goal).await;
        };
        let version = there.resource_version();
        if self.patch(&api, there.meta(), &goal).await? == version {
            self.settle(goal.key, version, goal.digest);
        }
        Ok(())
    }

    /// Applies to what is there, if it is ours; gives the version that it has now.
    async fn patch<K>(
        &self,
        api: &Api<K>,
        there: &ObjectMeta,
        goal: &Goal,
    ) -> Result<Option<String>, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        if !ours(there, &goal.meta) {
            return Err(Error::Taken {
                what: goal.what.clone(),
            });
        }
        self.own(api, there, goal).await?;
        let mut body = goal.value.clone();
        body["metadata"]["annotations"][APPLIED] = json!(goal.digest);
        self.metrics.wrote(&goal.key.0);
        let params = PatchParams::apply(MANAGER).force();
        let done = api.patch(&goal.key.2, &params, &Patch::Apply(&body)).await;
        let done = done.map_err(|source| goal.failed(source))?;
        Ok(done.resource_version())
    }

    /// True if what is there needs no write now.
    fn stands<K>(&self, there: &K, goal: &Goal) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let version = there.resource_version();
        // What is being deleted comes again once it is gone.
        if there.meta().deletion_timestamp.is_some()
            || self.agrees(&goal.key, version.as_deref(), &goal.digest)
        {
            return Ok(true);
        }
        let live = serde_json::to_value(there).map_err(|source| Error::Json {
            what: goal.what.clone(),
            source,
        })?;
        let differs = differs(&live, &goal.value);
        if let Some(field) = &differs {
            tracing::debug!(what = goal.what, field, "is not as wanted");
        }
        let good = ours(there.meta(), &goal.meta)
            && applied(there.meta()) == Some(&goal.digest)
            && differs.is_none();
        if good {
            self.settle(goal.key.clone(), version, goal.digest.clone());
        }
        Ok(good)
    }

    /// Deletes an object that is no longer wanted.
    pub(crate) async fn delete<K>(&self, object: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        // A Job would leave its pods behind otherwise.
        self.end(object, DeleteParams::background()).await
    }

    async fn end<K>(&self, object: &K, params: DeleteParams) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> =
            Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        self.metrics.wrote(&K::kind(&()));
        let params = params.preconditions(Preconditions {
            uid: object.uid(),
            resource_version: None,
        });
        match api.delete(&object.name_any(), &params).await {
            Ok(_) => Ok(()),
            // Gone, and perhaps there is another of its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(Error::Write {
                what: format!("{} {}", K::kind(&()), object.name_any()),
                source: Box::new(source),
            }),
        }
    }

    /// Deletes a child by name and leaves what is its own to whoever takes its place.
    pub(crate) async fn release<K>(
        &self,
        store: &Store<K>,
        id: &(String, String),
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        match child(store, id) {
            Some(there) => self.end(&*there, DeleteParams::orphan()).await,
            None => Ok(()),
        }
    }

    /// Deletes a child by name, if it is there.
    pub(crate) async fn remove<K>(
        &self,
        store: &Store<K>,
        id: &(String, String),
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        match child(store, id) {
            Some(there) => self.delete(&*there).await,
            None => Ok(()),
        }
    }

    /// Writes the status of an object of one of our kinds, unless it says the same.
    pub(crate) async fn status(&self, object: &DynamicObject, status: &Value) -> Result<(), Error> {
        if status::said(object, status) {
            return Ok(());
        }
        let types = object.types.clone().unwrap_or_default();
        let Some(kind) = Kind::named(&types.kind) else {
            return Ok(());
        };
        let key = (
            format!("{}/status", types.kind),
            object.namespace().unwrap_or_default(),
            object.name_any(),
        );
        let (version, digest) = (object.resource_version(), digest(status));
        if self.agrees(&key, version.as_deref(), &digest) {
            return Ok(());
        }
        let resource = resource(kind);
        let what = format!("the status of {} {}", types.kind, object.name_any());
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &object.namespace().unwrap_or_default(),
            &resource,
        );
        // Its uid, lest one that has taken its name since is called what this one was.
        let body = json!({"apiVersion": types.api_version, "kind": types.kind,
            "metadata": {"name": object.name_any(), "uid": object.uid()}, "status": status});
        let params = PatchParams::apply(MANAGER).force();
        self.metrics.wrote(&types.kind);
        match api
            .patch_status(&object.name_any(), &params, &Patch::Apply(&body))
            .await
        {
            Ok(done) => {
                if done.resource_version() == version {
                    self.settle(key, version, digest);
                }
                Ok(())
            }
            // Deleted meanwhile, and perhaps there is another of its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(Error::Write {
                what,
                source: Box::new(source),
            }),
        }
    }
}

pub(crate) fn digest(value: &Value) -> String {
    hex(&Sha256::digest(value.to_string().as_bytes())[..16])
}

/// True if an object was made for what `wanted` is made for: by its owner, or, where somebody took that
/// off, by the labels that only we set.
fn ours(live: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let owners = |of: &ObjectMeta| of.owner_references.clone().unwrap_or_default();
    let owned = owners(wanted).iter().any(|wanted| {
        owners(live).iter().any(|live| {
            (&live.api_version, &live.kind, &live.name)
                == (&wanted.api_version, &wanted.kind, &wanted.name)
        })
    });
    let label =
        |of: &ObjectMeta, key: &str| of.labels.as_ref().and_then(|all| all.get(key)).cloned();
    let told = label(live, MANAGED.0).is_some_and(|value| value == MANAGED.1)
        && wanted
            .labels
            .iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(label::GROUP))
            .all(|(key, value)| label(live, key).as_ref() == Some(value));
    owned || told && (owners(live).is_empty() || owners(wanted).is_empty())
}

/// A child by name, if it is there, is of our kinds' objects and is not going already.
fn child<K>(store: &Store<K>, id: &(String, String)) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    let there = store.get(&ObjectRef::new(&id.1).within(&id.0))?;
    let stands = there.meta().deletion_timestamp.is_none() && of_the_kinds(there.meta());
    stands.then_some(there)
}

/// True if it belongs to an object of our kinds.
fn of_the_kinds(live: &ObjectMeta) -> bool {
    let owners = live.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|owner| owner.api_version == label::API_VERSION)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::ours;

    fn meta(labels: &Value, owner: Option<(&str, &str)>) -> ObjectMeta {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|(kind, name)| json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "name": name, "uid": "u"}))
            .collect();
        serde_json::from_value(
            json!({"name": "a-worker", "labels": labels, "ownerReferences": owners}),
        )
        .unwrap()
    }

    #[test]
    fn only_what_was_made_for_the_same_object_is_ours() {
        let labels = json!({"app.kubernetes.io/managed-by": "mesh-operator", "inferencemesh.dev/backend": "a"});
        let other = json!({"app.kubernetes.io/managed-by": "mesh-operator", "inferencemesh.dev/backend": "b"});
        let owner = Some(("InferenceBackend", "a"));
        let wanted = meta(&labels, owner);
        assert!(ours(&meta(&labels, owner), &wanted));
        assert!(
            ours(&meta(&json!({}), owner), &wanted),
            "its labels were taken off"
        );
        assert!(
            ours(&meta(&labels, None), &wanted),
            "its owner was taken off"
        );
        assert!(!ours(&meta(&json!({"app": "a"}), None), &wanted));
        assert!(!ours(&meta(&other, None), &wanted));
        assert!(
            !ours(&meta(&labels, Some(("ReplicaSet", "a"))), &wanted),
            "a copy of it"
        );
    }
}
