//! The sample directory and the contract's own examples go through the door.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_core::{Place, PrivacyLevel, SovereigntyClass};
use mesh_crds::{
    ConvertInput, Converted, Document, Home, Object, ProblemKind, SourceSpec, parse, parse_for,
    to_snapshot,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/standalone")
}

fn load(names: &[&str]) -> Vec<Document> {
    let mut documents = Vec::new();
    for name in names {
        let text = fs::read_to_string(folder().join(name)).expect("a sample");
        let parsed = parse(name, &text);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        documents.extend(parsed.documents);
    }
    documents
}

fn convert(documents: &[Document]) -> Converted {
    let input = ConvertInput {
        mesh_namespace: "default",
        generation: 7,
        now: "2026-11-22T00:00:00Z".parse().expect("a time"),
        resolve: &|_| Vec::new(),
        pods: None,
        cluster_networks: &std::sync::Arc::default(),
    };
    to_snapshot(documents, &input).expect("a snapshot")
}

#[test]
fn the_sample_directory_comes_up_without_a_key() {
    let Converted {
        snapshot,
        model_caches,
        warnings,
    } = convert(&load(&["floor.yaml", "policy.yaml"]));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(snapshot.generation, 7);
    let [backend] = snapshot.backends.as_slice() else {
        panic!("one backend")
    };
    assert_eq!(backend.id.to_string(), "floor");
    assert!(
        matches!(&backend.place, Place::InProcess { model_cache, kv_bytes: Some(bytes), .. } if model_cache == "smollm2-135m" && *bytes == 512 << 20)
    );
    assert!(backend.models[0].answers_to("small"));
    assert_eq!(
        backend.models[0]
            .license
            .as_ref()
            .map(ToString::to_string)
            .as_deref(),
        Some("Apache-2.0")
    );
    assert_eq!(backend.models[0].capabilities.context_tokens, Some(8192));
    let [policy] = snapshot.policies.as_slice() else {
        panic!("one policy")
    };
    assert_eq!(policy.default_privacy, Some(PrivacyLevel::Public));
    assert_eq!(
        policy.floor.as_ref().map(|floor| floor.backend.1.as_str()),
        Some("floor")
    );
    assert_eq!(
        policy
            .constraints
            .minimum_class
            .get(&PrivacyLevel::Restricted),
        Some(&SovereigntyClass::OwnHardware)
    );
    assert!(policy.tests.len() >= 4);
    let [cache] = model_caches.as_slice() else {
        panic!("one model")
    };
    assert_eq!(cache.sampling.temperature, Some(0.2));
    assert!(matches!(
        cache.sources.as_slice(),
        [SourceSpec::File { .. }, SourceSpec::HuggingFace { .. }]
    ));
}

#[test]
fn the_cloud_example_is_complete_and_not_loaded_by_its_name() {
    let Converted { snapshot, .. } =
        convert(&load(&["floor.yaml", "policy.yaml", "cloud.yaml.example"]));
    assert_eq!(snapshot.backends.len(), 2);
    assert!(
        snapshot
            .backends
            .iter()
            .any(|backend| backend.provider() == Some("example"))
    );
    let loaded = fs::read_dir(folder())
        .expect("the folder")
        .filter_map(Result::ok);
    let loaded: Vec<PathBuf> = loaded
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    assert_eq!(loaded.len(), 2, "{loaded:?}");
}

/// The examples of the contract, with everything that any release will do.
const CONTRACT: &str = include_str!("whole.yaml");

#[test]
fn the_whole_contract_has_a_schema_and_what_comes_later_is_refused_by_name() {
    let problems = parse("whole.yaml", CONTRACT).problems;
    for problem in &problems {
        assert_eq!(problem.kind, ProblemKind::NotSupportedYet, "{problem}");
    }
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn the_samples_for_accelerators_go_through_the_clusters_door_and_one_machine_refuses_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/accelerators");
    let mut backends = 0;
    for entry in fs::read_dir(folder).expect("the samples") {
        let path = entry.expect("a sample").path();
        let text = fs::read_to_string(&path).expect("a sample");
        let parsed = parse_for(Home::Cluster, "sample.yaml", &text);
        assert!(
            parsed.problems.is_empty(),
            "{path:?}: {:?}",
            parsed.problems
        );
        backends += parsed
            .documents
            .iter()
            .filter(|document| matches!(document.object, Object::InferenceBackend(_)))
            .count();
        let machine = parse("sample.yaml", &text).problems;
        let field = "spec.inCluster.accelerator.vendor";
        assert!(
            machine
                .iter()
                .any(|problem| problem.error() && problem.field == field),
            "{path:?}: {machine:?}"
        );
    }
    assert_eq!(backends, 3);
}
