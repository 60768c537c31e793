//! The samples for a cluster are what they claim to be: usable, and their policies pass their own tests.

use std::path::Path;

use mesh_core::Snapshot;
use mesh_crds::{ConvertInput, Document, Home, PodMap, parse_for, to_snapshot_lenient};

use crate::policy;

/// What an installation brings, which samples refer to.
const FLOOR: &str = "apiVersion: inferencemesh.dev/v1alpha1
kind: ModelCache
metadata: {name: floor, namespace: mesh-system}
spec:
  artifacts: [{path: m.gguf, sha256: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53}]
  sources: [{builtin: {}}]
---
apiVersion: inferencemesh.dev/v1alpha1
kind: InferenceBackend
metadata: {name: floor, namespace: mesh-system}
spec:
  inCluster: {modelRef: {name: floor}}
  models: [{name: smollm2}]
";

/// Objects of our kinds in a text; others (a Namespace) are Kubernetes' own.
fn read(name: &str, text: &str) -> Vec<Document> {
    let ours = text
        .split("\n---\n")
        .filter(|part| part.contains("inferencemesh.dev/v1alpha1"));
    ours.flat_map(|part| {
        let parsed = parse_for(Home::Cluster, name, part);
        assert!(parsed.problems.is_empty(), "{name}: {:?}", parsed.problems);
        parsed.documents
    })
    .collect()
}

fn samples() -> Vec<Document> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/cluster");
    let mut documents = read("floor", FLOOR);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains(".yaml") {
            count += 1;
            documents.extend(read(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(count >= 5, "{count} samples");
    documents
}

#[test]
fn samples_for_a_cluster_are_usable_and_their_policies_pass_their_own_tests() {
    let now = "2026-11-27T00:00:00Z".parse().unwrap();
    let pods = PodMap::new();
    let input = ConvertInput {
        mesh_namespace: "mesh-system",
        generation: 0,
        now,
        resolve: &|_| Vec::new(),
        pods: Some(&pods),
        cluster_networks: &std::sync::Arc::default(),
    };
    let (converted, problems) = to_snapshot_lenient(samples(), &input, &|_, _, _| None);
    assert!(
        !problems.iter().any(mesh_crds::Problem::error),
        "{problems:?}"
    );
    let snapshot: Snapshot = converted.snapshot;
    assert!(snapshot.policies.len() >= 2 && snapshot.backends.len() >= 4);
    let judged = policy::judge(&snapshot, now);
    for found in &snapshot.policies {
        let verdict = policy::verdict(None, Some(found), &judged, &found.id);
        assert!(verdict.fault.is_none(), "{}: {:?}", found.id, verdict.fault);
        assert!(!found.tests.is_empty(), "{} promises nothing", found.id);
    }
}
