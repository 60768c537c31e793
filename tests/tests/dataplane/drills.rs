//! Floor drills: the floor is asked a small question again and again, nobody else is, and no caller goes without for it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh_core::{LatencyClass, PrivacyLevel, SovereigntyClass};
use mesh_testkit::upstream::ScriptedUpstream;
use serde_json::json;

use crate::world::{Builder, FLOOR_SAYS, Play, World, ask, world};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const DRILL: &str = "mesh_gateway_floor_drill";

fn drilled(every: Duration) -> Builder {
    world().floor().drilled(every)
}

fn gauge(world: &World, of: &str) -> Option<f64> {
    world.metric(&format!("{DRILL}{of}{{backend=\"floor\"}}"))
}

fn counted(world: &World, outcome: &str) -> Option<f64> {
    let labels = format!("backend=\"floor\",outcome=\"{outcome}\"");
    world.metric(&format!("{DRILL}s_total{{{labels}}}"))
}

/// Waits, in most tests in a time that passes only while nobody has anything to do.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_answers_is_asked_once_per_interval_and_nobody_else_is() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = drilled(HOUR).cloud("cloud", &cloud, 0.9).start();
    until("the first drill", || {
        counted(&world, "succeeded") == Some(1.0)
    })
    .await;
    assert_eq!(gauge(&world, "_succeeded"), Some(1.0));
    assert_eq!(gauge(&world, "_interval_seconds"), Some(3600.0));
    assert!(gauge(&world, "_duration_seconds").is_some());
    tokio::time::sleep(53 * MINUTE).await;
    assert_eq!(world.floor.calls(), 1, "not before its time");
    assert!(gauge(&world, "_seconds").expect("an age") >= 53.0 * 60.0);
    tokio::time::sleep(8 * MINUTE).await;
    assert_eq!(world.floor.calls(), 2);
    assert_eq!(counted(&world, "succeeded"), Some(2.0));
    assert!(gauge(&world, "_seconds").expect("an age") < 8.0 * 60.0);
    for outcome in ["busy", "failed", "refused"] {
        assert_eq!(counted(&world, outcome), Some(0.0), "{outcome}");
    }
    assert_eq!(cloud.connections(), 0);
    let metrics = world.metrics();
    for callers in ["attempts_total", "tokens_total", "decisions_total"] {
        assert!(!metrics.contains(&format!("mesh_gateway_{callers}{{")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drill_stands_last_in_the_queue_at_the_highest_level_that_the_floor_may_have() {
    let world = drilled(HOUR).start();
    until("a drill", || world.floor.calls() == 1).await;
    let last = (PrivacyLevel::Restricted, LatencyClass::Batch, false);
    assert_eq!(world.floor.last(), Some(last));

    // A floor that may have no Restricted request is asked what it may have.
    let lower = drilled(HOUR)
        .backend("floor", |backend| {
            backend.max_privacy = PrivacyLevel::Internal;
        })
        .start();
    until("a drill", || lower.floor.calls() == 1).await;
    let last = (PrivacyLevel::Internal, LatencyClass::Batch, false);
    assert_eq!(lower.floor.last(), Some(last));
    until("it succeeded", || counted(&lower, "succeeded") == Some(1.0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_does_not_answer_is_told_asked_again_soon_and_told_when_it_answers() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = drilled(HOUR).cloud("cloud", &cloud, 0.9).start();
    world.floor.set(Play::Hang);
    until("it failed", || counted(&world, "failed") == Some(1.0)).await;
    assert_eq!(gauge(&world, "_succeeded"), Some(0.0));
    assert!(gauge(&world, "_seconds").expect("an age") >= 60.0);
    assert!(gauge(&world, "_duration_seconds").is_none());
    assert_eq!(world.floor.running(), 0, "what hangs is given up");
    until("again", || counted(&world, "failed") == Some(2.0)).await;
    assert!(gauge(&world, "_seconds").expect("an age") < 250.0);
    world.floor.set(Play::Answer);
    until("it answers", || counted(&world, "succeeded") == Some(1.0)).await;
    assert_eq!(gauge(&world, "_succeeded"), Some(1.0));
    assert!(gauge(&world, "_seconds").expect("an age") < 1.0);
    assert_eq!(cloud.connections(), 0, "nobody answers in its place");
}

#[tokio::test(start_paused = true)]
async fn a_busy_floor_is_busy_and_not_broken() {
    let world = drilled(HOUR).start();
    until("a proof", || counted(&world, "succeeded") == Some(1.0)).await;
    world.floor.set(Play::Busy);
    until("it is busy", || counted(&world, "busy") == Some(2.0)).await;
    assert_eq!(counted(&world, "failed"), Some(0.0));
    assert_eq!(gauge(&world, "_succeeded"), Some(1.0), "as last known");
    assert!(gauge(&world, "_seconds").expect("an age") >= 3240.0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_the_last_place_while_a_drill_runs_and_a_drill_takes_none_that_is_missing() {
    let world = drilled(HOUR)
        .backend("floor", |backend| {
            backend.limits.concurrent_requests = Some(1);
        })
        .start();
    world.floor.set(Play::Hang);
    until("a drill", || world.floor.running() == 1).await;
    world.floor.set(Play::Answer);
    let reply = world.chat(ask("hello")).await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (StatusCode::OK, FLOOR_SAYS)
    );

    until("it failed", || counted(&world, "failed") == Some(1.0)).await;
    world.floor.set(Play::Hang);
    let caller = world.chat(ask("hello"));
    let calls = world.floor.calls();
    let drills = until("no place", || counted(&world, "busy") == Some(1.0));
    tokio::select! {
        _ = caller => panic!("it hangs"),
        () = drills => {}
    }
    assert_eq!(world.floor.calls(), calls + 1, "the caller's alone");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_withdrawn_ends_the_drills_and_their_numbers() {
    let world = drilled(HOUR).start();
    until("a drill", || counted(&world, "succeeded") == Some(1.0)).await;
    let mut without = (*world.store.current()).clone();
    let mut policy = (*without.policies[0]).clone();
    policy.floor.as_mut().expect("a floor").drill = None;
    without.policies = vec![Arc::new(policy)];
    world.store.replace(without);
    until("no number", || {
        !world.metrics().contains(&format!("{DRILL}_seconds{{"))
    })
    .await;
    assert!(!world.metrics().contains("backend=\"floor\",outcome="));
    tokio::time::sleep(3 * HOUR).await;
    assert_eq!(world.floor.calls(), 1, "not asked any more");
}

#[tokio::test(start_paused = true)]
async fn of_several_policies_with_one_floor_the_shortest_interval_counts_and_the_floor_is_asked_once()
 {
    let world = drilled(HOUR).start();
    let mut more = (*world.store.current()).clone();
    let mut policy = (*more.policies[0]).clone();
    policy.id = mesh_core::PolicyId::home("default", "more");
    policy.floor.as_mut().expect("a floor").drill = Some(10 * MINUTE);
    more.policies.push(Arc::new(policy.clone()));
    // A team's would have the mesh's floor refuse what it has for everybody.
    policy.id = mesh_core::PolicyId::foreign("team", "ours");
    policy.floor.as_mut().expect("a floor").drill = Some(MINUTE);
    policy.constraints.licenses_allow = Some(Vec::new());
    more.policies.push(Arc::new(policy));
    until("the first", || counted(&world, "succeeded") == Some(1.0)).await;
    world.store.replace(more);
    until("it is known", || {
        gauge(&world, "_interval_seconds") == Some(600.0)
    })
    .await;
    tokio::time::sleep(11 * MINUTE).await;
    assert_eq!(world.floor.calls(), 2);
    assert_eq!(counted(&world, "refused"), Some(0.0));
    assert_eq!(gauge(&world, "_interval_seconds"), Some(600.0));
}

#[tokio::test(start_paused = true)]
async fn a_policy_whose_floor_another_one_replaces_drills_nothing() {
    let world = drilled(HOUR).start();
    until("the first", || counted(&world, "succeeded") == Some(1.0)).await;
    let mut other = (*world.store.current()).clone();
    let mut policy = (*other.policies[0]).clone();
    policy.id = mesh_core::PolicyId::home("default", "stricter");
    let minimum = &mut policy.constraints.minimum_class;
    minimum.insert(PrivacyLevel::Public, SovereigntyClass::OwnHardware);
    let floor = policy.floor.as_mut().expect("a floor");
    floor.backend.1 = String::from("elsewhere");
    floor.drill = None;
    other.policies.push(Arc::new(policy));
    world.store.replace(other);
    until("no number", || gauge(&world, "_seconds").is_none()).await;
    tokio::time::sleep(3 * HOUR).await;
    assert_eq!(world.floor.calls(), 1);
}

#[tokio::test]
async fn a_server_outside_is_asked_a_small_question_if_it_is_ours_and_else_never() {
    let server = ScriptedUpstream::start().await.expect("a server");
    let stranger = world().floor_outside(&server).drilled(HOUR).start();
    until("a drill", || counted(&stranger, "failed") == Some(1.0)).await;
    assert_eq!(server.connections(), 0);

    let ours = world().floor_outside(&server).drilled(HOUR);
    let ours = ours.policy(|policy| {
        let ownership = policy.ownership.as_mut().expect("ownership");
        let floor = (String::from("default"), String::from("floor"));
        ownership.external = vec![floor];
    });
    let ours = ours.start();
    until("a drill", || counted(&ours, "succeeded") == Some(1.0)).await;
    let asked = server.requests();
    assert_eq!(asked.len(), 1);
    let body = asked[0].json();
    assert_eq!(body["max_tokens"], json!(8));
    assert_eq!(body["messages"].as_array().map(Vec::len), Some(1));
    let marked = |name: &str| name.starts_with("mesh-");
    assert!(!asked[0].headers.iter().any(|(name, _)| marked(name)));
}
