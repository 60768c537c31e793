use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use mesh_crds::condition::ConditionStatus;
use serde_json::{Value, json};

use super::loose::Loose;
use super::proof::Verdict;
use super::{Accepted, Inputs, Labels, NAME, Observed, Plan, plan};
use crate::status::Fact;

const MESH: &str = "mesh-system";

fn accepted(namespace: &str, name: &str, spec: Value) -> Accepted {
    Accepted {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        spec,
    }
}

fn namespace(name: &str, team: &str) -> (String, Labels) {
    let labels = [("inferencemesh.dev/confine", "enabled"), ("team", team)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    (name.to_owned(), labels.into())
}

fn planned(policies: &[Accepted]) -> Plan {
    let namespaces = [
        namespace("a", "red"),
        namespace("b", "blue"),
        namespace("kube-system", "red"),
        namespace(MESH, "red"),
        namespace("monitoring", "red"),
    ];
    plan(&Inputs {
        mesh_namespace: MESH,
        never: &[String::from("monitoring")],
        namespaces: &namespaces,
        policies,
    })
}

fn confined(plan: &Plan) -> Vec<&str> {
    plan.wanted
        .iter()
        .map(|one| one.metadata.namespace.as_deref().expect("a namespace"))
        .collect()
}

fn egress(plan: &Plan) -> Value {
    serde_json::to_value(&plan.wanted[0]).expect("JSON")["spec"]["egress"].take()
}

fn red(egress: &Value) -> Value {
    json!({"selector": {"namespaceSelector": {"matchLabels": {"team": "red"}}}, "egress": egress})
}

#[test]
fn a_labeled_namespace_that_a_policy_selects_reaches_the_mesh_and_dns_only() {
    let plan = planned(&[accepted(MESH, "p", red(&json!({"confine": true})))]);
    assert_eq!(confined(&plan), ["a"]);
    let policy = serde_json::to_value(&plan.wanted[0]).expect("JSON");
    assert_eq!(policy["metadata"]["name"], NAME);
    assert_eq!(policy["spec"]["podSelector"], json!({}));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Egress"]));
    let gateway = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MESH}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "inference-mesh", "app.kubernetes.io/component": "gateway"}}});
    let egress = egress(&plan);
    let rules = egress.as_array().expect("rules");
    assert_eq!(rules.len(), 3, "{egress}");
    assert_eq!(rules[0]["to"], json!([gateway]));
    assert_eq!(rules[0]["ports"][1]["port"], 8443);
    assert_eq!(
        rules[1]["ports"],
        json!([{"port": 8444, "protocol": "TCP"}])
    );
    let dns = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]);
    assert_eq!(rules[2]["to"], dns);
    assert_eq!(rules[2]["ports"][0], json!({"port": 53, "protocol": "UDP"}));
}

#[test]
fn a_tenant_confines_its_own_namespace_and_opens_nothing() {
    let tenant = json!({"egress": {"confine": true, "allow": [{"cidr": "198.51.100.0/24"}], "dns": {"nodeLocal": true}}});
    let plan = planned(&[accepted("b", "p", tenant)]);
    assert_eq!(confined(&plan), ["b"]);
    let text = egress(&plan).to_string();
    assert!(
        !text.contains("198.51.100") && !text.contains("169.254"),
        "{text}"
    );
    let nothing = planned(&[accepted("other", "p", json!({"egress": {"confine": true}}))]);
    assert!(nothing.wanted.is_empty());
}

