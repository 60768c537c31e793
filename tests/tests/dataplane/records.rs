//! Where a policy asks for a durable record, nothing leaves before it is on disk; without one the floor answers alone,
//! and is written later. Where none asks, nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use mesh_core::PrivacyLevel::{Internal, Public, Restricted};
use mesh_core::{EmbeddingSpec, Feature};
use mesh_ledger::{Entry, Event, Ledger, Memory, NotDurable, Pending, State};
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::world::{Builder, FLOOR_SAYS, World, ask, ask_streaming, world};

pub(crate) async fn cloud(says: &str) -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await.expect("a cloud");
    upstream.set(Answer::text(says));
    upstream
}

/// Two clouds, the better one first, a floor, and a ledger for everything.
pub(crate) fn recorded(
    ledger: &Arc<Memory>,
    first: &ScriptedUpstream,
    second: &ScriptedUpstream,
) -> Builder {
    world()
        .cloud("first", first, 0.9)
        .cloud("second", second, 0.5)
        .floor()
        .recorded(Public, ledger)
}

/// An entry in a few words.
fn told(entry: &Entry) -> String {
    match &entry.event {
        Event::Decided { .. } => String::from("decided"),
        Event::Sending(sending) => format!("sending {} {}", sending.attempt, sending.backend),
        Event::Ended(ended) => format!("ended {} {}", ended.backend, ended.outcome),
        Event::Lost { count, .. } => format!("lost {count}"),
        Event::Removed { .. } => String::from("removed"),
    }
}

pub(crate) fn all(ledger: &Memory) -> Vec<String> {
    ledger.entries().iter().map(told).collect()
}

/// Waits until something is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
    assert!(waited.is_ok(), "never: {what}");
}

fn metric(world: &World, name: &str) -> Option<f64> {
    world.metric(&format!("mesh_gateway_{name} "))
}

fn is(world: &World, name: &str, value: f64) -> bool {
    let name = match name {
        "audit_durable" => "audit_durable{asked_by=\"mesh\"}",
        other => other,
    };
    metric(world, name).is_some_and(|found| (found - value).abs() < 1e-9)
}

/// A ledger that says when it is asked, and waits to be let go on.
struct Gate {
    inner: Memory,
    asked: AtomicUsize,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Memory::new(),
            asked: AtomicUsize::new(0),
            open: Arc::new(Semaphore::new(0)),
        })
    }

    async fn asked(&self, count: usize) {
        let asked = || self.asked.load(Ordering::SeqCst) >= count;
        until("it is asked", asked).await;
    }

    fn open(&self) {
        self.open.add_permits(1);
    }
}

impl Ledger for Gate {
    fn append(&self, entries: Vec<Entry>) -> Pending {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (open, kept) = (Arc::clone(&self.open), self.inner.append(entries));
        Box::pin(async move {
            open.acquire().await.expect("open").forget();
            kept.await
        })
    }

    fn state(&self) -> State {
        self.inner.state()
    }
}

#[tokio::test]
async fn nothing_is_sent_before_its_record_is_on_disk() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    first.set(Behavior::status(500));
    let ledger = Gate::new();
    let world = world()
        .cloud("first", &first, 0.9)
        .cloud("second", &second, 0.5)
        .floor()
        .recorded(Public, &ledger)
        .config(|config| config.record_wait = Duration::from_secs(20))
        .start();
    let watched = async {
        ledger.asked(1).await;
        assert_eq!((first.connections(), second.connections()), (0, 0));
        ledger.open();
        // The first cloud fails. The second one has a record of its own, and how the first ended is written beside it.
        first.asked(1).await;
        ledger.asked(3).await;
        assert_eq!((second.connections(), world.floor.calls()), (0, 0));
        ledger.open();
        ledger.open();
    };
    let (reply, ()) = tokio::join!(world.chat(ask("hello")), watched);
    assert_eq!(reply.header("mesh-backend"), "second");
    assert_eq!(reply.header("mesh-degraded"), "");
    assert_eq!((first.count(), second.count()), (1, 1));
    ledger.open();
    world.plane.end_records(Duration::from_secs(20)).await;
    let written = all(&ledger.inner);
    let at = |word: &str| written.iter().position(|entry| entry == word);
    assert_eq!(&written[..2], ["decided", "sending 1 first"]);
    assert!(
        at("sending 2 second") < at("ended second ok"),
        "{written:?}"
    );
    assert!(at("ended first status").is_some(), "{written:?}");
    assert_eq!(written.len(), 5, "{written:?}");
}

