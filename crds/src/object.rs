//! The door for objects of an API server: one by one through the same checks as files, so that a faulty one
//! hides no other. Whoever decides or reconciles reads them here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::{Home, Parsed, parse_for};

/// How problems name an object: `Kind namespace/name`. It stands where a file's name does.
pub fn object_file(object: &DynamicObject) -> String {
    let kind = object.types.as_ref();
    let kind = kind.map_or("", |types| types.kind.as_str());
    let namespace = object.namespace().unwrap_or_default();
    format!("{kind} {namespace}/{}", object.name_any())
}

/// Reads an object with `spec` in the place of its own, and with further labels.
pub fn parse_object(
    object: &DynamicObject,
    spec: Option<&Value>,
    labels: &[(&str, &str)],
) -> Parsed {
    let types = object.types.clone().unwrap_or_default();
    let mut all: BTreeMap<&str, &str> = object
        .labels()
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    all.extend(labels.iter().copied());
    let text = json!({
        "apiVersion": types.api_version, "kind": types.kind,
        "metadata": {"name": object.name_any(), "namespace": object.namespace(), "labels": all},
        "spec": spec,
    });
    parse_for(Home::Cluster, &object_file(object), &text.to_string())
}

/// What a node says of who owns it.
pub fn node_evidence(node: &Node) -> mesh_core::Node {
    mesh_core::Node {
        name: node.name_any(),
        provider_id: node.spec.as_ref().and_then(|spec| spec.provider_id.clone()),
        labels: node.labels().clone(),
    }
}
