//! What must be on disk before it is sent: where no record can be written, the floor only, and everybody is told.

use std::time::Duration;

use mesh_core::PrivacyLevel::{Confidential, Internal, Public, Restricted};
use mesh_core::{
    Backend, BackendId, Constraint, Degradation, Facts, Feature, Policy, PrivacyLevel, TaskType,
    Verdict,
};
use mesh_routing::health::Admission;
use mesh_routing::{AssumedHealth, Decided, HealthView, ReadmitInput, join, readmit};

use crate::world::{
    World, cloud, embedding, facts, floor, in_process, now, planned, policy, refused, silent,
    team_policy,
};

/// Everybody is well, and nothing can be written.
struct Unwritten;

impl HealthView for Unwritten {
    fn admission(&self, _: &BackendId, _: &str) -> Admission {
        Admission::Yes
    }

    fn time_to_first_token(&self, _: &BackendId, _: &str) -> Option<Duration> {
        None
    }

    fn durable(&self) -> bool {
        false
    }
}

fn asks_from(level: PrivacyLevel) -> Policy {
    Policy {
        durable_from: Some(level),
        ..policy()
    }
}

fn world(backends: impl IntoIterator<Item = Backend>) -> World {
    World::new(backends, [asks_from(Internal)])
}

fn unwritten(world: &World, asked: &str, facts: &Facts) -> Decided {
    world.decide_with(asked, facts, &Unwritten)
}

#[test]
fn of_several_policies_the_lowest_level_counts_and_a_team_may_ask_for_more() {
    let durable = |policies: Vec<Policy>| {
        let mut world = World::new([], policies);
        world = world.seen_from("team");
        PrivacyLevel::ALL.map(|level| world.policy().durable(level))
    };
    assert_eq!(durable(vec![silent("a")]), [false; 4]);
    let named = |name: &str, level| Policy {
        durable_from: Some(level),
        ..silent(name)
    };
    let both = vec![
        named("a", Restricted),
        named("b", Confidential),
        silent("c"),
    ];
    assert_eq!(durable(both), [false, false, true, true]);
    let team = Policy {
        durable_from: Some(Public),
        ..team_policy("team", "own")
    };
    assert_eq!(durable(vec![named("a", Restricted), team]), [true; 4]);
}

#[test]
fn without_a_record_the_floor_answers_alone_from_that_level_on_and_says_why() {
    let world = world([cloud("a", 0.9), floor()]);
    let below = unwritten(&world, "auto", &facts(Public));
    assert_eq!(planned(&below), ["a", "floor"], "nobody asks for a record");
    let at = unwritten(&world, "auto", &facts(Internal));
    assert_eq!(planned(&at), ["floor"]);
    assert_eq!(refused(&at.decision, "a"), Some(Constraint::Audit));
    assert_eq!(
        at.plan.attempts()[0].degradations(),
        [Degradation::AuditNotDurable]
    );
    let written = world.decide("auto", &facts(Internal));
    assert_eq!(planned(&written), ["a", "floor"]);
    assert_eq!(
        written.plan.attempts()[1].degradations(),
        [Degradation::FloorOnly]
    );
}

#[test]
fn who_could_not_serve_anyway_is_refused_for_that_and_the_floor_has_lost_nothing() {
    let mut foreign = cloud("a", 0.9);
    foreign.max_privacy = Public;
    let decided = unwritten(&world([foreign, floor()]), "auto", &facts(Internal));
    assert_eq!(
        refused(&decided.decision, "a"),
        Some(Constraint::MaxPrivacy)
    );
    assert!(decided.plan.attempts()[0].degradations().is_empty());
}