#[tokio::test]
async fn what_changes_while_a_record_is_written_counts_before_it_is_sent() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let ledger = Gate::new();
    let world = world()
        .cloud("first", &first, 0.9)
        .floor()
        .recorded(Public, &ledger)
        .config(|config| config.record_wait = Duration::from_secs(20))
        .start();
    let changed = async {
        ledger.asked(1).await;
        // The policy forbids the cloud that was to be asked.
        let mut next = (*world.store.current()).clone();
        let policy = Arc::make_mut(&mut next.policies[0]);
        policy.constraints.licenses_allow = Some(Vec::new());
        policy.default_privacy = Some(Restricted);
        world.store.replace(next);
        for _ in 0..8 {
            ledger.open();
        }
    };
    let (reply, ()) = tokio::join!(world.chat(ask("hello")), changed);
    assert_eq!((first.connections(), second.connections()), (0, 0));
    assert_ne!(reply.header("mesh-backend"), "first", "{reply:?}");
    world.plane.end_records(Duration::from_secs(20)).await;
    assert!(all(&ledger.inner).contains(&String::from("ended first refused")));
}

#[tokio::test]
async fn how_it_ended_and_what_was_counted_follows_also_for_streams_and_callers_who_leave() {
    let (first, second) = (cloud("one two").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second).start();
    world.chat(ask_streaming("hello")).await;
    until("the end is written", || ledger.entries().len() == 3).await;
    let Event::Ended(ended) = &ledger.entries()[2].event else {
        panic!("an end: {:?}", all(&ledger));
    };
    assert_eq!((ended.attempt, ended.outcome.as_str()), (1, "ok"));
    assert!(
        ended
            .tokens
            .is_some_and(|tokens| tokens.input > 0 && tokens.output > 0)
    );

    first.set(Behavior::HangBeforeHeaders);
    let left = tokio::time::timeout(Duration::from_millis(300), world.chat(ask("hello"))).await;
    assert!(left.is_err(), "the caller left");
    until("the end is written", || {
        all(&ledger).contains(&String::from("ended first canceled"))
    })
    .await;
    assert_eq!(second.count(), 0);
}

/// Asks in every way, and gives what came.
async fn every_way(world: &World) -> Vec<(StatusCode, String, String)> {
    let mut came = Vec::new();
    let completion = json!({"model": "auto", "prompt": "hello"});
    for (path, body) in [
        ("/v1/chat/completions", ask("hello")),
        ("/v1/chat/completions", ask_streaming("hello")),
        ("/v1/completions", completion),
    ] {
        let reply = world.post(path, body, &[]).await;
        let said = |name| reply.header(name).to_owned();
        came.push((reply.status, said("mesh-backend"), said("mesh-degraded")));
    }
    came
}

fn floor_alone() -> Vec<(StatusCode, String, String)> {
    let floor = || String::from("floor");
    let why = || String::from("audit_not_durable");
    vec![(StatusCode::OK, floor(), why()); 3]
}

