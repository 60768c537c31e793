//! The CustomResourceDefinitions: as typed objects, as schemas, as YAML with the same bytes every
//! time. Everything that checks or installs a kind goes through here, never through `T::crd()`: the
//! derive marks every optional field `nullable`, and CEL's `has()` is true for a null.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

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

/// The definition of `kind`, ready to be applied to a cluster.
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

/// File name and YAML of every definition, for `crds/manifests/` and the chart.
pub fn manifests() -> Result<Vec<(String, String)>, Error> {
    Kind::ALL.into_iter().map(manifest).collect()
}

fn manifest(kind: Kind) -> Result<(String, String), Error> {
    let definition = definition(kind)?;
    let yaml = serde_saphyr::to_string(&definition).map_err(|source| Error::Yaml {
        kind,
        source: Box::new(source),
    })?;
    Ok((format!("{}.yaml", kind.file_stem()), yaml))
}
