//! Backends in pods of a cluster: the class of a pod comes from its node (cluster section 2), and what came
//! with an installation steps back.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::PrivacyLevel::{Confidential, Public, Restricted};
use mesh_core::SovereigntyClass::{OwnHardware, RentedHardware};
use mesh_core::policy::{Origin, Ownership, Policy};
use mesh_core::{Backend, Constraint, Node, Place, Pod, Pods};
use mesh_routing::class::of_pod;
use mesh_routing::{Basis, derive};

use crate::world::{MESH, World, backend, model, now, planned, policy, refused};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn node(provider: &str, pairs: &[(&str, &str)]) -> Node {
    Node {
        name: String::from("n"),
        provider_id: Some(provider.to_owned()),
        labels: labels(pairs),
    }
}

fn pod(number: u8, node: Option<Node>) -> Arc<Pod> {
    Arc::new(Pod {
        name: format!("pod-{number}"),
        address: ([10, 0, 0, number], 8000).into(),
        node: node.map(Arc::new),
    })
}

fn claiming(pairs: &[(&str, &str)]) -> Ownership {
    Ownership {
        nodes: Some(vec![labels(pairs)]),
        ..Ownership::default()
    }
}

fn in_pods(pods: Vec<Arc<Pod>>) -> Backend {
    backend("local", Place::Pods(Pods { pods }), model("small", 0.3))
}

fn owning() -> Policy {
    let mut owning = policy();
    owning.ownership = Some(claiming(&[("owned", "true")]));
    owning
}

#[test]
fn a_claim_stands_where_neither_provider_nor_labels_name_a_cloud() {
    let ours = claiming(&[("owned", "true")]);
    let owned = [("owned", "true")];
    for provider in ["", "k3s://n", "kind://a/b", "metal3://x", "vsphere://y"] {
        let derived = of_pod(&pod(1, Some(node(provider, &owned))), &ours);
        assert_eq!(
            (derived.class, derived.basis),
            (OwnHardware, Basis::OwnedNodes),
            "{provider}"
        );
    }
    for provider in [
        "aws:///eu/i-1",
        "gce://p/z/n",
        "azure:///x",
        "hcloud://1",
        "k3s",
        "new://x",
    ] {
        let derived = of_pod(&pod(1, Some(node(provider, &owned))), &ours);
        assert_eq!(
            (derived.class, derived.basis),
            (RentedHardware, Basis::RentedNode),
            "{provider}"
        );
    }
    let labeled = node(
        "",
        &[("owned", "true"), ("eks.amazonaws.com/nodegroup", "a")],
    );
    assert_eq!(of_pod(&pod(1, Some(labeled)), &ours).class, RentedHardware);
    for unclaimed in [Some(node("", &[("owned", "false")])), None] {
        assert_eq!(of_pod(&pod(1, unclaimed), &ours).class, RentedHardware);
    }
    let nobody = Ownership::default();
    assert_eq!(
        of_pod(&pod(1, Some(node("", &owned))), &nobody).class,
        RentedHardware
    );
}

#[test]
fn the_worst_pod_speaks_for_the_backend_and_no_pod_for_what_is_claimed() {
    let ours = claiming(&[("owned", "true")]);
    let mixed = in_pods(vec![
        pod(1, Some(node("", &[("owned", "true")]))),
        pod(2, Some(node("aws:///i-1", &[("owned", "true")]))),
    ]);
    assert_eq!(derive(&mixed, &ours, MESH, now()).class, RentedHardware);
    let empty = derive(&in_pods(Vec::new()), &ours, MESH, now());
    assert_eq!((empty.class, empty.basis), (OwnHardware, Basis::NoPods));
}

#[test]
fn restricted_requests_reach_the_owned_pods_of_a_mixed_backend_only() {
    let owned = pod(1, Some(node("", &[("owned", "true")])));
    let rented = pod(2, Some(node("aws:///i-1", &[("owned", "true")])));
    let world = World::new([in_pods(vec![Arc::clone(&owned), rented])], [owning()]);
    let admitted = |level| {
        let decided = world.ask("auto", level);
        let attempts = decided.plan.attempts();
        let attempt = attempts.first().expect("an attempt");
        let pods: Vec<String> = attempt
            .admitted()
            .pods()
            .iter()
            .map(|pod| pod.name.clone())
            .collect();
        (attempt.admitted().class(), pods)
    };
    assert_eq!(
        admitted(Restricted),
        (OwnHardware, vec![owned.name.clone()])
    );
    let (class, pods) = admitted(Confidential);
    assert_eq!((class, pods.len()), (RentedHardware, 2));
}

#[test]
fn a_backend_on_rented_nodes_alone_is_refused_to_restricted_requests() {
    let rented = pod(2, Some(node("aws:///i-1", &[("owned", "true")])));
    let world = World::new([in_pods(vec![rented])], [owning()]);
    let decided = world.ask("auto", Restricted);
    assert_eq!(
        refused(&decided.decision, "local"),
        Some(Constraint::MinimumClass)
    );
    assert!(planned(&decided).is_empty());
}

#[test]
fn where_nodes_cannot_be_seen_a_claim_on_them_owns_nothing_even_before_a_pod_is_there() {
    let owned = || pod(1, Some(node("", &[("owned", "true")])));
    for pods in [Vec::new(), vec![owned()]] {
        let mut world = World::new([in_pods(pods)], [owning()]);
        world.snapshot.forget_nodes();
        assert_eq!(world.policy().ownership().nodes, None);
        let decided = world.ask("auto", Restricted);
        assert_eq!(
            refused(&decided.decision, "local"),
            Some(Constraint::MinimumClass)
        );
        assert!(planned(&decided).is_empty());
    }
    let mut world = World::new([in_pods(vec![owned()])], [owning()]);
    world.snapshot.forget_nodes();
    assert_eq!(planned(&world.ask("auto", Confidential)).len(), 1);
}

#[test]
fn what_came_with_the_installation_steps_back_for_a_written_policy_and_for_no_stand_in() {
    let with = |origin: Origin| {
        let mut bootstrap = owning();
        bootstrap.origin = Origin::Bootstrap;
        bootstrap.id.name = String::from("default");
        bootstrap.default_privacy = Some(Confidential);
        let mut other = policy();
        other.id.name = String::from("other");
        other.origin = origin;
        other.default_privacy = Some(Public);
        World::new([in_pods(Vec::new())], [bootstrap, other]).policy()
    };
    let written = with(Origin::Written);
    assert_eq!(
        (written.base_level(), written.policies().len()),
        (Public, 1)
    );
    assert_eq!(
        written.ownership().nodes,
        policy().ownership.and_then(|owned| owned.nodes)
    );
    assert_eq!(with(Origin::StandIn).policies().len(), 2);
}
