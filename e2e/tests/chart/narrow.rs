//! What the chart grants and whom it holds up, and no more.

use serde_json::Value;

use super::render::{HOME, of};
use super::world::text;

/// No wildcard; Secrets by Roles only; nothing of the cluster where the scope is a namespace.
pub(super) fn rights(set: &str, objects: &[Value]) {
    for role in objects
        .iter()
        .filter(|object| text(&object["kind"]).ends_with("Role"))
    {
        let rules = role["rules"].to_string();
        let what = format!("{set}: {}", role["metadata"]["name"]);
        assert!(!rules.contains('*'), "{what}: {rules}");
        if role["kind"] == "ClusterRole" {
            assert!(!rules.contains("\"secrets\""), "{what}: {rules}");
        }
    }
}

/// Nobody's pods are held up but those that ask for a sidecar, and never the mesh's own.
pub(super) fn injection(set: &str, objects: &[Value]) {
    let webhooks = of(objects, "MutatingWebhookConfiguration", "mesh-inject");
    let expected = set != "bare" && !set.contains("namespaced");
    assert_eq!(webhooks.is_some(), expected, "{set}");
    let Some(webhooks) = webhooks else {
        return;
    };
    for one in webhooks["webhooks"].as_array().unwrap() {
        assert_eq!(one["failurePolicy"], "Fail", "{one}");
        assert_eq!(one["sideEffects"], "None", "{one}");
        assert_eq!(one["timeoutSeconds"], 5, "{one}");
        assert_eq!(
            one["clientConfig"]["caBundle"],
            Value::Null,
            "the operator's"
        );
        let namespaces = one["namespaceSelector"].to_string();
        assert!(
            namespaces.contains(HOME) && namespaces.contains("kube-system"),
            "{one}"
        );
        assert!(namespaces.contains("inferencemesh.dev/inject"), "{one}");
        assert_eq!(one["rules"][0]["operations"], serde_json::json!(["CREATE"]));
        assert_eq!(one["rules"][0]["resources"], serde_json::json!(["pods"]));
    }
}