#[tokio::test]
async fn while_the_ledger_is_known_to_be_down_the_floor_answers_at_once_and_nobody_else_is_asked() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second)
        .config(|config| config.record_wait = Duration::from_mins(10))
        .start();
    assert!(is(&world, "audit_durable", 1.0), "{}", world.metrics());
    ledger.fail(NotDurable::Disk(String::from("full")), true);
    assert!(is(&world, "audit_durable", 0.0));
    assert_eq!(every_way(&world).await, floor_alone());
    let explained = world
        .post("/mesh/v1/explain", ask("hello"), &[])
        .await
        .json();
    let candidates = explained["candidates"].as_array().expect("candidates");
    let refusals = candidates
        .iter()
        .filter_map(|one| one["refusal"]["constraint"].as_str());
    assert_eq!(refusals.collect::<Vec<_>>(), ["audit", "audit"]);
    assert_eq!(explained["plan"][0]["backend"], "floor");
    assert_eq!((first.connections(), second.connections()), (0, 0));
    assert_eq!(ledger.entries(), []);
    assert!(
        is(&world, "audit_waiting", 9.0),
        "decided, sending, ended each"
    );

    // It is back: what waits is written, in order, and others are asked again.
    ledger.heal();
    until("what waits is written", || ledger.entries().len() == 9).await;
    assert_eq!(
        all(&ledger)[..3],
        ["decided", "sending 1 floor", "ended floor ok"]
    );
    until("it is well", || is(&world, "audit_durable", 1.0)).await;
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "first");
    assert!(is(&world, "audit_lost_total", 0.0));
}

#[tokio::test]
async fn a_ledger_that_hangs_is_found_out_and_nothing_leaves() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second)
        .config(|config| config.record_wait = Duration::from_millis(50))
        .start();
    ledger.hold();
    let mut came = every_way(&world).await;
    // The first one was planned while nobody knew: it finds out, and says both.
    assert_eq!(came[0].2, "floor_only, audit_not_durable");
    for (.., degraded) in &mut came {
        // So does who tries a second later.
        *degraded = degraded.replace("floor_only, ", "");
    }
    assert_eq!(came, floor_alone());
    assert_eq!((first.connections(), second.connections()), (0, 0));
    assert!(is(&world, "audit_durable", 0.0));
    assert!(metric(&world, "audit_wait_seconds_count").is_some_and(|waits| waits >= 1.0));
    ledger.heal();
    until("it is well", || is(&world, "audit_durable", 1.0)).await;
    until("what waits is written", || is(&world, "audit_waiting", 0.0)).await;
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "first");
    // What was written twice is the same: an attempt that was not made is never said to be fine.
    assert!(all(&ledger).contains(&String::from("ended first refused")));
    assert!(!all(&ledger)[..9].contains(&String::from("ended first ok")));
}

#[tokio::test]
async fn a_ledger_that_dies_between_two_attempts_leaves_the_second_cloud_alone() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    first.set(Behavior::HangBeforeHeaders);
    let ledger = Arc::new(Memory::new());
    for known in [true, false] {
        ledger.heal();
        let asked = first.count();
        let world = recorded(&ledger, &first, &second)
            .policy(|policy| {
                let failover = policy.failover.as_mut().expect("one");
                failover.time_to_first_token = Duration::from_millis(400);
            })
            .start();
        let dies = async {
            first.asked(asked + 1).await;
            ledger.fail(NotDurable::Busy, known);
        };
        let (reply, ()) = tokio::join!(world.chat(ask_streaming("hello")), dies);
        assert_eq!(reply.streamed_text(), FLOOR_SAYS, "{known}");
        assert_eq!(
            reply.header("mesh-degraded"),
            "floor_only, audit_not_durable"
        );
        assert_eq!((first.count(), second.connections()), (asked + 1, 0));
    }
}

