//! The part that every object has: apiVersion, kind, metadata. Decides whose a document is: ours,
//! Kubernetes' own (left out with a warning), or nobody's (a misspelled policy must not be left out
//! silently).

use serde_json::{Map, Value, json};

use crate::compose::Finding;
use crate::kind::Kind;
use crate::label::{API_VERSION, GROUP};
use crate::problem::{ProblemKind, shown};
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
    let mut find = |at, field: &str, kind, message: String| {
        findings.push(Finding {
            at,
            field: field.to_owned(),
            kind,
            message,
        });
        Header::Unusable
    };
    let Content::Map(_) = root.content else {
        let message = format!(
            "must be an object with apiVersion, kind, metadata and spec, not {}",
            root.noun()
        );
        return find(root.at, "", ProblemKind::Schema, message);
    };
    let (version, kind) = (text(root, "apiVersion"), text(root, "kind"));
    let Some(kind) = kind else {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        return find(
            root.at,
            "kind",
            ProblemKind::Missing,
            format!("`kind` is missing: use one of {known}"),
        );
    };
    let at = root.locate("kind");
    let version_at = root.locate("apiVersion");
    match (Kind::named(kind), version) {
        (Some(known), Some(API_VERSION)) => {
            metadata(root, findings);
            Header::Ours(known)
        }
        (_, None) => find(
            root.at,
            "apiVersion",
            ProblemKind::Missing,
            format!("`apiVersion` is missing: add `apiVersion: {API_VERSION}`"),
        ),
        (Some(_), Some(version)) => {
            let message = format!(
                "unknown version {:?} of {kind}: use {API_VERSION}",
                shown(version)
            );
            find(version_at, "apiVersion", ProblemKind::UnknownKind, message)
        }
        (None, Some(version)) if kubernetes(version) => Header::Foreign(Finding {
            at,
            field: String::from("kind"),
            kind: ProblemKind::Ignored,
            message: format!(
                "{} is a kind of Kubernetes itself and has no effect on one machine: left out",
                shown(kind)
            ),
        }),
        (None, Some(_)) if kind == "FederatedRound" => find(
            at,
            "kind",
            ProblemKind::NotSupportedYet,
            String::from("not supported yet: FederatedRound"),
        ),
        (None, Some(version)) => {
            let message = if version.starts_with(GROUP) {
                format!(
                    "unknown kind: {}",
                    suggest::unknown_word(kind, Kind::ALL.iter().map(|kind| kind.as_str()))
                )
            } else {
                format!(
                    "unknown kind {:?} of {:?}: only kinds of {API_VERSION} are read",
                    shown(kind),
                    shown(version)
                )
            };
            find(at, "kind", ProblemKind::UnknownKind, message)
        }
    }
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
