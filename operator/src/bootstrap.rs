//! The floor of an installation: made if it is not there, made again if it is deleted, never overwritten.
//! It comes from here and not from the chart, since a custom resource in the same release as its kind
//! cannot be mapped.

use std::path::Path;

use anyhow::Context as _;
use kube::api::{Api, DynamicObject, PostParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use mesh_crds::{Document, Home, Kind, Object, label, parse_for};
use serde_json::Value;

use crate::apply::{MANAGER, resource};
use crate::world::World;

/// Reads the objects; a file that is not there means none.
pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Vec<Value>> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read the objects in {}", path.display()))?;
    let parsed = parse_for(Home::Cluster, "bootstrap", &text);
    if let Some(problem) = parsed.problems.iter().find(|problem| problem.error()) {
        anyhow::bail!(
            "the objects in {} cannot be used: {problem}",
            path.display()
        );
    }
    parsed.documents.iter().map(object).collect()
}

fn object(document: &Document) -> anyhow::Result<Value> {
    Ok(match &document.object {
        Object::ModelCache(object) => serde_json::to_value(object)?,
        Object::InferenceBackend(object) => serde_json::to_value(object)?,
        Object::SovereigntyPolicy(object) => serde_json::to_value(object)?,
    })
}

/// Makes what is missing.
pub(crate) async fn ensure(client: &Client, world: &World, namespace: &str, objects: &[Value]) {
    for object in objects {
        let Some(kind) = object["kind"].as_str().and_then(Kind::named) else {
            continue;
        };
        let store = match kind {
            Kind::ModelCache => &world.caches,
            Kind::InferenceBackend => &world.backends,
            Kind::SovereigntyPolicy => &world.policies,
        };
        if let Err(error) = ensure_one(client, namespace, object, kind, store).await {
            tracing::warn!(%error, object = %object["metadata"]["name"], "could not make an object of the installation");
        }
    }
}

async fn ensure_one(
    client: &Client,
    namespace: &str,
    object: &Value,
    kind: Kind,
    store: &Store<DynamicObject>,
) -> kube::Result<()> {
    let resource = resource(kind);
    let mut object: DynamicObject =
        serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    object.metadata.namespace = Some(namespace.to_owned());
    object
        .metadata
        .labels
        .get_or_insert_default()
        .insert(label::BOOTSTRAP.to_owned(), String::from("true"));
    if store
        .get(&ObjectRef::new_with(&object.name_any(), resource.clone()).within(namespace))
        .is_some()
    {
        return Ok(());
    }
    if let Some(fields) = object.data.as_object_mut() {
        fields.remove("status");
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match api
        .create(
            &PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            },
            &object,
        )
        .await
    {
        Ok(_) => {
            tracing::info!(
                %kind,
                name = object.name_any(),
                "made an object of the installation"
            );
            Ok(())
        }
        // Somebody was faster, or the namespace is going away.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 409) => {
            tracing::debug!(message = status.message, "not made");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
