use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::DynamicObject;
use mesh_core::policy::Origin;
use mesh_core::{Caller, Policy, PrivacyLevel, SovereigntyClass};
use mesh_crds::PodMap;
use serde_json::{Value, json};

use super::Seen;

mod tenant;

const HOME: &str = "mesh-system";

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Arc<DynamicObject> {
    let object = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-of-{name}")}, "spec": spec});
    Arc::new(serde_json::from_value(object).expect("an object"))
}

/// What the operator kept of a policy.
fn kept(namespace: &str, policy: &str, number: i64, spec: &Value) -> Arc<ControllerRevision> {
    let revision = json!({"metadata": {"namespace": namespace, "name": format!("{policy}-{number}"), "ownerReferences": [
            {"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "name": policy, "uid": format!("uid-of-{policy}")}]},
        "revision": number, "data": {"spec": spec}});
    Arc::new(serde_json::from_value(revision).expect("a revision"))
}

fn seen(policies: Vec<Arc<DynamicObject>>, revisions: Vec<Arc<ControllerRevision>>) -> Seen {
    Seen {
        mesh_namespace: HOME.to_owned(),
        objects: Vec::new(),
        scope: mesh_watch::Scope::Cluster,
        policies,
        revisions,
        pods: PodMap::new(),
        cluster_networks: Arc::default(),
    }
}

fn only(seen: &Seen) -> Arc<Policy> {
    let snapshot = seen.snapshot(&|_| Vec::new());
    let [policy] = &snapshot.policies[..] else {
        panic!("one policy: {:?}", snapshot.policies)
    };
    Arc::clone(policy)
}

fn owned_only(policy: &Policy) -> bool {
    PrivacyLevel::ALL.iter().all(|level| {
        policy.constraints.minimum_class.get(level) == Some(&SovereigntyClass::OwnHardware)
    })
}

fn whole() -> Value {
    json!({
        "ownership": {"nodeSelector": {"matchLabels": {"owned": "true"}}, "homeJurisdictions": ["DE"]},
        "defaults": {"privacy": "Internal"},
        "constraints": {"minimumClass": {"restricted": "OwnHardware", "public": "CloudForeign"}, "licenses": {"deny": ["MIT"]}},
        "failover": {"maxAttempts": 2},
        "floor": {"backendRef": {"name": "gone"}, "protect": true},
    })
}

#[test]
fn a_policy_whose_floor_is_gone_keeps_what_it_owns_requires_and_forbids() {
    let policy = object("SovereigntyPolicy", HOME, "p", &whole());
    let policy = only(&seen(vec![policy], vec![kept(HOME, "p", 1, &whole())]));
    let ownership = policy.ownership.as_ref().expect("its own ownership");
    assert_eq!(ownership.nodes.as_ref().expect("nodes")[0]["owned"], "true");
    assert_eq!(policy.default_privacy, Some(PrivacyLevel::Internal));
    assert_eq!(policy.constraints.licenses_deny[0].0, "MIT");
    assert_eq!(
        policy.constraints.minimum_class[&PrivacyLevel::Public],
        SovereigntyClass::CloudForeign
    );
    assert_eq!(
        policy.failover.as_ref().map(|one| one.max_attempts),
        Some(2)
    );
    assert_eq!(
        (policy.floor.as_ref(), policy.origin),
        (None, Origin::Written)
    );
}

#[test]
fn the_ownership_of_the_installation_does_not_come_back_when_a_floor_goes() {
    let mut bootstrap = (*object(
        "SovereigntyPolicy",
        HOME,
        "default",
        &json!({"ownership": {"nodeSelector": {}}}),
    ))
    .clone();
    bootstrap.metadata.labels =
        Some([("inferencemesh.dev/bootstrap".to_owned(), "true".to_owned())].into());
    let seen = seen(
        vec![
            Arc::new(bootstrap),
            object("SovereigntyPolicy", HOME, "p", &whole()),
        ],
        vec![
            kept(HOME, "p", 1, &whole()),
            kept(
                HOME,
                "default",
                1,
                &json!({"ownership": {"nodeSelector": {}}}),
            ),
        ],
    );
    let snapshot = seen.snapshot(&|_| Vec::new());
    assert_eq!(snapshot.policies.len(), 2);
    let joined = mesh_routing::join(&snapshot, &Caller::local("team"));
    let nodes = joined.ownership().nodes.as_ref().expect("nodes");
    assert!(
        nodes.iter().any(|labels| labels.contains_key("owned")),
        "{nodes:?}"
    );
    assert_eq!(joined.base_level(), PrivacyLevel::Internal);
}

#[test]
fn a_policy_that_was_never_accepted_allows_owned_hardware_only_whatever_it_says() {
    let spec = json!({"selector": {"namespaceSelector": {"matchLabels": {"team": "a"}}}, "constraints": {"minimumClass": {"public": "CloudRetained"}}});
    let policy = only(&seen(
        vec![object("SovereigntyPolicy", HOME, "p", &spec)],
        Vec::new(),
    ));
    assert!(owned_only(&policy), "{policy:?}");
    assert_eq!(policy.origin, Origin::StandIn);
    assert_eq!(policy.namespaces.match_labels["team"], "a");
    // Even what it selects cannot be read.
    let spec = json!({"selector": {"namespaceSelector": "all"}});
    let policy = only(&seen(
        vec![object("SovereigntyPolicy", HOME, "p", &spec)],
        Vec::new(),
    ));
    assert!(owned_only(&policy) && policy.namespaces.everything());
}

#[test]
fn the_newest_accepted_spec_counts_and_a_later_one_that_was_not_does_not() {
    let declared = json!({"defaults": {"privacy": "Public"}});
    let policy = object("SovereigntyPolicy", HOME, "p", &declared);
    let first = json!({"defaults": {"privacy": "Confidential"}});
    let second = json!({"defaults": {"privacy": "Restricted"}});
    let revisions = vec![
        kept(HOME, "p", 2, &second),
        kept(HOME, "p", 1, &first),
        // Of a policy of the same name that is no more, and of another namespace.
        kept(HOME, "other", 9, &declared),
        kept("team", "p", 9, &declared),
    ];
    assert_eq!(
        only(&seen(vec![policy], revisions)).default_privacy,
        Some(PrivacyLevel::Restricted)
    );
}

#[test]
fn a_group_of_another_release_may_have_been_a_prohibition() {
    let spec = json!({"ownership": {"homeJurisdictions": ["DE"]}, "defaults": {"privacy": "Public"}, "quarantine": {"from": "Internal"}});
    let policy = object("SovereigntyPolicy", HOME, "p", &spec);
    let policy = only(&seen(vec![policy], vec![kept(HOME, "p", 1, &spec)]));
    assert!(owned_only(&policy), "{policy:?}");
    assert!(policy.ownership.is_some());
    assert_eq!(policy.origin, Origin::Written);
}

#[test]
fn ownership_that_cannot_be_read_leaves_nothing_owned() {
    let spec = json!({"ownership": {"networks": ["everywhere"]}});
    let policy = object("SovereigntyPolicy", HOME, "p", &spec);
    let policy = only(&seen(vec![policy], vec![kept(HOME, "p", 1, &spec)]));
    let ownership = policy.ownership.as_ref().expect("an empty ownership");
    assert!(
        ownership.nodes.is_none() && ownership.networks.is_empty(),
        "{ownership:?}"
    );
    // Elsewhere ownership counts for nothing, and nothing is lost with it.
    let policy = object("SovereigntyPolicy", "team", "p", &spec);
    let policy = only(&seen(vec![policy], vec![kept("team", "p", 1, &spec)]));
    assert!(policy.ownership.is_none());
}

#[test]
fn names_of_tenants_are_not_looked_up() {
    let spec = |url: &str| json!({"external": {"url": url}, "models": [{"name": "m"}]});
    let mut seen = seen(Vec::new(), Vec::new());
    seen.objects = vec![
        object(
            "InferenceBackend",
            HOME,
            "own",
            &spec("https://own.example/v1"),
        ),
        object(
            "InferenceBackend",
            "team",
            "theirs",
            &spec("https://theirs.example/v1"),
        ),
    ];
    let asked = std::cell::RefCell::new(Vec::new());
    let snapshot = seen.snapshot(&|host| {
        asked.borrow_mut().push(host.to_owned());
        Vec::new()
    });
    assert_eq!(snapshot.backends.len(), 2);
    assert_eq!(*asked.borrow(), ["own.example"]);
}
