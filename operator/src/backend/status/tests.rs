use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Observed, Rollout};
use crate::backend::pods;

fn workload(status: &Value) -> Value {
    json!({"metadata": {"name": "a", "generation": 2}, "status": status})
}

fn of_set(status: &Value) -> Rollout {
    let set: StatefulSet = serde_json::from_value(workload(status)).unwrap();
    Rollout::from(&set)
}

fn of_deployment(status: &Value) -> Rollout {
    let deployment: Deployment = serde_json::from_value(workload(status)).unwrap();
    Rollout::from(&deployment)
}

/// One pod serves, one is wanted.
fn observed(rollout: Rollout) -> Observed {
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "a-0"}, "status": {"conditions": ready,
        "initContainerStatuses": []}}),
    )
    .unwrap();
    Observed {
        in_cluster: true,
        pods: vec![pods::view(&pod)],
        rollout: Some(rollout),
        wanted: 1,
        adapters: vec![String::from("legal")],
        ..Observed::default()
    }
}

/// Whether it is Ready, which is also what is said of its adapters.
fn ready(rollout: Rollout) -> bool {
    let observed = observed(rollout);
    let ready = observed.ready().holds();
    let loaded = observed.loaded().map(|fact| fact.holds());
    assert_eq!(loaded, Some(ready));
    ready
}

#[test]
fn a_surplus_pod_that_cannot_end_keeps_nobody_from_being_ready() {
    let left = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "currentReplicas": 1,
        "currentRevision": "x", "updateRevision": "x"});
    assert!(ready(of_set(&left)));
    // The same pod while the one that stays is replaced: `replicas` never come down, so neither does the current revision.
    let mut next = left;
    next["updateRevision"] = json!("y");
    next["currentReplicas"] = json!(0);
    assert!(ready(of_set(&next)));
    // A Deployment does not count what ends.
    let whole = json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1});
    assert!(ready(of_deployment(&whole)));
}

#[test]
fn while_an_older_pod_serves_beside_a_newer_one_it_is_not_ready() {
    let set = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "currentReplicas": 1,
        "currentRevision": "x", "updateRevision": "y"});
    assert!(!ready(of_set(&set)));
    let deployment = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1});
    assert!(!ready(of_deployment(&deployment)));
    // Nobody looked at the newest spec yet, or its pod ends.
    let whole = json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "currentReplicas": 1,
        "currentRevision": "x", "updateRevision": "x"});
    assert!(ready(of_set(&whole)));
    for (field, less) in [("observedGeneration", 1), ("updatedReplicas", 0)] {
        let mut status = whole.clone();
        status[field] = json!(less);
        assert!(!ready(of_set(&status)), "{field}");
    }
}
