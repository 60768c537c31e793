//! What is wrong before any request comes, and what to do about it.

use mesh_core::policy::Ownership;
use mesh_core::{Backend, Policy, PrivacyLevel, Trust};
use mesh_routing::{Problem, ProblemKind, check};

use crate::world::{
    World, cloud, embedding, external, floor, now, peer, policy, selector, silent, team_policy,
};

fn problems(
    backends: impl IntoIterator<Item = Backend>,
    policies: impl IntoIterator<Item = Policy>,
) -> Vec<Problem> {
    check(&World::new(backends, policies).snapshot, now())
}

fn kinds(problems: &[Problem]) -> Vec<ProblemKind> {
    problems.iter().map(|problem| problem.kind).collect()
}

#[test]
fn a_sound_snapshot_has_no_problems() {
    assert_eq!(problems([cloud("a", 0.9), floor()], [policy()]), []);
}

#[test]
fn a_mesh_without_policy_says_so() {
    assert_eq!(kinds(&problems([floor()], [])), [ProblemKind::NoPolicy]);
}

#[test]
fn a_policy_that_admits_nothing_blocks_and_says_what_to_do() {
    let mut strict = policy();
    strict.default_privacy = Some(PrivacyLevel::Confidential);
    strict.floor = None;
    let found = problems([cloud("a", 0.9)], [strict.clone()]);
    assert_eq!(
        kinds(&found),
        [ProblemKind::AdmitsNothing, ProblemKind::NoFloor]
    );
    assert!(found[0].kind.blocking() && !found[1].kind.blocking());
    assert!(found[0].message.contains("confidential, restricted"));
    assert!(
        found[0].message.contains("inCluster"),
        "{}",
        found[0].message
    );
    strict.default_privacy = Some(PrivacyLevel::Public);
    let found = problems([cloud("a", 0.9)], [strict]);
    assert_eq!(found[0].kind, ProblemKind::AdmitsNothingAtLevel);
    assert!(!found[0].kind.blocking());
}

#[test]
fn a_floor_that_is_missing_foreign_or_refused_is_told_apart() {
    let missing = problems([external("own", &["192.168.20.7"])], [policy()]);
    assert_eq!(kinds(&missing), [ProblemKind::FloorMissing]);
    assert!(missing[0].message.contains("default/floor"));

    let mut foreign = policy();
    foreign.floor.as_mut().expect("a floor").backend.1 = String::from("a");
    let found = problems([cloud("a", 0.9), floor()], [foreign]);
    assert_eq!(kinds(&found), [ProblemKind::FloorNotOwned]);

    let mut low = floor();
    low.max_privacy = PrivacyLevel::Internal;
    let found = problems([low, external("own", &["192.168.20.7"])], [policy()]);
    assert_eq!(kinds(&found), [ProblemKind::FloorRefused]);
    assert!(
        found[0].message.contains("max_privacy"),
        "{}",
        found[0].message
    );
}

#[test]
fn ownership_that_does_not_count_or_is_said_twice_is_reported() {
    let owning = |mut policy: Policy| {
        policy.ownership = Some(Ownership::default());
        policy
    };
    let mut selecting = owning(silent("selecting"));
    selecting.namespaces = selector("team", "hr");
    let found = problems(
        [floor()],
        [
            policy(),
            selecting,
            owning(team_policy("hr", "team")),
            owning(silent("z")),
        ],
    );
    let of = |kind| found.iter().filter(|problem| problem.kind == kind).count();
    assert_eq!(of(ProblemKind::OwnershipIgnored), 2);
    assert_eq!(of(ProblemKind::OwnershipIntersected), 1);
}

#[test]
fn a_peer_takes_no_name_of_a_vector_from_anybody() {
    let vectors = |mut backend: Backend, revision: &str| {
        backend.models[0].name = String::from("minilm");
        backend.models[0].capabilities.embedding = Some(embedding(revision, 384));
        backend
    };
    let backends = [
        vectors(peer("a", Trust::Invited), "1"),
        vectors(cloud("b", 0.5), "2"),
        vectors(peer("c", Trust::Open), "3"),
        floor(),
    ];
    assert_eq!(problems(backends, [policy()]), []);
}

#[test]
fn one_name_for_different_vectors_is_reported() {
    let vectors = |name: &str, revision: &str| {
        let mut backend = cloud(name, 0.5);
        backend.models[0].name = String::from("minilm");
        backend.models[0].capabilities.embedding = Some(embedding(revision, 384));
        backend
    };
    let found = problems([vectors("a", "1"), vectors("b", "2"), floor()], [policy()]);
    assert_eq!(kinds(&found), [ProblemKind::EmbeddingConflict]);
    assert_eq!(
        found[0].backend.as_ref().map(|id| id.name.as_str()),
        Some("b")
    );
    assert_eq!(
        problems([vectors("a", "1"), vectors("b", "1"), floor()], [policy()]),
        []
    );
}
