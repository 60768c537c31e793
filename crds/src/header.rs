//! The part that every object has: apiVersion, kind, metadata. Decides whose a document is: ours,
//! Kubernetes' own (left out with a warning), or nobody's (a misspelled policy must not be left out
//! silently).

use serde_json::{Map, Value, json};

use crate::compose::Finding;
use crate::kind::Kind;
use crate::label::{API_VERSION, GROUP};
use crate::problem::{Position, ProblemKind, shown};
use crate::suggest;
use crate::tree::{Content, Node};
use crate::walk::walk;

/// Whose a document is.
pub(crate) enum Header {
    /// One of our kinds; its metadata may still have findings.
    Ours(Kind),
    /// A kind of Kubernetes itself.
    Foreign(Finding),
    /// The findings say why.
    Unusable,
}

/// Fields that `kubectl get -o yaml` writes and nobody has to.
const SERVER_FIELDS: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Reads the header of a document.
pub(crate) fn read(root: &Node, findings: &mut Vec<Finding>) -> Header {
    match owner(root) {
        Ok(Header::Ours(kind)) => {
            metadata(root, findings);
            Header::Ours(kind)
        }
        Ok(header) => header,
        Err(finding) => {
            findings.push(finding);
            Header::Unusable
        }
    }
}

fn owner(root: &Node) -> Result<Header, Finding> {
    let Content::Map(_) = root.content else {
        let message = format!(
            "must be an object with apiVersion, kind, metadata and spec, not {}",
            root.noun()
        );
        return Err(Finding::new(root.at, "", ProblemKind::Schema, message));
    };
    let Some(kind) = text(root, "kind") else {
        let message = format!(
            "`kind` is missing: use one of {}",
            Kind::ALL.map(Kind::as_str).join(", ")
        );
        return Err(Finding::new(root.at, "kind", ProblemKind::Missing, message));
    };
    let Some(version) = text(root, "apiVersion") else {
        let message = format!("`apiVersion` is missing: add `apiVersion: {API_VERSION}`");
        return Err(Finding::new(
            root.at,
            "apiVersion",
            ProblemKind::Missing,
            message,
        ));
    };
    match Kind::named(kind) {
        Some(known) if version == API_VERSION => Ok(Header::Ours(known)),
        Some(_) => {
            let message = format!(
                "unknown version {:?} of {kind}: use {API_VERSION}",
                shown(version)
            );
            Err(Finding::new(
                root.locate("apiVersion"),
                "apiVersion",
                ProblemKind::UnknownKind,
                message,
            ))
        }
        None => stranger(kind, version, root.locate("kind")),
    }
}

/// A kind that is not one of ours.
fn stranger(kind: &str, version: &str, at: Position) -> Result<Header, Finding> {
    let shown_kind = shown(kind);
    if kubernetes(version) {
        let message = format!(
            "{shown_kind} is a kind of Kubernetes itself and has no effect on one machine: left out"
        );
        return Ok(Header::Foreign(Finding::new(
            at,
            "kind",
            ProblemKind::Ignored,
            message,
        )));
    }
    if kind == "FederatedRound" {
        return Err(Finding::new(
            at,
            "kind",
            ProblemKind::NotSupportedYet,
            "not supported yet: FederatedRound",
        ));
    }
    let message = if version.starts_with(GROUP) {
        let known = Kind::ALL.iter().map(|kind| kind.as_str());
        format!("unknown kind: {}", suggest::unknown_word(kind, known))
    } else {
        format!(
            "unknown kind {shown_kind:?} of {:?}: only kinds of {API_VERSION} are read",
            shown(version)
        )
    };
    Err(Finding::new(at, "kind", ProblemKind::UnknownKind, message))
}

fn text<'n>(root: &'n Node, key: &str) -> Option<&'n str> {
    root.get(key).and_then(Node::text)
}

/// True for groups that Kubernetes itself keeps: `v1`, `apps/v1`, `networking.k8s.io/v1`.
fn kubernetes(version: &str) -> bool {
    match version.split_once('/') {
        None => version == "v1",
        Some((group, _)) => !group.contains('.') || group.ends_with(".k8s.io"),
    }
}

fn metadata(root: &Node, findings: &mut Vec<Finding>) {
    for entry in root.entries() {
        if !matches!(
            entry.key.as_str(),
            "apiVersion" | "kind" | "metadata" | "spec" | "status"
        ) {
            let known = ["apiVersion", "kind", "metadata", "spec"];
            let message = suggest::unknown_key(&entry.key, known.into_iter());
            findings.push(Finding {
                at: entry.at,
                field: shown(&entry.key),
                kind: ProblemKind::UnknownKey,
                message,
            });
        }
    }
    let Some(entry) = root.entry("metadata").filter(|entry| !entry.node.null()) else {
        let message = String::from("`metadata.name` is missing: add it");
        findings.push(Finding {
            at: root.at,
            field: String::from("metadata.name"),
            kind: ProblemKind::Missing,
            message,
        });
        return;
    };
    let node = Node {
        at: entry.at,
        content: entry.node.content.clone(),
    };
    walk(&node, &metadata_schema(), "metadata", findings);
}

fn metadata_schema() -> Value {
    let name = json!({"type": "string", "pattern": crate::value::NAME_PATTERN, "maxLength": 253});
    let words = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let mut properties = Map::new();
    for (field, schema) in [
        ("name", &name),
        ("namespace", &name),
        ("labels", &words),
        ("annotations", &words),
    ] {
        properties.insert(field.to_owned(), schema.clone());
    }
    for field in SERVER_FIELDS {
        properties.insert(field.to_owned(), json!({}));
    }
    json!({"type": "object", "required": ["name"], "properties": properties})
}

/// Header as JSON, without what a server or an observer wrote.
pub(crate) fn clean(root: &Node) -> Value {
    let mut metadata = root.get("metadata").map(Node::json).unwrap_or_default();
    if let Value::Object(map) = &mut metadata {
        map.retain(|key, value| !value.is_null() && !SERVER_FIELDS.contains(&key.as_str()));
    }
    json!({ "apiVersion": text(root, "apiVersion"), "kind": text(root, "kind"), "metadata": metadata })
}