#[tokio::test]
async fn without_a_floor_the_answer_names_the_constraint_and_so_do_vectors() {
    let upstream = cloud("first").await;
    let ledger = Arc::new(Memory::new());
    let world = world()
        .cloud_with("cloud", &upstream, 0.9, |backend| {
            let mut vectors = backend.models[0].clone();
            vectors.name = String::from("embed");
            vectors.capabilities.features = vec![Feature::Embeddings];
            vectors.capabilities.embedding = Some(EmbeddingSpec {
                model: String::from("minilm"),
                revision: String::from("1"),
                dimensions: 4,
            });
            backend.models.push(vectors);
        })
        .recorded(Public, &ledger)
        .config(|config| config.record_wait = Duration::from_millis(50))
        .start();
    let vectors = json!({"model": "embed", "input": ["one"]});
    for known in [true, false] {
        ledger.fail(NotDurable::Busy, known);
        for (path, body) in [
            ("/v1/chat/completions", ask("hello")),
            ("/v1/embeddings", vectors.clone()),
        ] {
            let reply = world.post(path, body, &[]).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{known} {path}");
            assert_eq!(reply.header("mesh-reason"), "policy_denied");
            assert!(
                reply.json().to_string().contains("audit"),
                "{:?}",
                reply.body
            );
        }
    }
    assert_eq!(upstream.connections(), 0);
    ledger.heal();
    until("what was denied is written too", || {
        all(&ledger)
            .iter()
            .filter(|entry| *entry == "decided")
            .count()
            >= 4
    })
    .await;
    let reply = world.post("/v1/embeddings", vectors, &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    assert!(all(&ledger).contains(&String::from("sending 1 cloud")));
}

#[tokio::test]
async fn what_waits_is_bounded_and_what_finds_no_room_is_counted_and_told() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second)
        .config(|config| config.record_memory = 40 << 10)
        .start();
    ledger.fail(NotDurable::Busy, true);
    let asked = 30;
    for _ in 0..asked {
        let reply = world.chat(ask("hello")).await;
        assert_eq!(reply.header("mesh-backend"), "floor");
    }
    let lost = metric(&world, "audit_lost_total").expect("lost");
    let waiting = metric(&world, "audit_waiting").expect("waiting");
    assert!(lost > 0.0 && waiting > 0.0);
    let total = f64::from(3 * asked);
    assert!((lost + waiting - total).abs() < 1e-9, "{lost} {waiting}");
    ledger.heal();
    until("all of it is written", || is(&world, "audit_waiting", 0.0)).await;
    let entries = all(&ledger);
    assert!(entries.contains(&format!("lost {lost}")), "{entries:?}");
    assert_eq!(entries[0], "decided", "the beginning is kept");
    assert_eq!(first.connections(), 0);
}

#[tokio::test]
async fn without_any_ledger_a_policy_that_asks_leaves_the_floor_and_below_its_level_nothing_changes()
 {
    let first = cloud("first").await;
    let world = world()
        .cloud("first", &first, 0.9)
        .floor()
        .policy(|policy| policy.durable_from = Some(Internal))
        .start();
    let header = [("mesh-privacy", "internal")];
    let at = world
        .post("/v1/chat/completions", ask("hello"), &header)
        .await;
    assert_eq!(at.header("mesh-backend"), "floor");
    assert_eq!(at.header("mesh-degraded"), "audit_not_durable");
    assert_eq!(first.connections(), 0);
    assert!(is(&world, "audit_durable", 0.0) && is(&world, "audit_lost_total", 3.0));
    assert!(!world.metrics().contains("asked_by=\"team\""));
    let below = world.chat(ask("hello")).await;
    assert_eq!(below.header("mesh-backend"), "first");
    assert_eq!(below.header("mesh-degraded"), "");
}

#[tokio::test]
async fn where_no_policy_asks_no_ledger_is_and_none_of_its_metrics_stands_there() {
    let first = cloud("first").await;
    let ledger = Arc::new(Memory::new());
    ledger.fail(NotDurable::Busy, true);
    let world = world()
        .cloud("first", &first, 0.9)
        .floor()
        .recorded(Public, &ledger)
        .policy(|policy| policy.durable_from = None)
        .start();
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "first");
    assert!(!world.metrics().contains("audit"));
    ledger.heal();
    world.plane.end_records(Duration::from_secs(20)).await;
    assert_eq!(ledger.entries(), []);
}

#[tokio::test]
async fn drills_and_questions_why_are_nobodys_requests_and_are_not_written() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second)
        .drilled(Duration::from_hours(1))
        .start();
    until("the floor is drilled", || world.floor.calls() == 1).await;
    world.post("/mesh/v1/explain", ask("hello"), &[]).await;
    world.plane.end_records(Duration::from_secs(20)).await;
    assert_eq!(ledger.entries(), []);
    assert_eq!((first.connections(), second.connections()), (0, 0));
}
