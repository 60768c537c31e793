//! Promises that hold for any snapshot and any request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::policy::{Overflow, Policy, Substitution};
use mesh_core::{Backend, Facts, Place, PolicyId, PrivacyLevel, SovereigntyClass, Verdict};
use mesh_routing::health::{
    Admission, Event, Health, LONGEST_RETRY_AFTER, Permit, TRIAL_LEASE, Tick,
};
use mesh_routing::policy::DEFAULT_MINIMUM;
use mesh_routing::{AdmitInput, Decided, Role, admit, degradations};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::generate::{backend, policy, request, sickness, world};
use crate::oracle::{class, forbidden, governing, too_long};
use crate::world::{MESH, World, now, silent};

/// Backend and model of everything admitted.
fn admitted(decided: &Decided) -> BTreeSet<(String, String)> {
    decided
        .decision
        .candidates
        .iter()
        .filter(|candidate| candidate.refusal.is_none())
        .map(|candidate| (candidate.backend.to_string(), candidate.model.clone()))
        .collect()
}

/// What `admit` lets through, whatever was asked for.
fn let_through(world: &World, facts: &Facts) -> BTreeSet<(String, String)> {
    let policy = world.policy();
    let input = AdmitInput {
        policy: &policy,
        facts,
        local_only: false,
        embedding: None,
        overflow: false,
        recorded: true,
        now: now(),
    };
    world
        .snapshot
        .backends
        .iter()
        .flat_map(|backend| backend.models.iter().map(move |model| (backend, model)))
        .filter(|(backend, model)| admit(&input, backend, &model.name).is_ok())
        .map(|(backend, model)| (backend.id.to_string(), model.name.clone()))
        .collect()
}

/// The backend that may be the floor of this world.
fn floor_of(world: &World) -> Option<Arc<Backend>> {
    let policy = world.policy();
    let (namespace, name) = &policy.floor()?.backend;
    let backend = world
        .snapshot
        .backends
        .iter()
        .find(|backend| backend.id.namespace == *namespace && backend.id.name == *name)?;
    let ours = matches!(backend.place, Place::InProcess { .. })
        || class(world, backend) == SovereigntyClass::OwnHardware;
    ours.then(|| Arc::clone(backend))
}

fn with_policy(world: &World, policy: Policy) -> World {
    let mut more = world.clone();
    more.snapshot.policies.push(Arc::new(policy));
    more.snapshot.policies.sort_by(|a, b| a.id.cmp(&b.id));
    more
}

/// Places of the plan in order of first appearance.
fn order(decided: &Decided) -> Vec<(String, String)> {
    let mut order = Vec::new();
    for entry in &decided.decision.plan {
        let place = (entry.backend.to_string(), entry.model.clone());
        if !order.contains(&place) {
            order.push(place);
        }
    }
    order
}