#[test]
fn what_policies_of_the_mesh_namespace_allow_is_open_and_an_unreadable_entry_is_not() {
    let plan = planned(&[
        accepted(
            MESH,
            "p",
            red(&json!({"confine": true, "dns": {"nodeLocal": true, "ports": [5353]}})),
        ),
        accepted(
            MESH,
            "open",
            json!({"egress": {"allow": [
            {"cidr": "198.51.100.0/24", "ports": [443]},
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "db"}}, "podSelector": {}},
            {"cidr": 7}]}}),
        ),
        accepted(
            MESH,
            "elsewhere",
            json!({"selector": {"namespaceSelector": {"matchLabels": {"team": "blue"}}}, "egress": {"allow": [{"cidr": "203.0.113.0/24"}]}}),
        ),
    ]);
    let egress = egress(&plan);
    let rules = egress.as_array().expect("rules");
    assert_eq!(
        rules[2]["to"][1],
        json!({"ipBlock": {"cidr": "169.254.20.10/32"}})
    );
    let numbers: Vec<&Value> = rules[2]["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|port| &port["port"])
        .collect();
    assert_eq!(numbers, [53, 5353, 53, 5353]);
    assert_eq!(
        rules[3..],
        [
            json!({"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [{"port": 443, "protocol": "TCP"}]}),
            json!({"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "db"}}, "podSelector": {}}]}),
        ]
    );
}

fn network(name: &str, spec: &Value) -> Arc<NetworkPolicy> {
    let network = json!({"metadata": {"namespace": "a", "name": name}, "spec": spec});
    Arc::new(serde_json::from_value(network).expect("a NetworkPolicy"))
}

fn enforced(networks: &[Arc<NetworkPolicy>], host_pods: &[Arc<Pod>]) -> Fact {
    with_proof(networks, host_pods, Verdict::Proved)
}

fn with_proof(networks: &[Arc<NetworkPolicy>], host_pods: &[Arc<Pod>], verdict: Verdict) -> Fact {
    with_pods(networks, host_pods, verdict, Loose::default())
}

fn with_pods(
    networks: &[Arc<NetworkPolicy>],
    host_pods: &[Arc<Pod>],
    verdict: Verdict,
    loose: Loose,
) -> Fact {
    let open = json!({"confine": true, "allow": [{"cidr": "198.51.100.0/24", "ports": [443]}]});
    let mut plan = planned(&[accepted(MESH, "p", red(&open))]);
    plan.loose = BTreeMap::from([(String::from("a"), loose)]);
    let observed = Observed {
        mesh_namespace: MESH,
        networks,
        host_pods,
        proved: &BTreeMap::from([(String::from("a"), verdict)]),
        reach: "in 2 pools of 3 nodes",
    };
    plan.enforced(&(MESH.to_owned(), String::from("p")), &observed)
}

fn says(fact: &Fact, status: ConditionStatus, reason: &str) -> bool {
    let same = Fact::new("Enforced", status, reason, "");
    format!("{fact:?}").split("message").next() == format!("{same:?}").split("message").next()
}

#[test]
fn enforcement_is_claimed_when_canaries_have_proved_it_and_not_before() {
    for (verdict, status, reason) in [
        (
            Verdict::None(String::from("why")),
            ConditionStatus::False,
            "NotProved",
        ),
        (
            Verdict::Leaks(String::from("why")),
            ConditionStatus::False,
            "NotEnforced",
        ),
        (
            Verdict::Unreached(String::from("why")),
            ConditionStatus::False,
            "AllowedUnreachable",
        ),
        (Verdict::Proved, ConditionStatus::True, "Succeeded"),
    ] {
        let told = if verdict == Verdict::Proved {
            "canaries in a"
        } else {
            "why"
        };
        let fact = with_proof(&[], &[], verdict);
        assert!(says(&fact, status, reason), "{fact:?}");
        assert!(format!("{fact:?}").contains(told), "{fact:?}");
    }
    let inside = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}], "ports": [{"port": 443}]}]});
    let ingress = json!({"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]});
    let nothing = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    let networks = [&inside, &ingress, &nothing].map(|spec| network("theirs", spec));
    let fact = enforced(&networks, &[]);
    assert!(says(&fact, ConditionStatus::True, "Succeeded"), "{fact:?}");
}

#[test]
fn what_caches_and_backends_open_counts_too_but_for_what_workers_need() {
    let of_ours = |labels: &Value, egress: &Value| {
        let network = json!({"metadata": {"namespace": "a", "name": "x", "labels": labels},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}});
        Arc::new(serde_json::from_value::<NetworkPolicy>(network).expect("a NetworkPolicy"))
    };
    let managed = json!({"app.kubernetes.io/managed-by": "mesh-operator"});
    let backend =
        json!({"app.kubernetes.io/managed-by": "mesh-operator", "inferencemesh.dev/backend": "x"});
    let worker = json!(crate::backend::worker_egress(MESH, "a"));
    assert!(enforced(&[of_ours(&backend, &worker)], &[]).holds());
    assert!(!enforced(&[of_ours(&managed, &worker)], &[]).holds());
    for labels in [managed, backend] {
        let fact = enforced(&[of_ours(&labels, &json!([{}]))], &[]);
        assert!(
            says(&fact, ConditionStatus::False, "EgressWidened"),
            "{fact:?}"
        );
    }
}

