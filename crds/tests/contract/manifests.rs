//! The definitions for the cluster and the reference pages.

use std::fs;
use std::path::Path;

use mesh_crds::{Kind, manifest, manifests, reference_markdown};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schemas() -> Vec<(Kind, Value)> {
    let schema = |kind| {
        let definition =
            serde_json::to_value(manifest::definition(kind).expect("a definition")).expect("JSON");
        (
            kind,
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone(),
        )
    };
    Kind::ALL.into_iter().map(schema).collect()
}

/// Every schema inside `schema`, with its path.
fn visit(path: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
    see(path, schema);
    for (name, inner) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        visit(&format!("{path}.{name}"), inner, see);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
            visit(&format!("{path}[]"), inner, see);
        }
    }
}

#[test]
fn committed_manifests_are_what_the_types_say() {
    let written = manifests().expect("manifests");
    assert_eq!(written.len(), 3);
    for (name, yaml) in written {
        let committed =
            fs::read_to_string(root().join("manifests").join(&name)).unwrap_or_default();
        assert!(
            committed == yaml,
            "crds/manifests/{name} is out of date: run `cargo xtask gen`"
        );
        assert!(yaml.len() < 64 * 1024, "{name} has {} bytes", yaml.len());
    }
}

#[test]
fn committed_reference_pages_are_what_the_types_say() {
    for (name, page) in reference_markdown().expect("pages") {
        let committed =
            fs::read_to_string(root().join("../docs/reference").join(&name)).unwrap_or_default();
        assert!(
            committed == page,
            "docs/reference/{name} is out of date: run `cargo xtask gen`"
        );
    }
}

#[test]
fn manifests_are_the_same_bytes_every_time() {
    assert_eq!(
        manifests().expect("manifests"),
        manifests().expect("manifests")
    );
}

#[test]
fn every_field_explains_itself() {
    for (kind, schema) in schemas() {
        visit(kind.as_str(), &schema, &mut |path, schema| {
            for (name, inner) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                assert!(
                    inner.get("description").is_some_and(Value::is_string),
                    "{path}.{name} has no description"
                );
            }
        });
    }
}

#[test]
fn a_field_keeps_its_own_text_where_its_type_is_an_enum() {
    let (_, policy) = schemas().remove(2);
    let text = |path: &str| {
        policy
            .pointer(&format!("/properties/spec/properties/{path}/description"))
            .cloned()
    };
    assert_eq!(
        text("classification/properties/incompleteLevel"),
        Some("Level of what could not be read. Absent = Restricted.".into())
    );
}

#[test]
fn schemas_are_structural_and_bounded() {
    for (kind, schema) in schemas() {
        visit(kind.as_str(), &schema, &mut |path, schema| {
            for word in [
                "nullable", "oneOf", "anyOf", "allOf", "not", "$ref", "const",
            ] {
                assert!(schema.get(word).is_none(), "{path} has {word}");
            }
            // Kubernetes' own types are as they are.
            let ours = !path.contains(".env[]")
                && !path.contains(".tolerations[]")
                && path.contains(".spec");
            if ours && schema.get("type") == Some(&"array".into()) {
                assert!(
                    schema.get("maxItems").is_some(),
                    "{path} has no maxItems: rules over it would be too dear"
                );
            }
            if let Some(keys) = schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
            {
                let item = &schema["items"];
                let required = item
                    .get("required")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                assert!(
                    keys.iter().all(|key| required.contains(key)),
                    "{path}: keys must be required"
                );
            }
        });
    }
}

#[test]
fn kinds_are_found_by_category_short_name_and_column() {
    for kind in Kind::ALL {
        let definition = manifest::definition(kind).expect("a definition");
        let names = &definition.spec.names;
        assert_eq!(
            names.categories.as_deref(),
            Some(["mesh".to_owned()].as_slice())
        );
        assert!(
            names
                .short_names
                .as_ref()
                .is_some_and(|names| !names.is_empty())
        );
        assert_eq!(definition.spec.scope, "Namespaced");
        let version = &definition.spec.versions[0];
        let columns = version
            .additional_printer_columns
            .as_deref()
            .unwrap_or_default();
        assert!(
            columns.iter().any(|column| column.name == "Ready")
                && columns.iter().any(|column| column.name == "Age")
        );
        let selectable = version.selectable_fields.as_deref().unwrap_or_default();
        assert!(
            !selectable.is_empty()
                && selectable
                    .iter()
                    .all(|field| field.json_path.starts_with(".spec."))
        );
        let subresources = version.subresources.as_ref().expect("subresources");
        assert!(subresources.status.is_some());
        assert_eq!(subresources.scale.is_some(), kind == Kind::InferenceBackend);
    }
}

#[test]
fn a_clusters_definitions_leave_out_what_only_one_machine_has() {
    for kind in Kind::ALL {
        let count = |definition: Value| {
            let mut found = 0;
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            visit(kind.as_str(), schema, &mut |path, schema| {
                let has = |name: &str| schema["properties"].get(name).is_some();
                found += usize::from(has("file") || (has("env") && has("secretRef")));
                let chooses = schema["x-kubernetes-validations"].to_string();
                assert!(
                    has("file") || !chooses.contains("self.file"),
                    "{path}: {chooses}"
                );
            });
            found
        };
        let whole = manifest::definition(kind).expect("a definition");
        let cluster = manifest::cluster_definition(kind).expect("a definition");
        assert!(
            count(serde_json::to_value(whole).expect("JSON")) > 0,
            "{kind}"
        );
        assert_eq!(
            count(serde_json::to_value(cluster).expect("JSON")),
            0,
            "{kind}"
        );
    }
}
