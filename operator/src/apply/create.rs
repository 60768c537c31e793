//! What is not there yet: one request makes it, and it fails where somebody has the name. What was created is
//! in the books of the API server as written by an update, so before it is applied for the first time that
//! entry becomes one of server-side apply; else what is no longer wanted would stay.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{APPLIED, CREATED, Error, Goal, MANAGER, Writer, applied, ours};
use crate::world::MANAGED;

impl Writer {
    /// Creates `wanted`; if its name is in use, applies to what has it, if that is ours.
    pub(super) async fn create<K>(
        &self,
        api: &Api<K>,
        mut wanted: K,
        goal: &Goal,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let digest = format!("{CREATED}{}", goal.digest);
        wanted.annotations_mut().insert(APPLIED.to_owned(), digest);
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        self.metrics.wrote(&goal.key.0);
        let Err(refused) = api.create(&params, &wanted).await else {
            return Ok(());
        };
        if !matches!(&refused, kube::Error::Api(status) if status.reason == "AlreadyExists") {
            return Err(goal.failed(refused));
        }
        let found = found(api, &goal.key.2).await;
        let Some(there) = found.map_err(|source| goal.failed(source))? else {
            // Gone again: looked at once more like any other refusal.
            return Err(goal.failed(refused));
        };
        if watched(&there) && ours(&there, &goal.meta) && applied(&there) == Some(&goal.digest) {
            // Made by a pass whose memory has not caught up.
            return Ok(());
        }
        self.patch(api, &there, goal).await.map(drop)
    }

    /// Makes the fields that an object was created with fields that were applied.
    pub(super) async fn own<K>(
        &self,
        api: &Api<K>,
        there: &ObjectMeta,
        goal: &Goal,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let said = there.annotations.as_ref().and_then(|all| all.get(APPLIED));
        if !said.is_some_and(|said| said.starts_with(CREATED)) {
            return Ok(());
        }
        // What is watched is kept without its books.
        let found = found(api, &goal.key.2).await;
        let Some(now) = found.map_err(|source| goal.failed(source))? else {
            return Ok(());
        };
        let Some(patch) = applied_from_created(&now) else {
            return Ok(());
        };
        self.metrics.wrote(&goal.key.0);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let done = api.patch_metadata(&goal.key.2, &params, &patch).await;
        done.map(drop).map_err(|source| goal.failed(source))
    }
}

/// True if the watches see it.
fn watched(there: &ObjectMeta) -> bool {
    let labels = there.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED.0))
        .map(String::as_str)
        == Some(MANAGED.1)
}

/// What an object of this name says of itself.
async fn found<K>(api: &Api<K>, name: &str) -> kube::Result<Option<ObjectMeta>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = format!("metadata.name={name}");
    let found = api
        .list_metadata(&ListParams::default().fields(&name))
        .await?;
    Ok(found.items.into_iter().next().map(|one| one.metadata))
}

/// The patch that turns our entry of an update into one of an apply; none where there is nothing to turn.
fn applied_from_created(there: &ObjectMeta) -> Option<Value> {
    let entries = there.managed_fields.as_ref()?;
    let own = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    if entries.iter().any(|entry| own(entry, "Apply")) {
        return None;
    }
    let place = entries.iter().position(|entry| own(entry, "Update"))?;
    let mut entries = entries.clone();
    entries[place].operation = Some(String::from("Apply"));
    // With its version: refused if somebody wrote meanwhile, whose entries would be lost.
    Some(json!({"metadata": {"resourceVersion": there.resource_version, "managedFields": entries}}))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::applied_from_created;

    fn meta(entries: &[(&str, &str, &str)]) -> ObjectMeta {
        let entries: Vec<Value> = entries
            .iter()
            .map(|(manager, operation, part)| json!({"manager": manager, "operation": operation, "subresource": part, "apiVersion": "v1"}))
            .collect();
        serde_json::from_value(json!({"resourceVersion": "7", "managedFields": entries})).unwrap()
    }

    #[test]
    fn only_the_entry_of_our_own_creation_is_turned() {
        let ours = ("mesh-operator", "Update", "");
        let status = ("mesh-operator", "Update", "status");
        let other = ("kubectl", "Update", "");
        let patch = applied_from_created(&meta(&[other, status, ours])).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let operations = ["Update", "Update", "Apply"];
        for (place, operation) in operations.into_iter().enumerate() {
            let entry = &patch["metadata"]["managedFields"][place];
            assert_eq!(entry["operation"], operation);
        }
        for nothing in [
            &[other, status][..],
            &[("mesh-operator", "Apply", ""), ours],
            &[],
        ] {
            assert_eq!(applied_from_created(&meta(nothing)), None, "{nothing:?}");
        }
    }
}
