//! Writing: server-side apply, one field manager, and only what differs from what is there.

use std::fmt::Debug;

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
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

/// Field manager of everything the operator writes.
pub(crate) const MANAGER: &str = "mesh-operator";
/// Digest of what was applied: tells that something is no longer wanted, which its absence cannot.
const APPLIED: &str = "inferencemesh.dev/applied";

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused, or could not be asked.
    #[error("could not write {what}: {}", words(.source))]
    Write {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// It could not be written as JSON.
    #[error("could not write {what} as JSON")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
}

/// What the API server says is for people; the rest of its answer is not.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Write { .. } => "WriteRefused",
            Self::Json { .. } => "NotWritable",
        }
    }
}

/// One of our kinds, as the API server names it.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(label::GROUP, label::VERSION, kind.as_str());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// Writes to one cluster.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
}

impl Writer {
    /// Makes `wanted` so, unless it is.
    pub(crate) async fn apply<K>(&self, wanted: K, store: &Store<K>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let what = format!(
            "{} {}/{}",
            K::kind(&()),
            wanted.namespace().unwrap_or_default(),
            wanted.name_any()
        );
        let json = |source| Error::Json {
            what: what.clone(),
            source,
        };
        let mut value = serde_json::to_value(&wanted).map_err(json)?;
        let digest = digest(&value);
        value["metadata"]["annotations"][APPLIED] = json!(digest);
        let there = store.get(&ObjectRef::from_obj(&wanted));
        if let Some(there) = there {
            let live = serde_json::to_value(&*there).map_err(json)?;
            if holds(&live, &value) {
                return Ok(());
            }
        }
        let api: Api<K> =
            Api::namespaced(self.client.clone(), &wanted.namespace().unwrap_or_default());
        let params = PatchParams::apply(MANAGER).force();
        self.metrics.wrote(&K::kind(&()));
        let done = api
            .patch(&wanted.name_any(), &params, &Patch::Apply(&value))
            .await;
        done.map(drop).map_err(|source| Error::Write {
            what,
            source: Box::new(source),
        })
    }

    /// Deletes an object that is no longer wanted.
    pub(crate) async fn delete<K>(&self, object: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> =
            Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        self.metrics.wrote(&K::kind(&()));
        match api
            .delete(&object.name_any(), &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(Error::Write {
                what: format!("{} {}", K::kind(&()), object.name_any()),
                source: Box::new(source),
            }),
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
        match store.get(&ObjectRef::new(&id.1).within(&id.0)) {
            Some(there) if there.meta().deletion_timestamp.is_some() => Ok(()),
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
        let resource = resource(kind);
        let what = format!("the status of {} {}", types.kind, object.name_any());
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &object.namespace().unwrap_or_default(),
            &resource,
        );
        let body = json!({"apiVersion": types.api_version, "kind": types.kind, "metadata": {"name": object.name_any()}, "status": status});
        let params = PatchParams::apply(MANAGER).force();
        self.metrics.wrote(&types.kind);
        match api
            .patch_status(&object.name_any(), &params, &Patch::Apply(&body))
            .await
        {
            Ok(_) => Ok(()),
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(Error::Write {
                what,
                source: Box::new(source),
            }),
        }
    }
}

fn digest(value: &Value) -> String {
    hex(&Sha256::digest(value.to_string().as_bytes())[..16])
}

/// True if everything in `wanted` is in `live`; the API server and others may have added to it.
fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            let empty = wanted.is_null()
                || wanted.as_object().is_some_and(serde_json::Map::is_empty)
                || wanted.as_array().is_some_and(Vec::is_empty);
            live.get(key).map_or(empty, |live| holds(live, wanted))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| holds(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::holds;

    #[test]
    fn what_others_added_is_left_alone_and_what_they_changed_is_seen() {
        let wanted = json!({"spec": {"replicas": 1, "ports": [{"port": 80}], "empty": {}}});
        let live = json!({"spec": {"replicas": 1, "ports": [{"port": 80, "protocol": "TCP"}], "more": true}, "status": {}});
        assert!(holds(&live, &wanted));
        for changed in [
            json!({"spec": {"replicas": 2, "ports": [{"port": 80}]}}),
            json!({"spec": {"replicas": 1, "ports": [{"port": 80}, {"port": 81}]}}),
            json!({"spec": {"replicas": 1}}),
        ] {
            assert!(!holds(&changed, &wanted), "{changed}");
        }
    }
}
