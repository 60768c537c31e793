//! Other meshes: judged like everybody, named where they are refused, and never sent to.

use mesh_core::PrivacyLevel::{Confidential, Internal, Public, Restricted};
use mesh_core::SovereigntyClass::{OpenSwarm, OwnHardware, TrustedSwarm};
use mesh_core::policy::Ownership;
use mesh_core::policy_test::{Expectation, PolicyTest, TestRequest};
use mesh_core::{
    Backend, BackendId, Constraint, Feature, Policy, PrivacyLevel, SovereigntyClass, Trust, Verdict,
};
use mesh_routing::policy_test::run;
use mesh_routing::{
    AdmitInput, Basis, EffectivePolicy, ProblemKind, admit, check, derive, find_floor, usable_names,
};

use crate::world::{
    MESH, World, cloud, embedding, facts, floor, in_process, now, peer, planned, policy, refused,
};

fn of_team(mut backend: Backend) -> Backend {
    backend.id = BackendId::foreign("team", backend.id.name);
    backend
}

/// A policy that says everything about ownership that could make a peer ours.
fn claiming() -> Policy {
    Policy {
        ownership: Some(Ownership {
            nodes: Some(Vec::new()),
            networks: vec!["0.0.0.0/0".parse().expect("a network")],
            external: vec![
                (MESH.to_owned(), String::from("partner")),
                (String::from("team"), String::from("partner")),
            ],
            ..Ownership::default()
        }),
        ..policy()
    }
}

#[test]
fn a_peer_is_what_its_trust_says_and_an_invitation_counts_in_the_mesh_namespace_only() {
    for (trust, class, basis, elsewhere) in [
        (
            Trust::Invited,
            TrustedSwarm,
            Basis::Invited,
            Basis::InvitedElsewhere,
        ),
        (Trust::Open, OpenSwarm, Basis::OpenPeer, Basis::OpenPeer),
    ] {
        for policy in [policy(), claiming()] {
            let world = World::new([], [policy]);
            let joined = world.policy();
            let home = peer("partner", trust);
            let derived = derive(&home, joined.ownership(), MESH, now());
            assert_eq!((derived.class, derived.basis), (class, basis));
            let foreign = of_team(home);
            let derived = derive(&foreign, joined.ownership(), MESH, now());
            assert_eq!((derived.class, derived.basis), (OpenSwarm, elsewhere));
        }
    }
}

#[test]
fn the_evidence_names_address_and_key_and_that_nobody_has_proven_it() {
    let home = peer("partner", Trust::Invited);
    let world = World::of([]);
    let derived = derive(&home, world.policy().ownership(), MESH, now());
    assert_eq!(
        derived.evidence(&home),
        [
            "another mesh, invited by the owners of this one",
            "address: 192.168.20.7:8444",
            "identity: a-key, not proven by anybody yet",
        ]
    );
}

#[test]
fn a_peer_is_refused_by_name_and_never_planned_whoever_asks_for_what() {
    let world = World::of([peer("partner", Trust::Invited), cloud("a", 0.5), floor()]);
    for (asked, level) in [("auto", Public), ("auto", Internal), ("a-model", Public)] {
        let decided = world.ask(asked, level);
        assert_eq!(planned(&decided), ["a", "floor"], "{asked}");
    }
    let decided = world.ask("auto", Public);
    assert_eq!(
        refused(&decided.decision, "partner"),
        Some(Constraint::PeerTraffic)
    );
    // Under its own name the floor stands in, as for any other that cannot serve.
    let named = world.ask("partner-model", Public);
    assert_eq!(planned(&named), ["floor"]);
    assert_eq!(
        refused(&named.decision, "partner"),
        Some(Constraint::PeerTraffic)
    );
}

#[test]
fn what_policy_refuses_is_refused_for_that_and_missing_traffic_comes_last() {
    let mut small = peer("small", Trust::Invited);
    small.models[0].capabilities.context_tokens = Some(10);
    let mut low = peer("low", Trust::Invited);
    low.max_privacy = Public;
    let world = World::of([small, low, peer("open", Trust::Open), floor()]);
    let by = |level: PrivacyLevel, name: &str| refused(&world.ask("auto", level).decision, name);
    assert_eq!(by(Public, "small"), Some(Constraint::ContextWindow));
    assert_eq!(by(Internal, "low"), Some(Constraint::MaxPrivacy));
    assert_eq!(by(Internal, "open"), Some(Constraint::PeerTraffic));
    assert_eq!(by(Confidential, "open"), Some(Constraint::MinimumClass));
    let local = world.ask("local", Public);
    assert_eq!(
        refused(&local.decision, "open"),
        Some(Constraint::LocalOnly)
    );
}

#[test]
fn where_only_a_peer_would_serve_the_caller_is_told_what_is_missing() {
    let mut alone = policy();
    alone.floor = None;
    let world = World::new([peer("partner", Trust::Open)], [alone]);
    let decided = world.ask("auto", Public);
    assert!(decided.plan.attempts().is_empty());
    let Verdict::NoBackend { message } = &decided.decision.verdict else {
        panic!("{:?}", decided.decision.verdict)
    };
    assert!(
        message.contains("not supported yet: requests are not sent to other meshes"),
        "{message}"
    );
    assert_eq!(decided.retry_after, None);
}

