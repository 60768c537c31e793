//! The objects of the mesh as the API server has them, one line each: what they promise, and what is wrong.

use anyhow::{Context as _, bail};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt};
use mesh_crds::Kind;
use serde::Serialize;
use serde_json::Value;

use super::Cluster;

const GROUP: &str = "inferencemesh.dev";
const VERSION: &str = "v1alpha1";
/// How many objects one question asks for.
const PAGE: u32 = 500;

/// What is known of one object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `True`, `False` or `Unknown`, as the condition Ready says.
    pub(crate) ready: String,
    /// Sovereignty class of a backend.
    pub(crate) class: String,
    /// Health of a backend, as the gateways see it.
    pub(crate) health: String,
    /// What is not as promised, in words; empty if all is.
    pub(crate) why: String,
}

/// All objects that the caller may see: everywhere, else in the namespace of the context.
///
/// # Errors
/// If the kinds are not there, or may not be read in that namespace either.
pub(crate) async fn objects(cluster: &Cluster) -> anyhow::Result<(Vec<DynamicObject>, bool)> {
    let mut found = Vec::new();
    let mut everywhere = true;
    for kind in Kind::ALL {
        let wide = Api::all_with(cluster.client.clone(), &resource(kind));
        match pages(&wide).await {
            Ok(some) => found.extend(some),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                everywhere = false;
                let own = &cluster.namespace;
                let narrow = Api::namespaced_with(cluster.client.clone(), own, &resource(kind));
                let some = pages(&narrow).await.with_context(|| {
                    format!("{} of namespace {own} cannot be listed", kind.plural())
                })?;
                found.extend(some);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!(
                    "this cluster does not know {}: install the mesh with `helm install`",
                    kind.plural()
                );
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be listed", kind.plural()));
            }
        }
    }
    Ok((found, everywhere))
}

async fn pages(api: &Api<DynamicObject>) -> kube::Result<Vec<DynamicObject>> {
    let (mut found, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = api.list(&page).await?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn resource(kind: Kind) -> ApiResource {
    let named = GroupVersionKind::gvk(GROUP, VERSION, kind.as_str());
    ApiResource::from_gvk_with_plural(&named, kind.plural())
}

/// One line for each object, those that are not as promised first.
pub(crate) fn rows(objects: &[DynamicObject]) -> Vec<Row> {
    let mut rows: Vec<Row> = objects.iter().filter_map(row).collect();
    // The sort is stable: within, the order of kinds and names stays.
    rows.sort_by_key(|row| row.ready == "True" && row.why.is_empty());
    rows
}

fn row(object: &DynamicObject) -> Option<Row> {
    let kind = Kind::named(&object.types.as_ref()?.kind)?;
    let word = |path: &str| {
        let found = object.data.pointer(path).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let ready = condition(object, "Ready");
    Some(Row {
        kind: kind.as_str(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        ready: ready
            .and_then(|ready| ready["status"].as_str())
            .unwrap_or("Unknown")
            .to_owned(),
        class: word("/status/sovereignty/class"),
        health: word("/status/health/state"),
        why: why(object),
    })
}

/// What is wrong: of Ready itself, and of what stands apart from it.
fn why(object: &DynamicObject) -> String {
    let seen = object.data["status"]["observedGeneration"].as_i64();
    if seen != object.metadata.generation {
        return String::from("the operator has not looked at this version yet");
    }
    let broken = ["Ready", "Enforced"].into_iter().find_map(|name| {
        let found = condition(object, name)?;
        (found["status"] != "True").then_some((name, found))
    });
    let Some((name, found)) = broken else {
        return String::new();
    };
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    let apart = if name == "Ready" { "" } else { "Enforced: " };
    format!("{apart}{}: {}", text("reason"), text("message"))
}

fn condition<'o>(object: &'o DynamicObject, name: &str) -> Option<&'o Value> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == name)
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::{Value, json};

    use super::{Row, rows};

    fn object(kind: &str, name: &str, status: &Value) -> DynamicObject {
        let whole = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind,
            "metadata": {"namespace": "team", "name": name, "generation": 2}, "status": status});
        serde_json::from_value(whole).unwrap()
    }

    fn stands(name: &str, status: &str, reason: &str) -> Value {
        json!({"type": name, "status": status, "reason": reason, "message": "in words"})
    }

    #[test]
    fn what_is_not_ready_comes_first_and_says_why() {
        let good = json!({"observedGeneration": 2, "sovereignty": {"class": "OwnHardware"}, "health": {"state": "well"},
            "conditions": [stands("Ready", "True", "Ready")]});
        let bad =
            json!({"observedGeneration": 2, "conditions": [stands("Ready", "False", "ImagePull")]});
        let found = rows(&[
            object("InferenceBackend", "good", &good),
            object("InferenceBackend", "bad", &bad),
        ]);
        assert_eq!(found[0].name, "bad");
        assert_eq!(found[0].why, "ImagePull: in words");
        let expected = Row {
            kind: "InferenceBackend",
            namespace: String::from("team"),
            name: String::from("good"),
            ready: String::from("True"),
            class: String::from("OwnHardware"),
            health: String::from("well"),
            why: String::new(),
        };
        assert_eq!(found[1], expected);
    }

    #[test]
    fn what_the_operator_has_not_looked_at_is_not_called_fine() {
        let old =
            json!({"observedGeneration": 1, "conditions": [stands("Ready", "True", "Ready")]});
        for status in [old, json!(null)] {
            let found = rows(&[object("ModelCache", "a", &status)]);
            assert!(found[0].why.contains("not looked at"), "{found:?}");
        }
    }

    #[test]
    fn a_policy_that_is_ready_and_not_enforced_says_so() {
        let status = json!({"observedGeneration": 2,
            "conditions": [stands("Ready", "True", "Ready"), stands("Enforced", "False", "NotEnforced")]});
        let found = rows(&[object("SovereigntyPolicy", "p", &status)]);
        assert_eq!(found[0].ready, "True");
        assert_eq!(found[0].why, "Enforced: NotEnforced: in words");
    }
}