/// The same cases in every run; `PROPTEST_CASES` asks for more of them.
fn seeded() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_261_122),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn no_attempt_violates_a_hard_constraint(
        world in world(), (facts, asked) in request(), health in sickness(),
    ) {
        let decided = world.decide_with(&asked, &facts, &health);
        let level = decided.decision.privacy;
        prop_assert!(level >= facts.level);
        for attempt in decided.plan.attempts() {
            let (backend, model) = (attempt.admitted().backend(), attempt.admitted().model());
            let broken = forbidden(&world, &facts, level, asked == "local", backend, model);
            prop_assert_eq!(broken, None, "{} {}", backend.id, model.name);
            prop_assert_eq!(attempt.admitted().class(), class(&world, backend));
            if too_long(&facts, model) {
                prop_assert!(attempt.overflow() && attempt.floor(), "only a floor trims");
                prop_assert_eq!(
                    world.policy().floor().map(|floor| floor.overflow),
                    Some(Overflow::TrimHistory)
                );
            }
        }
    }

    #[test]
    fn what_no_rule_forbids_is_admitted(world in world(), (facts, _) in request()) {
        prop_assume!(!facts.needs.embeddings);
        let level = facts.level.max(world.policy().base_level());
        let through = let_through(&world, &facts);
        for backend in &world.snapshot.backends {
            for model in backend.models.iter().filter(|model| model.capabilities.embedding.is_none()) {
                let allowed = forbidden(&world, &facts, level, false, backend, model).is_none()
                    && !too_long(&facts, model);
                let place = (backend.id.to_string(), model.name.clone());
                prop_assert_eq!(through.contains(&place), allowed, "{:?}", place);
            }
        }
    }

    #[test]
    fn every_plan_ends_with_the_floor_if_the_floor_is_admitted(
        world in world(), (facts, asked) in request(), health in sickness(),
    ) {
        let decided = world.decide_with(&asked, &facts, &health);
        let Some(floor) = floor_of(&world) else { return Ok(()) };
        let named = !["auto", "local"].contains(&asked.as_str());
        let stands_in = world.policy().failover().substitution == Substitution::Floor;
        let exempt = facts.needs.embeddings
            || named && !stands_in
            || matches!(
                decided.decision.verdict,
                Verdict::ModelNotFound { .. } | Verdict::UnsupportedParameter { .. }
            );
        let level = decided.decision.privacy;
        let serves = floor.models.iter().any(|model| {
            model.capabilities.embedding.is_none()
                && !too_long(&facts, model)
                && forbidden(&world, &facts, level, asked == "local", &floor, model).is_none()
        });
        if serves && !exempt {
            let last = decided.plan.attempts().last();
            prop_assert_eq!(last.map(|attempt| attempt.admitted().backend().id.clone()), Some(floor.id.clone()));
        }
        for candidate in decided.decision.candidates.iter().filter(|one| one.floor && one.refusal.is_none()) {
            let last = decided.decision.plan.last().map(|entry| &entry.backend);
            prop_assert_eq!(last, Some(&candidate.backend));
        }
    }

    #[test]
    fn removing_a_backend_never_removes_the_floor(
        world in world(), (facts, asked) in request(), health in sickness(), gone in 0_usize..4,
    ) {
        let before = world.decide_with(&asked, &facts, &health);
        let Some(last) = before.plan.attempts().last().filter(|last| last.floor() && !last.overflow()) else {
            return Ok(());
        };
        let floor = last.admitted().backend().id.clone();
        let mut less = world;
        if gone >= less.snapshot.backends.len() || less.snapshot.backends[gone].id == floor {
            return Ok(());
        }
        less.snapshot.backends.remove(gone);
        let after = less.decide_with(&asked, &facts, &health);
        // Without the backend that served a name, the name itself may be gone, or be left to
        // others that may not have the caller's fields.
        let named = !["auto", "local"].contains(&asked.as_str());
        let about_the_name = matches!(
            after.decision.verdict,
            Verdict::ModelNotFound { .. } | Verdict::UnsupportedParameter { .. }
        );
        if !(named && about_the_name) {
            prop_assert_eq!(after.decision.plan.last().map(|entry| &entry.backend), Some(&floor));
        }
    }

    #[test]
    fn raising_a_level_never_adds_a_backend(
        world in world(), (facts, asked) in request(), health in sickness(),
    ) {
        let mut before: Option<BTreeSet<_>> = None;
        for level in PrivacyLevel::ALL {
            let facts = Facts { level, ..facts.clone() };
            let decided = world.decide_with(&asked, &facts, &health);
            let now = admitted(&decided);
            for entry in &decided.decision.plan {
                prop_assert!(now.contains(&(entry.backend.to_string(), entry.model.clone())));
            }
            if let Some(before) = before {
                prop_assert!(now.is_subset(&before), "{level}: {now:?} after {before:?}");
            }
            before = Some(now);
        }
    }

    #[test]
    fn adding_a_backend_never_reorders_two_others(
        world in world(), more in backend("b9"), (facts, asked) in request(), health in sickness(),
    ) {
        let before = order(&world.decide_with(&asked, &facts, &health));
        let mut larger = world;
        larger.snapshot.backends.push(Arc::new(more));
        larger.snapshot.backends.sort_by(|a, b| a.id.cmp(&b.id));
        let after = order(&larger.decide_with(&asked, &facts, &health));
        let common = |list: &[(String, String)], other: &[(String, String)]| -> Vec<(String, String)> {
            list.iter().filter(|place| other.contains(place)).cloned().collect()
        };
        prop_assert_eq!(common(&before, &after), common(&after, &before));
    }

    /// Exactly: a policy of another namespace, whatever it says.
    #[test]
    fn a_policy_of_another_namespace_never_admits_more(
        world in world(), mut more in policy("p9"), (facts, _) in request(),
    ) {
        let world = if world.caller.tenant == MESH { world.seen_from("hr") } else { world };
        more.id = PolicyId::foreign(world.caller.tenant.clone(), "p9");
        more.service_accounts.clear();
        let larger = with_policy(&world, more);
        let (before, after) = (let_through(&world, &facts), let_through(&larger, &facts));
        prop_assert!(after.is_subset(&before), "{after:?} after {before:?}");
    }

    /// Exactly: a policy of the mesh namespace beside another that already governs the caller, that
    /// says neither a base level nor what is owned (unless another says so too), and whose minimum
    /// classes are not laxer than the built-in ones.
    #[test]
    fn a_policy_of_the_mesh_that_loosens_nothing_by_name_never_admits_more(
        world in world(), mut more in policy("p9"), (facts, _) in request(),
    ) {
        more.id = PolicyId::home(MESH, "p9");
        let world = if governing(&world).iter().any(|policy| policy.id.namespace == MESH) {
            world
        } else {
            with_policy(&world, silent("p8"))
        };
        more.default_privacy = None;
        let owners = governing(&world).into_iter().any(|policy| {
            policy.ownership.is_some()
                && policy.id.namespace == MESH
                && policy.namespaces.everything()
                && policy.service_accounts.is_empty()
        });
        if !owners {
            more.ownership = None;
        }
        more.constraints.minimum_class.retain(|level, class| {
            *class >= DEFAULT_MINIMUM[usize::from(level.rank())]
        });
        let larger = with_policy(&world, more);
        let (before, after) = (let_through(&world, &facts), let_through(&larger, &facts));
        prop_assert!(after.is_subset(&before), "{after:?} after {before:?}");
    }

    #[test]
    fn deciding_twice_gives_the_same(
        world in world(), (facts, asked) in request(), health in sickness(),
    ) {
        let (one, two) = (
            world.decide_with(&asked, &facts, &health),
            world.decide_with(&asked, &facts, &health),
        );
        prop_assert_eq!(&one.decision, &two.decision);
        let mut shuffled = world;
        shuffled.snapshot.backends.reverse();
        shuffled.snapshot.policies.reverse();
        let three = shuffled.decide_with(&asked, &facts, &health);
        prop_assert_eq!(&one.decision.plan, &three.decision.plan);
        prop_assert_eq!(&one.decision.verdict, &three.decision.verdict);
    }

    #[test]
    fn verdict_plan_and_degradations_agree(
        world in world(), (facts, asked) in request(), health in sickness(),
    ) {
        let decided = world.decide_with(&asked, &facts, &health);
        let planned = decided.decision.verdict == Verdict::Planned;
        prop_assert_eq!(planned, !decided.plan.attempts().is_empty());
        prop_assert_eq!(decided.decision.plan.len(), decided.plan.attempts().len());
        prop_assert!(!planned || decided.retry_after.is_none());
        let limit = usize::try_from(world.policy().failover().max_attempts.max(1)).expect("small");
        let ranked = decided.plan.attempts().iter().filter(|one| one.role() != Role::Floor).count();
        prop_assert!(ranked <= limit);
        for (index, attempt) in decided.plan.attempts().iter().enumerate() {
            let known = degradations(&decided, index);
            let floor_only = known.contains(&mesh_core::Degradation::FloorOnly);
            prop_assert!(!floor_only || attempt.floor());
        }
        for score in decided.decision.candidates.iter().filter_map(|candidate| candidate.score) {
            prop_assert!(score.total.is_finite());
        }
    }
}