#[test]
fn a_network_policy_of_somebody_else_that_lets_out_more_is_named() {
    for rule in [
        json!({}),
        json!({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}),
        json!({"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}]}),
        json!({"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}], "ports": [{"port": 443, "protocol": "UDP"}]}),
        json!({"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}], "ports": [{"port": 443, "endPort": 444}]}),
        json!({"to": [{"podSelector": {}}], "ports": [{"port": 443}]}),
    ] {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]});
        let fact = enforced(&[network("theirs", &spec)], &[]);
        assert!(
            says(&fact, ConditionStatus::False, "EgressWidened"),
            "{rule}: {fact:?}"
        );
        assert!(format!("{fact:?}").contains("a/theirs"), "{fact:?}");
    }
}

#[test]
fn a_pod_in_its_nodes_network_escapes_and_is_named() {
    let pod = |namespace: &str| {
        let pod = json!({"metadata": {"namespace": namespace, "name": "wild"}, "spec": {"hostNetwork": true, "containers": []}});
        Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
    };
    let fact = enforced(&[], &[pod("kube-system"), pod("a")]);
    assert!(
        says(&fact, ConditionStatus::False, "HostNetworkPods"),
        "{fact:?}"
    );
    assert!(format!("{fact:?}").contains("a/wild"), "{fact:?}");
    let fact = enforced(&[], &[pod("b")]);
    assert!(fact.holds(), "{fact:?}");
}

#[test]
fn pods_that_get_out_by_their_node_are_named_and_what_is_excepted_is_told() {
    let with = |loose: Loose| with_pods(&[], &[], Verdict::Proved, loose);
    let mut wild = Loose::default();
    wild.pods
        .insert(String::from("wild"), vec!["hostPID", "privileged"]);
    let fact = with(wild);
    assert!(
        says(&fact, ConditionStatus::False, "PodsUnrestricted"),
        "{fact:?}"
    );
    assert!(
        format!("{fact:?}").contains("1 of its pods")
            && format!("{fact:?}").contains("a/wild (hostPID, privileged)"),
        "{fact:?}"
    );
    let unknown = with(Loose {
        unknown: Some(String::from("no answer")),
        ..Loose::default()
    });
    assert!(says(&unknown, ConditionStatus::False, "PodsUnrestricted"));
    let reads = with(Loose {
        excepted: 2,
        ..Loose::default()
    });
    assert!(reads.holds());
    let told = format!("{reads:?}");
    assert!(
        told.contains("in 2 pools of 3 nodes; pods that read a folder of confine.hostPaths: 2"),
        "{told}"
    );
    // Not looked at is not good.
    let plan = planned(&[accepted(MESH, "p", red(&json!({"confine": true})))]);
    let observed = Observed {
        mesh_namespace: MESH,
        networks: &[],
        host_pods: &[],
        proved: &BTreeMap::from([(String::from("a"), Verdict::Proved)]),
        reach: "",
    };
    let fact = plan.enforced(&(MESH.to_owned(), String::from("p")), &observed);
    assert!(says(&fact, ConditionStatus::False, "NotProved"), "{fact:?}");
    assert!(
        format!("{fact:?}").contains("not looked at yet"),
        "{fact:?}"
    );
}

#[test]
fn what_cannot_be_confined_is_said() {
    let observed = Observed {
        mesh_namespace: MESH,
        networks: &[],
        host_pods: &[],
        proved: &BTreeMap::new(),
        reach: "",
    };
    let id = (MESH.to_owned(), String::from("p"));
    for (spec, status, reason) in [
        (json!({}), ConditionStatus::Unknown, "NotConfined"),
        (
            json!({"selector": {"namespaceSelector": {"matchLabels": {"team": "none"}}}, "egress": {"confine": true}}),
            ConditionStatus::Unknown,
            "NothingToConfine",
        ),
        (
            json!({"selector": {"serviceAccounts": ["bot"]}, "egress": {"confine": true}}),
            ConditionStatus::False,
            "NotEnforceable",
        ),
    ] {
        let plan = planned(&[accepted(MESH, "p", spec)]);
        let fact = plan.enforced(&id, &observed);
        assert!(says(&fact, status, reason), "{fact:?}");
        assert!(plan.wanted.is_empty());
    }
}

#[test]
fn a_namespace_that_is_confined_no_longer_is_opened_and_others_are_left_alone() {
    let plan = planned(&[accepted(MESH, "p", red(&json!({"confine": true})))]);
    let ours = |namespace: &str, name: &str| {
        let network = json!({"metadata": {"namespace": namespace, "name": name, "labels": {"app.kubernetes.io/managed-by": "mesh-operator"}}});
        Arc::new(serde_json::from_value::<NetworkPolicy>(network).expect("a NetworkPolicy"))
    };
    let networks = [
        ours("a", NAME),
        ours("b", NAME),
        ours("b", "floor-worker"),
        network(NAME, &json!({"podSelector": {}})),
    ];
    let left: Vec<&str> = plan
        .leftovers(&networks, &BTreeSet::new())
        .map(|one| one.metadata.namespace.as_deref().expect("a namespace"))
        .collect();
    assert_eq!(left, ["b"]);
    // Its pods may run until it is gone.
    let leaving = BTreeSet::from([String::from("b")]);
    assert_eq!(plan.leftovers(&networks, &leaving).count(), 0);
}
