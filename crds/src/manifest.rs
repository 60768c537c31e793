//! The CustomResourceDefinitions: as typed objects, as schemas, as YAML with the same bytes every
//! time. Everything that checks or installs a kind goes through here, never through `T::crd()`: the
//! derive marks every optional field `nullable`, and CEL's `has()` is true for a null.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::{InferenceBackend, ModelCache, SovereigntyPolicy};

/// A definition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The derive gave something that is not a definition.
    #[error("could not make the definition of {kind}")]
    Definition {
        /// The kind.
        kind: Kind,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
    /// The definition could not be written as YAML.
    #[error("could not write the definition of {kind} as YAML")]
    Yaml {
        /// The kind.
        kind: Kind,
        /// What the writer says.
        #[source]
        source: Box<serde_saphyr::ser_error::Error>,
    },
}

impl Error {
    /// PascalCase reason for conditions, logs and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Definition { .. } => "DefinitionNotMade",
            Self::Yaml { .. } => "DefinitionNotWritten",
        }
    }
}

/// The definition of `kind` with everything that any home has: what the door reads by.
pub fn definition(kind: Kind) -> Result<CustomResourceDefinition, Error> {
    serde_json::from_value(definition_value(kind)?)
        .map_err(|source| Error::Definition { kind, source })
}

fn definition_value(kind: Kind) -> Result<Value, Error> {
    let derived = match kind {
        Kind::ModelCache => ModelCache::crd(),
        Kind::InferenceBackend => InferenceBackend::crd(),
        Kind::SovereigntyPolicy => SovereigntyPolicy::crd(),
    };
    let mut value =
        serde_json::to_value(derived).map_err(|source| Error::Definition { kind, source })?;
    drop_nullable(&mut value);
    Ok(value)
}

/// The OpenAPI schema of `kind`: an object with `properties.spec` and `properties.status`.
pub(crate) fn schema(kind: Kind) -> Result<Value, Error> {
    let mut definition = definition_value(kind)?;
    Ok(definition
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .map(Value::take)
        .unwrap_or_default())
}

/// Without `nullable` a null means "absent", to the API server (which prunes it) and to us.
fn drop_nullable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            map.values_mut().for_each(drop_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nullable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The definition of `kind` for a cluster: without what only one machine has. There a tenant could have the
/// gateway mail its own variables and files to an address of the tenant's.
pub fn cluster_definition(kind: Kind) -> Result<CustomResourceDefinition, Error> {
    let mut value = definition_value(kind)?;
    leave_out(&mut value);
    unseen(&mut value);
    serde_json::from_value(value).map_err(|source| Error::Definition { kind, source })
}

/// What nobody has looked at yet says so: without a status, kstatus, and with it Flux and Helm, calls an object current.
fn unseen(definition: &mut Value) {
    let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status";
    if let Some(Value::Object(status)) = definition.pointer_mut(status) {
        status.insert(String::from("default"), json!({"observedGeneration": -1}));
    }
}

/// Takes `env` and `file` out of every schema: where a Secret can be named it must be, a model's source is one of
/// the others, and so is the place of an authority.
fn leave_out(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(leave_out);
            let has = |name: &str| {
                let properties = map.get("properties");
                properties.is_some_and(|properties| properties.get(name).is_some())
            };
            if has("file") && has("secretRef") {
                secret_only(map);
            } else if has("file") && has("huggingFace") {
                without_file(
                    map,
                    &[("rule", "has(self.file), ", ""), ("message", "file, ", "")],
                );
            } else if has("file") && has("configMap") {
                entry_only(map);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn remove(map: &mut Map<String, Value>, name: &str) {
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.remove(name);
    }
}

/// A choice that is none any more is a field that must be there.
fn secret_only(map: &mut Map<String, Value>) {
    remove(map, "env");
    remove(map, "file");
    map.remove("x-kubernetes-validations");
    map.insert(String::from("required"), json!(["secretRef"]));
    plainly(map, "secretRef");
}

/// In a cluster nobody need be told that a field is a cluster's.
fn plainly(map: &mut Map<String, Value>, field: &str) {
    let text = map
        .get_mut("properties")
        .and_then(|properties| properties.pointer_mut(&format!("/{field}/description")));
    if let Some(Value::String(text)) = text {
        *text = text.replace(" (cluster only)", "");
    }
}

/// An authority is an entry of a Secret or a ConfigMap.
fn entry_only(map: &mut Map<String, Value>) {
    let words = (", configMap and file", " and configMap");
    without_file(
        map,
        &[
            ("rule", ", has(self.file)", ""),
            ("message", words.0, words.1),
        ],
    );
    plainly(map, "secret");
    plainly(map, "configMap");
}

/// Without `file`, and with rules in which a text is another.
fn without_file(map: &mut Map<String, Value>, changes: &[(&str, &str, &str)]) {
    remove(map, "file");
    let rules = map.get_mut("x-kubernetes-validations");
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        for (field, from, to) in changes {
            if let Some(Value::String(text)) = rule.get_mut(*field) {
                *text = text.replace(from, to);
            }
        }
    }
}

/// File name and YAML of every definition, for `crds/manifests/` and the chart.
pub fn manifests() -> Result<Vec<(String, String)>, Error> {
    Kind::ALL.into_iter().map(manifest).collect()
}

fn manifest(kind: Kind) -> Result<(String, String), Error> {
    let definition = cluster_definition(kind)?;
    let yaml = serde_saphyr::to_string(&definition).map_err(|source| Error::Yaml {
        kind,
        source: Box::new(source),
    })?;
    Ok((format!("{}.yaml", kind.file_stem()), yaml))
}
