//! Streams: as they come, and gone as soon as nobody listens.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use mesh_protocol::Event;
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};

use crate::world::{admitted, at, chat, clients, send, text};

#[tokio::test]
async fn comments_roles_and_delays_change_nothing_of_the_answer() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let answer = Answer::text("one two three");
    let mut seen = Vec::new();
    for answer in [
        answer.clone(),
        answer.clone().with_comments(),
        answer.clone().without_role(),
        answer.clone().without_done(),
        answer.every(Duration::from_millis(2)),
    ] {
        upstream.set(answer);
        let (events, error) = send(&clients(), &admitted(at(&upstream)), chat()).await;
        assert_eq!(error, None);
        seen.push(events);
    }
    assert_eq!(text(&seen[0]), "one two three");
    assert!(matches!(seen[0].last(), Some(Event::Usage(usage)) if usage.total_tokens == 8));
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn tokens_arrive_while_the_upstream_is_still_at_it() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("one two three").stall_after(2));
    let admitted = admitted(at(&upstream));
    let mut started = clients().start(&admitted, chat()).await.expect("started");
    let first = started
        .events
        .next()
        .await
        .expect("an event")
        .expect("text");
    let second = started
        .events
        .next()
        .await
        .expect("an event")
        .expect("text");
    assert_eq!(text(&[first, second]), "one two ");
    assert!(started.events.next().now_or_never().is_none(), "it waits");
}

#[tokio::test]
async fn headers_alone_start_an_attempt() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("").hang_before_first_token());
    let admitted = admitted(at(&upstream));
    let mut started = clients().start(&admitted, chat()).await.expect("started");
    let nothing = tokio::time::timeout(Duration::from_millis(50), started.events.next()).await;
    assert!(nothing.is_err(), "a role is no token");
}

#[tokio::test]
async fn dropping_the_events_closes_the_connection_upstream_at_once() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("one two three").stall_after(1));
    let admitted = admitted(at(&upstream));
    let mut started = clients().start(&admitted, chat()).await.expect("started");
    assert!(started.events.next().await.is_some());
    drop(started);
    upstream.disconnected(1).await;
}

#[tokio::test]
async fn dropping_an_attempt_that_waits_for_headers_closes_its_connection() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Behavior::HangBeforeHeaders);
    let (backends, admitted) = (clients(), admitted(at(&upstream)));
    let mut attempt = backends.start(&admitted, chat());
    tokio::select! {
        _ = &mut attempt => panic!("it never answers"),
        () = upstream.asked(1) => {}
    }
    drop(attempt);
    upstream.disconnected(1).await;
}

#[tokio::test]
async fn dropping_a_whole_answer_closes_its_connection_too() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("one two three").stall_after(1));
    let mut backend = at(&upstream);
    backend.stream_upstream = false;
    let admitted = admitted(backend);
    let mut started = clients().start(&admitted, chat()).await.expect("started");
    let waiting = tokio::time::timeout(Duration::from_millis(20), started.events.next()).await;
    assert!(waiting.is_err());
    drop(started);
    upstream.disconnected(1).await;
}

#[tokio::test]
async fn a_killed_upstream_cuts_its_streams() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("one two three").stall_after(1));
    let admitted = admitted(at(&upstream));
    let mut started = clients().start(&admitted, chat()).await.expect("started");
    assert!(started.events.next().await.is_some());
    upstream.kill().await;
    let error = started.events.next().await.expect("an item");
    assert_eq!(error, Err(mesh_backends::AttemptError::Cut));
}
