//! Every validation rule of every kind, with something it accepts and something it refuses.

use std::collections::BTreeSet;

use kube::core::cel::{compile_schema, estimate_rule_cost};
use mesh_crds::model_cache::ModelType;
use mesh_crds::{Kind, Object, parse};
use serde_json::Value;

use crate::cases::{CACHE, CHANGED, SHA, cases};
use crate::{document, said};

#[test]
fn every_rule_accepts_what_is_right_and_names_what_is_wrong() {
    for (kind, good, bad, message) in cases() {
        assert_eq!(
            said(kind, &good.replace("SHA", SHA)),
            Vec::<String>::new(),
            "{kind}\n{good}"
        );
        let refused = said(kind, &bad.replace("SHA", SHA));
        assert!(
            refused.iter().any(|line| line == message),
            "{kind}\n{bad}\nsaid {refused:?}"
        );
        let rest = refused
            .iter()
            .filter(|line| *line != message && !line.starts_with("not supported yet"));
        assert_eq!(rest.count(), 0, "{kind}\n{bad}\nsaid {refused:?}");
    }
}

/// Every rule in a schema, with the schema it stands on.
fn rules(schema: &Value, found: &mut Vec<(String, String, Value)>) {
    for rule in schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |key: &str| {
            rule.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        found.push((text("rule"), text("message"), schema.clone()));
    }
    for inner in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|map| map.values())
    {
        rules(inner, found);
    }
    for inner in ["items", "additionalProperties"]
        .into_iter()
        .filter_map(|key| schema.get(key))
    {
        rules(inner, found);
    }
}

fn all_rules() -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let definition =
            serde_json::to_value(mesh_crds::manifest::definition(kind).expect("a definition"))
                .expect("JSON");
        rules(
            &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            &mut found,
        );
    }
    found
}

#[test]
fn no_rule_is_without_a_case() {
    let proven: BTreeSet<&str> = cases()
        .map(|(_, _, _, message)| *message)
        .chain([CHANGED])
        .collect();
    let written = all_rules();
    assert!(written.len() > 40, "{}", written.len());
    for (rule, message, _) in &written {
        assert!(
            proven.contains(message.as_str()),
            "no case for {rule}: {message}"
        );
    }
}

#[test]
fn every_rule_compiles_and_is_cheap_by_the_bounds_of_its_schema() {
    for (rule, message, schema) in all_rules() {
        let compiled = compile_schema(&schema);
        assert!(
            !compiled.has_errors(),
            "{rule}: {:?}",
            compiled.compilation_errors()
        );
        let warnings = estimate_rule_cost(&rule, &compiled);
        assert!(warnings.is_empty(), "{rule}: {warnings:?}");
        assert!(!message.is_empty() && !message.contains('\n'), "{rule}");
    }
}

#[test]
fn the_type_of_a_model_cache_cannot_change() {
    let text = document(
        CACHE,
        "artifacts: [{path: m.gguf}]\nsources: [{file: {path: /m}}]",
    );
    let parsed = parse("it.yaml", &text);
    let Object::ModelCache(before) = &parsed.documents[0].object else {
        panic!("a ModelCache")
    };
    let mut after = before.clone();
    assert!(after.validate_cel_update(before).is_ok());
    after.spec.type_ = ModelType::Adapter;
    let refused = after
        .validate_cel_update(before)
        .expect_err("a change of type")
        .to_string();
    assert!(refused.contains(CHANGED), "{refused}");
}
