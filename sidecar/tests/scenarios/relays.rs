//! Answers on their way back: piece by piece, and never a silent switch.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mesh_core::PrivacyLevel;
use serde_json::json;

use crate::peer::{Act, Pieces, limited};
use crate::world::{Running, World, chat, policy};

async fn piece(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    match limited(body.frame()).await {
        None => Ok(None),
        Some(frame) => frame.map(|frame| frame.into_data().ok()),
    }
}

/// A gateway that streams what is sent into `Pieces`, and the body of its answer as the application has it.
async fn opened() -> (World, Running, Pieces, Incoming) {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    let (pieces, act) = Act::stream();
    world.gateway.then(act);
    let request = running.post("/v1/chat/completions", &[], chat("hello").to_string());
    let body = running.open(request).await.into_body();
    (world, running, pieces, body)
}

#[tokio::test]
async fn every_piece_of_a_stream_is_there_before_the_next_is_sent() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    let (pieces, act) = Act::stream();
    world.gateway.then(act);
    let mut body = chat("hello");
    body["stream"] = json!(true);
    let answer = running
        .open(running.post("/v1/chat/completions", &[], body.to_string()))
        .await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    for number in 0..20 {
        let sent = format!("data: {{\"number\":{number}}}\n\n");
        pieces.send(Bytes::from(sent.clone())).expect("open");
        let came = piece(&mut body).await.expect("whole").expect("a piece");
        assert_eq!(came, sent);
    }
    drop(pieces);
    assert_eq!(piece(&mut body).await.expect("whole"), None);
    running
        .wait_for_metric(
            "mesh_sidecar_request_duration_seconds_count{surface=\"chat\",outcome=\"ok\"} 1",
        )
        .await;
}

#[tokio::test]
async fn a_stream_that_is_cut_between_events_ends_with_an_error_and_nobody_answers_instead() {
    let (world, _running, pieces, mut body) = opened().await;
    pieces.send(Bytes::from("data: {}\n\n")).expect("open");
    assert_eq!(
        piece(&mut body).await.expect("whole").expect("a piece"),
        "data: {}\n\n"
    );
    world.gateway.kill().await;
    let last = piece(&mut body).await.expect("an event").expect("an event");
    let text = String::from_utf8_lossy(&last).into_owned();
    assert!(
        text.contains("stream_interrupted") && text.ends_with("\n\n"),
        "{text}"
    );
    assert_eq!(piece(&mut body).await.expect("the end"), None);
    assert!(world.floor.arrived().is_empty());
}

#[tokio::test]
async fn a_stream_that_is_cut_within_an_event_ends_like_a_cut_connection() {
    let (world, _running, pieces, mut body) = opened().await;
    pieces.send(Bytes::from("data: {\"half")).expect("open");
    piece(&mut body).await.expect("whole").expect("a piece");
    world.gateway.kill().await;
    assert!(piece(&mut body).await.is_err());
    assert!(world.floor.arrived().is_empty());
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_request_at_the_gateway() {
    let (world, running, pieces, mut body) = opened().await;
    pieces.send(Bytes::from("data: {}\n\n")).expect("open");
    piece(&mut body).await.expect("whole");
    drop(body);
    world.gateway.wait_for_leaving().await;
    running
        .wait_for_metric(
            "mesh_sidecar_request_duration_seconds_count{surface=\"chat\",outcome=\"canceled\"} 1",
        )
        .await;
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_ends_it_too() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    world.gateway.then(Act::Silence);
    let request = running.post("/v1/chat/completions", &[], chat("hello").to_string());
    tokio::select! {
        _ = running.open(request) => panic!("nobody answers"),
        () = world.gateway.wait_for(1) => {}
    }
    world.gateway.wait_for_leaving().await;
    assert!(world.floor.arrived().is_empty());
}

#[tokio::test]
async fn errors_of_the_gateway_come_as_they_are() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    for (status, reason) in [
        (403, "policy_denied"),
        (503, "no_backend"),
        (429, "overloaded"),
        (401, "invalid_api_key"),
    ] {
        world.gateway.then(Act::Answer(
            status,
            vec![
                ("mesh-reason", reason.to_owned()),
                ("retry-after", String::from("7")),
            ],
            String::from("{\"error\":{}}"),
        ));
        let answer = running.ask(&[], &chat("hello")).await;
        assert_eq!(
            (answer.status, answer.header("mesh-reason")),
            (status, Some(reason))
        );
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(answer.text, "{\"error\":{}}");
    }
    assert!(world.floor.arrived().is_empty());
}
