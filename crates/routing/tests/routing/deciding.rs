//! Semantics sections 3, 5 and 7: names, order, floor, degradations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::PrivacyLevel::{Internal, Public, Restricted};
use mesh_core::policy::{Overflow, Policy, Substitution};
use mesh_core::{BackendId, Constraint, Degradation, Facts, Feature, ToolNeed, Verdict};
use mesh_routing::health::{Admission, OpenCause};
use mesh_routing::{
    AssumedHealth, Decided, HealthView, ReadmitInput, Role, degradations, join, readmit,
};

use crate::world::{
    World, claims, cloud, external, facts, floor, in_process, now, planned, policy, refused,
};

/// Health by backend name; what is not named is well.
#[derive(Default)]
struct Told(BTreeMap<&'static str, (Admission, Option<Duration>)>);

impl Told {
    fn rests(names: &[&'static str], cause: OpenCause) -> Self {
        let no = Admission::No {
            retry_in: Duration::from_secs(3),
            cause,
        };
        Self(names.iter().map(|name| (*name, (no, None))).collect())
    }
}

impl HealthView for Told {
    fn admission(&self, backend: &BackendId, _: &str) -> Admission {
        self.0
            .get(backend.name.as_str())
            .map_or(Admission::Yes, |one| one.0)
    }

    fn time_to_first_token(&self, backend: &BackendId, _: &str) -> Option<Duration> {
        self.0.get(backend.name.as_str())?.1
    }
}

fn with(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = policy();
    change(&mut policy);
    policy
}

fn compete(policy: &mut Policy) {
    policy.floor.as_mut().expect("a floor").compete = true;
}

fn long(tokens: u32) -> Facts {
    let mut facts = facts(Public);
    facts.needs.prompt_tokens = tokens;
    facts
}

fn degraded(decided: &Decided, backend: &str) -> Vec<Degradation> {
    let served = decided
        .decision
        .plan
        .iter()
        .rposition(|entry| entry.backend.name == backend)
        .expect("in the plan");
    degradations(decided, served)
}

#[test]
fn auto_takes_the_better_scored_cloud_first_and_ends_with_the_floor() {
    let decided = World::of([cloud("a", 0.4), cloud("b", 0.9), floor()]).ask("auto", Public);
    assert_eq!(planned(&decided), ["b", "a", "floor"]);
    assert_eq!(decided.decision.verdict, Verdict::Planned);
    let scores: Vec<bool> = decided
        .decision
        .candidates
        .iter()
        .map(|candidate| candidate.score.is_some())
        .collect();
    assert_eq!(scores, [true, true, false], "the floor is not scored");
    assert_eq!(decided.plan.attempts()[2].role(), Role::Floor);
}

#[test]
fn a_restricted_request_stays_on_the_floor_and_is_not_degraded() {
    let decided = World::of([cloud("a", 0.9), floor()]).ask("auto", Restricted);
    assert_eq!(planned(&decided), ["floor"]);
    assert_eq!(
        refused(&decided.decision, "a"),
        Some(Constraint::MinimumClass)
    );
    assert!(degraded(&decided, "floor").is_empty());
}

#[test]
fn attempts_before_the_floor_are_limited() {
    let clouds = ["a", "b", "c", "d", "e"].map(|name| cloud(name, 0.5));
    let mut world = World::of(clouds.into_iter().chain([floor()]));
    assert_eq!(
        planned(&world.ask("auto", Public)),
        ["a", "b", "c", "d", "floor"]
    );
    world.snapshot.policies = vec![Arc::new(with(|policy| {
        policy.failover.as_mut().expect("failover").max_attempts = 1;
    }))];
    assert_eq!(planned(&world.ask("auto", Public)), ["a", "floor"]);
}

#[test]
fn equal_scores_are_ordered_by_class_and_then_by_name() {
    let only_quality = with(|policy| {
        policy.weights = Some(mesh_core::policy::Weights {
            quality: 1.0,
            cost: 0.0,
            latency: 0.0,
            sovereignty: 0.0,
            privacy: 0.0,
        });
    });
    let mut owned = external("z", &["192.168.20.7"]);
    owned.models[0].capabilities.tasks[0].quality = 0.5;
    let world = World::new([cloud("b", 0.5), cloud("a", 0.5), owned], [only_quality]);
    assert_eq!(planned(&world.ask("auto", Public)), ["z", "a", "b"]);
}

#[test]
fn a_measured_slow_backend_falls_behind() {
    let world = World::of([cloud("a", 0.5), cloud("b", 0.5), floor()]);
    let slow = Told([("a", (Admission::Yes, Some(Duration::from_secs(4))))].into());
    let decided = world.decide_with("auto", &facts(Public), &slow);
    assert_eq!(planned(&decided), ["b", "a", "floor"]);
}

#[test]
fn a_competing_floor_is_scored_and_still_ends_the_plan() {
    let world = World::new([cloud("a", 0.9), floor()], [with(compete)]);
    let decided = world.ask("auto", Public);
    assert!(
        decided
            .decision
            .candidates
            .iter()
            .all(|one| one.score.is_some())
    );
    assert_eq!(planned(&decided).last().map(String::as_str), Some("floor"));
    let alone = World::new([floor()], [with(compete)]).ask("auto", Public);
    assert_eq!(planned(&alone), ["floor"]);
}

#[test]
fn a_competing_floor_that_wins_comes_first_and_once_more_at_the_end() {
    let mut good = floor();
    good.models[0].capabilities.tasks[0].quality = 1.0;
    let decided = World::new([cloud("a", 0.1), good], [with(compete)]).ask("auto", Public);
    assert_eq!(planned(&decided), ["floor", "a", "floor"]);
    assert!(degradations(&decided, 0).is_empty());
    assert_eq!(degradations(&decided, 2), [Degradation::FloorOnly]);
    assert!(decided.plan.attempts()[0].floor());
}

#[test]
fn local_means_owned_hardware_only() {
    let world = World::of([
        cloud("a", 0.9),
        external("llama", &["192.168.20.7"]),
        floor(),
    ]);
    let decided = world.ask("local", Public);
    assert_eq!(refused(&decided.decision, "a"), Some(Constraint::LocalOnly));
    assert_eq!(
        planned(&decided),
        ["llama", "floor"],
        "the better owned one first"
    );
    let alone = World::of([cloud("a", 0.9), floor()]).ask("local", Public);
    assert_eq!(planned(&alone), ["floor"]);
    assert!(degraded(&alone, "floor").is_empty());
}

#[test]
fn a_named_model_is_served_by_who_serves_that_name_or_alias() {
    let mut other = cloud("b", 0.9);
    other.models[0].aliases = vec![String::from("a-model")];
    let world = World::of([cloud("a", 0.5), other, cloud("c", 0.99), floor()]);
    let decided = world.ask("a-model", Public);
    assert_eq!(planned(&decided), ["b", "a", "floor"]);
    assert!(degraded(&decided, "a").is_empty());
    assert_eq!(
        degraded(&decided, "floor"),
        [Degradation::FloorOnly, Degradation::ModelSubstituted]
    );
}

#[test]
fn the_floor_comes_first_if_named_and_last_if_an_alias_stands_for_better_ones() {
    let mut shared = floor();
    shared.models[0].aliases = vec![String::from("a-model")];
    let mut same = cloud("a", 0.9);
    same.models[0].aliases = vec![String::from("smollm2")];
    let world = World::of([same, shared]);
    assert_eq!(planned(&world.ask("a-model", Public)), ["a", "floor"]);
    assert_eq!(
        degraded(&world.ask("a-model", Public), "floor"),
        [Degradation::FloorOnly]
    );
    let named = world.ask("smollm2", Public);
    assert_eq!(planned(&named), ["floor", "a", "floor"]);
    assert!(degradations(&named, 0).is_empty());
}

#[test]
fn a_named_model_that_policy_refuses_is_substituted_by_the_floor() {
    let decided = World::of([cloud("a", 0.9), floor()]).ask("a-model", Restricted);
    assert_eq!(planned(&decided), ["floor"]);
    assert_eq!(degraded(&decided, "floor"), [Degradation::ModelSubstituted]);
}

#[test]
fn with_substitution_never_nobody_stands_in() {
    let never = with(|policy| {
        policy.failover.as_mut().expect("failover").substitution = Substitution::Never;
    });
    let world = World::new([cloud("a", 0.9), floor()], [never]);
    assert_eq!(planned(&world.ask("a-model", Public)), ["a"]);
    let denied = world.ask("a-model", Restricted);
    assert!(planned(&denied).is_empty());
    assert_eq!(
        denied.decision.verdict,
        Verdict::PolicyDenied {
            constraints: vec![Constraint::MinimumClass]
        }
    );
    assert_eq!(
        planned(&world.ask("smollm2", Restricted)),
        ["floor"],
        "the floor by its name"
    );
}

#[test]
fn a_catch_all_takes_only_names_that_nobody_serves() {
    let mut catching = cloud("a", 0.9);
    catching.models[0].aliases = vec![String::from("*")];
    let world = World::of([catching, cloud("b", 0.2), floor()]);
    let unknown = world.ask("gpt-9", Public);
    assert_eq!(planned(&unknown), ["a", "floor"]);
    assert!(degraded(&unknown, "a").is_empty());
    assert_eq!(planned(&world.ask("b-model", Public)), ["b", "floor"]);
}

#[test]
fn who_rests_is_skipped_while_somebody_else_is_left() {
    let world = World::of([cloud("a", 0.9), cloud("b", 0.5), floor()]);
    let decided = world.decide_with(
        "auto",
        &facts(Public),
        &Told::rests(&["a"], OpenCause::Failures),
    );
    assert_eq!(planned(&decided), ["b", "floor"]);
    let shown = &decided.decision.candidates[0];
    assert!(shown.backend.name == "a" && shown.unavailable && shown.refusal.is_none());
}

#[test]
fn if_all_others_rest_the_floor_answers_and_says_so() {
    let world = World::of([cloud("a", 0.9), cloud("b", 0.5), floor()]);
    let rests = Told::rests(&["a", "b"], OpenCause::Failures);
    let decided = world.decide_with("auto", &facts(Public), &rests);
    assert_eq!(planned(&decided), ["floor"]);
    assert_eq!(degraded(&decided, "floor"), [Degradation::FloorOnly]);
}

#[test]
fn if_the_floor_rests_too_the_best_other_is_tried_once_before_it() {
    let world = World::of([cloud("a", 0.9), cloud("b", 0.5), floor()]);
    let rests = Told::rests(&["a", "b", "floor"], OpenCause::Failures);
    let decided = world.decide_with("auto", &facts(Public), &rests);
    assert_eq!(planned(&decided), ["a", "floor"]);
    assert!(decided.plan.attempts()[0].last_resort());
}

#[test]
fn who_asked_for_a_rest_is_not_tried_even_if_nothing_else_is_left() {
    let world = World::of([cloud("a", 0.9)]);
    let resting = Told::rests(&["a"], OpenCause::RateLimited);
    let decided = world.decide_with("auto", &facts(Public), &resting);
    assert!(planned(&decided).is_empty());
    assert!(
        matches!(&decided.decision.verdict, Verdict::NoBackend { message } if message.ends_with(": a"))
    );
    assert_eq!(decided.retry_after, Some(Duration::from_secs(3)));
    let failing = Told::rests(&["a"], OpenCause::Failures);
    let tried = world.decide_with("auto", &facts(Public), &failing);
    assert_eq!(planned(&tried), ["a"]);
    assert_eq!(tried.retry_after, None);
}

#[test]
fn soft_tools_are_dropped_by_a_floor_without_them_and_by_nobody_else() {
    let mut soft = facts(Public);
    soft.needs.tools = ToolNeed::Soft;
    let decided = World::of([cloud("a", 0.9), floor()]).decide("auto", &soft);
    assert!(degradations(&decided, 0).is_empty());
    assert_eq!(
        degradations(&decided, 1),
        [Degradation::FloorOnly, Degradation::ToolsDropped]
    );
    let mut able = floor();
    able.models[0].capabilities.features = vec![Feature::Tools];
    let decided = World::of([able]).decide("auto", &soft);
    assert!(degradations(&decided, 0).is_empty());
    assert!(degradations(&decided, 7).is_empty(), "not in the plan");
}

#[test]
fn a_prompt_too_large_for_the_floor_is_trimmed_there_only_beside_larger_windows() {
    let world = World::of([cloud("a", 0.9), floor()]);
    let decided = world.decide("auto", &long(20_000));
    assert_eq!(planned(&decided), ["a", "floor"]);
    assert!(decided.plan.attempts()[1].overflow() && !decided.plan.attempts()[0].overflow());
    let rests = Told::rests(&["a"], OpenCause::Failures);
    let down = world.decide_with("auto", &long(20_000), &rests);
    assert_eq!(planned(&down), ["floor"], "the larger one is down");
    let alone = World::of([floor()]).decide("auto", &long(20_000));
    assert_eq!(
        alone.decision.verdict,
        Verdict::ContextLengthExceeded { largest: 8_192 }
    );
}

#[test]
fn a_floor_that_refuses_overflow_does_not_end_the_plan() {
    let refusing = with(|policy| {
        policy.floor.as_mut().expect("a floor").overflow = Overflow::Refuse;
    });
    let world = World::new([cloud("a", 0.9), floor()], [refusing]);
    assert_eq!(planned(&world.decide("auto", &long(20_000))), ["a"]);
}

#[test]
fn a_floor_that_is_not_ours_is_no_floor() {
    let foreign = with(|policy| {
        policy.floor.as_mut().expect("a floor").backend.1 = String::from("a");
    });
    let decided = World::new([cloud("a", 0.2), cloud("b", 0.9)], [foreign]).ask("auto", Public);
    assert_eq!(planned(&decided), ["b", "a"]);
    assert!(decided.decision.candidates.iter().all(|one| !one.floor));
}

#[test]
fn the_decision_serializes_with_its_policies_and_says_that_health_is_assumed() {
    let world = World::of([cloud("a", 0.9), floor()]);
    let decided = world.ask("auto", Internal);
    let json = serde_json::to_value(&decided.decision).expect("serializes");
    assert_eq!(json["policies"][0]["name"], "policy");
    assert_eq!(json["policies"][0]["digest"], "digest-policy");
    assert_eq!(json["health_assumed"], true);
    assert_eq!(json["plan"][0]["class"], "CloudDomestic");
    let known = world.decide_with("auto", &facts(Internal), &Told::default());
    assert!(!known.decision.health_assumed);
}

#[test]
fn every_attempt_is_admitted_again_against_the_newest_snapshot() {
    let world = World::of([cloud("a", 0.9), floor()]);
    let facts = facts(Internal);
    let decided = world.decide("auto", &facts);
    let again = |world: &World, at| {
        readmit(
            &decided.plan.attempts()[0],
            &ReadmitInput {
                snapshot: &world.snapshot,
                policy: &join(&world.snapshot, &world.caller),
                facts: &facts,
                durable: true,
                now: at,
            },
        )
        .map_err(|refusal| refusal.constraint)
        .map(|admitted| admitted.backend().id.to_string())
    };
    assert_eq!(again(&world, now()), Ok(String::from("a")));

    let later = "2028-01-01T00:00:00Z".parse().expect("an instant");
    assert_eq!(
        again(&world, later),
        Err(Constraint::MinimumClass),
        "claims expired"
    );

    let gone = World::of([floor()]);
    assert_eq!(again(&gone, now()), Err(Constraint::Availability));

    let raised = World::new(
        [cloud("a", 0.9), floor()],
        [with(|policy| policy.default_privacy = Some(Restricted))],
    );
    assert_eq!(
        again(&raised, now()),
        Err(Constraint::MinimumClass),
        "base level rose"
    );

    let mut kept = cloud("a", 0.9);
    claims(&mut kept).retention_days = Some(30);
    assert_eq!(
        again(&World::of([kept]), now()),
        Err(Constraint::MinimumClass)
    );
}

#[test]
fn what_is_admitted_by_its_address_names_the_networks_to_check() {
    let world = World::of([external("llama", &["192.168.20.7"]), floor()]);
    let decided = world.ask("local", Restricted);
    let admitted = decided.plan.attempts()[0].admitted();
    assert_eq!(admitted.backend().id.name, "llama");
    assert_eq!(
        admitted.networks(),
        Some(["192.168.20.0/24".parse().expect("a network")].as_slice())
    );
    assert_eq!(decided.plan.attempts()[1].admitted().networks(), None);
    assert_eq!(admitted.level(), Restricted);
}

#[test]
fn an_unavailable_backend_is_assumed_by_bare_or_full_name() {
    let world = World::of([cloud("a", 0.9), floor()]);
    let decided = world.decide_with("auto", &facts(Public), &AssumedHealth::without(["a"]));
    assert_eq!(planned(&decided), ["floor"]);
}

#[test]
fn a_second_model_in_this_process_is_scored_beside_the_floor() {
    let decided = World::of([in_process("big", "qwen"), floor()]).ask("auto", Restricted);
    assert_eq!(planned(&decided), ["big", "floor"]);
}