/// One step in the life of a breaker.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Start(bool),
    Finish(usize, Event),
    Lose(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = prop_oneof![
        3 => Just(Event::Success),
        6 => Just(Event::Failure),
        2 => Just(Event::Interrupted),
        1 => (0_u64..100_000).prop_map(|seconds| Event::RateLimited(Some(Duration::from_secs(seconds)))),
        1 => Just(Event::RateLimited(None)),
        1 => Just(Event::Marked(401)),
        1 => Just(Event::Neutral),
        1 => Just(Event::FirstToken(Duration::MAX)),
    ];
    let step = prop_oneof![
        2 => (0_u64..90_000).prop_map(Step::Wait),
        4 => any::<bool>().prop_map(Step::Start),
        4 => (0_usize..8, event).prop_map(|(call, event)| Step::Finish(call, event)),
        1 => (0_usize..8).prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn health_is_never_stuck_open(steps in steps()) {
        let mut health = Health::default();
        let mut now = Tick::default();
        let mut calls: Vec<Permit> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(milliseconds) => now = now.after(Duration::from_millis(milliseconds)),
                Step::Start(last_resort) => {
                    let open = !health.admits(now).available();
                    let permit = health.start(now, last_resort);
                    prop_assert!(permit.is_none() || !open || last_resort);
                    calls.extend(permit);
                }
                Step::Finish(call, event) if call < calls.len() => {
                    let keep = matches!(event, Event::FirstToken(_));
                    health.on(calls[call], event, now);
                    if !keep {
                        calls.remove(call);
                    }
                }
                Step::Lose(call) if call < calls.len() => { calls.remove(call); }
                Step::Finish(..) | Step::Lose(_) => {}
            }
        }
        let rested = now.after(LONGEST_RETRY_AFTER).after(TRIAL_LEASE);
        prop_assert!(health.admits(rested).available());
        let permit = health.start(rested, false).expect("leave to call");
        health.on(permit, Event::Success, rested);
        prop_assert_eq!(health.admits(rested), Admission::Yes);
    }
}