#[test]
fn owned_hardware_is_no_exception_and_the_floor_is_one_whatever_it_is_asked_as() {
    let mut asking = asks_from(Internal);
    asking.floor.as_mut().expect("a floor").compete = true;
    let world = World::new([in_process("other", "other"), floor()], [asking]);
    for asked in ["auto", "local", "smollm2"] {
        let decided = unwritten(&world, asked, &facts(Restricted));
        assert!(
            planned(&decided).iter().all(|backend| backend == "floor"),
            "{asked}: {:?}",
            planned(&decided)
        );
        assert!(!planned(&decided).is_empty(), "{asked}");
    }
    let named = unwritten(&world, "other", &facts(Internal));
    assert_eq!(planned(&named), ["floor"]);
    assert_eq!(
        named.plan.attempts()[0].degradations(),
        [Degradation::AuditNotDurable, Degradation::ModelSubstituted]
    );
}

#[test]
fn without_a_floor_it_is_refused_by_that_name() {
    let decided = unwritten(&world([cloud("a", 0.9)]), "auto", &facts(Internal));
    let constraints = vec![Constraint::Audit];
    assert_eq!(
        decided.decision.verdict,
        Verdict::PolicyDenied { constraints }
    );
}

#[test]
fn vectors_have_no_floor_and_wait_for_the_record() {
    let mut vectors = floor();
    let model = &mut vectors.models[0];
    model.capabilities.features = vec![Feature::Embeddings];
    model.capabilities.embedding = Some(embedding("1", 384));
    let mut embed = facts(Internal);
    embed.task = TaskType::Embed;
    embed.needs.embeddings = true;
    let world = world([vectors]);
    let decided = unwritten(&world, "smollm2", &embed);
    assert_eq!(refused(&decided.decision, "floor"), Some(Constraint::Audit));
    assert_eq!(planned(&world.decide("smollm2", &embed)), ["floor"]);
}

#[test]
fn a_prompt_that_only_the_missing_ones_could_take_whole_is_trimmed_by_the_floor() {
    let mut long = facts(Internal);
    long.needs.prompt_tokens = 20_000;
    let decided = unwritten(&world([cloud("a", 0.9), floor()]), "auto", &long);
    assert_eq!(planned(&decided), ["floor"]);
    assert!(decided.plan.attempts()[0].overflow());
}

#[test]
fn an_attempt_is_not_admitted_again_once_nothing_can_be_written_unless_it_is_the_floor() {
    let world = world([cloud("a", 0.9), floor()]);
    let facts = facts(Internal);
    let decided = world.decide("auto", &facts);
    let again = |attempt: usize, durable: bool| {
        let input = ReadmitInput {
            snapshot: &world.snapshot,
            policy: &join(&world.snapshot, &world.caller),
            facts: &facts,
            durable,
            now: now(),
        };
        let admitted = readmit(&decided.plan.attempts()[attempt], &input);
        admitted.map(drop).map_err(|refusal| refusal.constraint)
    };
    assert_eq!(again(0, true), Ok(()));
    assert_eq!(again(0, false), Err(Constraint::Audit));
    assert_eq!(again(1, false), Ok(()), "the floor");
}

#[test]
fn what_is_no_longer_the_floor_is_not_sent_to_without_a_record() {
    let before = world([in_process("other", "other"), floor()]);
    let mut asking = asks_from(Internal);
    asking.floor.as_mut().expect("a floor").backend.1 = String::from("other");
    let after = World::new([in_process("other", "other"), floor()], [asking]);
    let facts = facts(Internal);
    let decided = unwritten(&before, "auto", &facts);
    let input = ReadmitInput {
        snapshot: &after.snapshot,
        policy: &join(&after.snapshot, &after.caller),
        facts: &facts,
        durable: false,
        now: now(),
    };
    let refused = readmit(&decided.plan.attempts()[0], &input).expect_err("a refusal");
    assert_eq!(refused.constraint, Constraint::Audit);
}

#[test]
fn what_is_decided_from_files_takes_the_record_for_well() {
    assert!(AssumedHealth::well().durable());
    let world = world([cloud("a", 0.9), floor()]);
    assert_eq!(planned(&world.ask("auto", Internal)), ["a", "floor"]);
}