#[test]
fn a_peer_is_no_floor_and_no_degradation_and_its_names_are_not_usable() {
    let mut asking = claiming();
    asking.floor.as_mut().expect("a floor").backend = (MESH.to_owned(), String::from("partner"));
    let world = World::new([peer("partner", Trust::Invited)], [asking]);
    assert!(find_floor(&world.snapshot, &world.policy(), now()).is_none());
    let kinds: Vec<ProblemKind> = check(&world.snapshot, now())
        .into_iter()
        .map(|problem| problem.kind)
        .collect();
    assert_eq!(
        kinds,
        [ProblemKind::AdmitsNothing, ProblemKind::FloorNotOwned]
    );
    assert_eq!(
        usable_names(&world.snapshot, &world.policy()),
        ["auto", "local"]
    );
    let world = World::of([peer("partner", Trust::Invited), floor()]);
    let decided = world.ask("auto", Public);
    assert_eq!(planned(&decided), ["floor"]);
    assert!(
        decided.plan.attempts()[0].degradations().is_empty(),
        "nobody could have done better"
    );
}

#[test]
fn a_peer_does_not_say_what_vectors_a_name_means_here() {
    let vectors = |mut backend: Backend, revision: &str| {
        let model = &mut backend.models[0];
        model.name = String::from("minilm");
        model.capabilities.features = vec![Feature::Embeddings];
        model.capabilities.embedding = Some(embedding(revision, 384));
        backend
    };
    let world = World::of([
        vectors(peer("a", Trust::Invited), "1"),
        vectors(in_process("b", "minilm"), "2"),
    ]);
    let mut facts = facts(Public);
    facts.needs.embeddings = true;
    for asked in ["auto", "minilm"] {
        assert_eq!(planned(&world.decide(asked, &facts)), ["b"], "{asked}");
    }
}

#[test]
fn no_request_makes_a_token_for_a_peer() {
    let world = World::of([peer("partner", Trust::Invited)]);
    let policy = world.policy();
    for level in PrivacyLevel::ALL {
        let facts = facts(level);
        let input = AdmitInput {
            policy: &policy,
            facts: &facts,
            local_only: false,
            embedding: None,
            overflow: true,
            recorded: true,
            now: now(),
        };
        let partner = &world.snapshot.backends[0];
        assert!(admit(&input, partner, "partner-model").is_err(), "{level}");
    }
}

/// What a policy with this test says about itself; `minimum` for internal requests.
fn outcome(minimum: SovereigntyClass, unavailable: &[&str], expect: Expectation) -> String {
    let test = PolicyTest {
        name: String::from("promise"),
        request: TestRequest::default(),
        unavailable: unavailable.iter().map(|&name| name.to_owned()).collect(),
        expect,
    };
    let mut carrying = policy();
    carrying.tests = vec![test];
    carrying.constraints.minimum_class = [(Internal, minimum)].into();
    let world = World::new([peer("partner", Trust::Invited), floor()], [carrying]);
    let classify = |_: &TestRequest, _: &EffectivePolicy| facts(Internal);
    run(&world.snapshot, &[], &classify, now())[0]
        .message
        .clone()
}

#[test]
fn a_policy_keeps_its_promises_as_if_peers_served_and_is_served_by_none() {
    let lowest = |class| Expectation {
        lowest_class: Some(class),
        ..Expectation::default()
    };
    let served = |name: &str| Expectation {
        served_by: Some(name.to_owned()),
        ..Expectation::default()
    };
    assert_eq!(outcome(TrustedSwarm, &[], lowest(TrustedSwarm)), "");
    assert_eq!(outcome(OwnHardware, &[], lowest(OwnHardware)), "");
    let broken = outcome(OpenSwarm, &[], lowest(OwnHardware));
    assert_eq!(
        broken,
        "the policy allows the other mesh partner of class TrustedSwarm, expected nothing below OwnHardware"
    );
    assert_eq!(outcome(OpenSwarm, &["partner"], lowest(OwnHardware)), "");
    assert_eq!(outcome(TrustedSwarm, &[], served("floor")), "");
    let vain = outcome(TrustedSwarm, &[], served("partner"));
    assert_eq!(vain, "served by floor, expected partner");
}

#[test]
fn a_denial_is_promised_by_policy_and_not_by_missing_traffic() {
    let denied = |minimum| {
        let mut carrying = policy();
        carrying.floor = None;
        carrying.constraints.minimum_class = [(Internal, minimum)].into();
        carrying.tests = vec![PolicyTest {
            name: String::from("denied"),
            request: TestRequest::default(),
            unavailable: Vec::new(),
            expect: Expectation {
                denied: Some(true),
                ..Expectation::default()
            },
        }];
        let world = World::new([peer("partner", Trust::Invited)], [carrying]);
        let classify = |_: &TestRequest, _: &EffectivePolicy| facts(Internal);
        run(&world.snapshot, &[], &classify, now())[0]
            .message
            .clone()
    };
    assert_eq!(denied(OwnHardware), "");
    assert_eq!(
        denied(TrustedSwarm),
        "expected a denial, but the policy allows the other mesh partner"
    );
}

#[test]
fn restricted_requests_stay_at_home_beside_a_peer_of_any_trust() {
    for trust in [Trust::Invited, Trust::Open] {
        let world = World::of([peer("partner", trust), floor()]);
        let decided = world.ask("auto", Restricted);
        assert_eq!(planned(&decided), ["floor"]);
        assert_eq!(
            refused(&decided.decision, "partner"),
            Some(Constraint::MinimumClass)
        );
    }
}
