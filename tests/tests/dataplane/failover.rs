//! Whatever breaks before the first token, the caller gets an answer and notices nothing but its
//! origin; when every cloud is gone, the floor answers and says so.

use std::time::Duration;

use http::StatusCode;
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::{Value, json};

use crate::world::{FLOOR_SAYS, Play, ask, ask_streaming, world};

async fn cloud(says: &str) -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await.expect("a cloud");
    upstream.set(Answer::text(says));
    upstream
}

#[tokio::test]
async fn a_public_request_goes_to_the_better_scored_cloud() {
    let (good, better) = (cloud("good").await, cloud("better").await);
    let world = world()
        .cloud("good", &good, 0.5)
        .cloud("better", &better, 0.9)
        .floor()
        .start();
    for body in [ask("hello"), ask_streaming("hello")] {
        let reply = world.chat(body).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.header("mesh-backend"), "better");
        assert_eq!(reply.header("mesh-model"), "big");
        assert_eq!(reply.header("mesh-sovereignty-class"), "CloudDomestic");
        assert_eq!(reply.header("mesh-privacy"), "public");
        assert_eq!(reply.header("mesh-degraded"), "");
        assert_eq!(reply.header("mesh-decision").len(), 26);
        assert_eq!(reply.header("x-request-id").len(), 26);
    }
    assert_eq!((good.count(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn a_killed_cloud_reroutes_and_all_killed_leave_the_floor() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let world = world()
        .cloud("first", &first, 0.9)
        .cloud("second", &second, 0.5)
        .floor()
        .start();
    first.kill().await;
    let reply = world.chat(ask("hello")).await;
    assert_eq!(
        (reply.header("mesh-backend"), reply.text().as_str()),
        ("second", "second")
    );
    assert_eq!(reply.header("mesh-degraded"), "");
    let reply = world.chat(ask_streaming("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "second");
    assert!(reply.done() && world.floor.calls() == 0);

    second.kill().await;
    let reply = world.chat(ask("hello")).await;
    assert_eq!(
        (reply.header("mesh-backend"), reply.text().as_str()),
        ("floor", FLOOR_SAYS)
    );
    assert_eq!(reply.header("mesh-degraded"), "floor_only");
    assert_eq!(reply.json()["mesh"]["degraded"], json!(["floor_only"]));
    let reply = world.chat(ask_streaming("hello")).await;
    assert_eq!(reply.header("mesh-degraded"), "floor_only");
    assert_eq!(reply.streamed_text(), FLOOR_SAYS);
    let chunks = reply.chunks();
    let last = chunks.last().expect("chunks");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["mesh"]["degraded"], json!(["floor_only"]));
    assert!(reply.done());
}

/// Everything of the table of semantics section 5 that goes on to the next attempt.
fn faults() -> Vec<(&'static str, Behavior)> {
    let error = json!({"message": "boom", "type": "server_error"});
    vec![
        ("500", Behavior::status(500)),
        ("503", Behavior::status(503)),
        ("408", Behavior::status(408)),
        ("409", Behavior::status(409)),
        ("425", Behavior::status(425)),
        ("429", Behavior::rate_limited(30)),
        ("401", Behavior::status(401)),
        ("402", Behavior::status(402)),
        ("403", Behavior::status(403)),
        ("404", Behavior::status(404)),
        ("context length", Behavior::context_length()),
        ("redirect", Behavior::redirect("http://127.0.0.1:9/v1")),
        ("closed", Behavior::Close),
        ("empty", Behavior::empty()),
        ("garbage", Behavior::garbage()),
        ("wrong type", Behavior::wrong_type()),
        ("hang", Behavior::HangBeforeHeaders),
        (
            "hang after headers",
            Answer::tokens(3).hang_before_first_token().into(),
        ),
        ("cut before a token", Answer::tokens(3).cut_after(0).into()),
        ("quiet end", Answer::tokens(3).end_quietly_after(0).into()),
        (
            "error event",
            Answer::tokens(3).error_after(0, error).into(),
        ),
    ]
}

#[tokio::test]
async fn every_fault_before_the_first_token_is_silent_in_both_forms() {
    for (name, fault) in faults() {
        for body in [ask("hello"), ask_streaming("hello")] {
            let (broken, well) = (cloud("never").await, cloud("well").await);
            broken.set(fault.clone());
            let world = world()
                .cloud("broken", &broken, 0.9)
                .cloud("well", &well, 0.5)
                .policy(|policy| {
                    let failover = policy.failover.as_mut().expect("failover");
                    failover.time_to_first_token = Duration::from_millis(200);
                })
                .start();
            let reply = world.chat(body).await;
            assert_eq!(reply.status, StatusCode::OK, "{name}: {:?}", reply.body);
            assert_eq!(reply.header("mesh-backend"), "well", "{name}");
            assert_eq!(reply.header("mesh-degraded"), "", "{name}");
            assert_eq!((broken.count(), well.count()), (1, 1), "{name}");
            assert!(
                !String::from_utf8_lossy(&reply.body).contains("boom"),
                "{name}"
            );
            let failovers = "mesh_gateway_failovers_total{phase=\"before_first_token\"}";
            assert_eq!(world.metric(failovers), Some(1.0), "{name}");
        }
    }
}

#[tokio::test]
async fn a_whole_answer_that_is_cut_in_the_middle_comes_from_the_next_backend() {
    let error = json!({"message": "boom", "type": "server_error"});
    let faults: [Behavior; 4] = [
        Answer::tokens(6).cut_after(3).into(),
        Answer::tokens(6).end_quietly_after(3).into(),
        Answer::tokens(6).error_after(3, error).into(),
        Answer::tokens(6).stall_after(3).into(),
    ];
    for fault in faults {
        let (broken, well) = (cloud("never").await, cloud("well").await);
        broken.set(fault);
        let world = world()
            .cloud("broken", &broken, 0.9)
            .cloud("well", &well, 0.5)
            .policy(|policy| {
                let failover = policy.failover.as_mut().expect("failover");
                failover.between_tokens = Duration::from_millis(200);
            })
            .start();
        let reply = world.chat(ask("hello")).await;
        assert_eq!(
            (reply.header("mesh-backend"), reply.text().as_str()),
            ("well", "well")
        );
        let failovers = "mesh_gateway_failovers_total{phase=\"mid_answer\"}";
        assert_eq!(world.metric(failovers), Some(1.0));
    }
}

#[tokio::test]
async fn a_fault_of_the_caller_is_told_and_nobody_else_is_asked() {
    let (strict, other) = (cloud("never").await, cloud("never").await);
    strict.set(Behavior::error(
        400,
        &json!({"error": {"message": "bad image", "type": "invalid_request_error", "param": "messages", "code": "invalid_image"}}),
    ));
    let world = world()
        .cloud("strict", &strict, 0.9)
        .cloud("other", &other, 0.5)
        .floor()
        .start();
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.header("mesh-reason"), "upstream_rejected");
    assert_eq!(reply.json()["error"]["code"], "invalid_image");
    assert_eq!((other.count(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn when_nobody_can_answer_every_reason_is_named() {
    let (dead, limited) = (cloud("never").await, cloud("never").await);
    dead.set(Behavior::status(500));
    limited.set(Behavior::rate_limited(9));
    let world = world()
        .cloud("dead", &dead, 0.9)
        .cloud("limited", &limited, 0.5)
        .start();
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("mesh-reason"), "no_backend");
    assert_eq!(reply.header("retry-after"), "9");
    assert_eq!(reply.header("mesh-decision").len(), 26);
    let error = reply.json();
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("dead") && message.contains("limited"),
        "{message}"
    );
    assert!(
        !message.contains("scripted"),
        "the upstream's words stay out: {message}"
    );
}

#[tokio::test]
async fn a_busy_floor_says_when_to_come_back() {
    let dead = cloud("never").await;
    dead.kill().await;
    for world in [
        world().floor().start(),
        world().cloud("dead", &dead, 0.9).floor().start(),
    ] {
        world.floor.set(Play::Busy);
        let reply = world.chat(ask("hello")).await;
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(reply.header("mesh-reason"), "floor_busy");
        assert_eq!(reply.header("retry-after"), "7");
        assert_eq!(reply.json()["error"]["code"], "floor_busy");
    }
}

#[tokio::test]
async fn what_shows_while_serving_is_said_in_the_final_chunk_and_the_body() {
    let world = world().floor().start();
    world.floor.set(Play::Loop);
    let reply = world.chat(ask("hello")).await;
    let degraded: Value = json!(["context_trimmed", "floor_repetition"]);
    assert_eq!(reply.json()["mesh"]["degraded"], degraded);
    assert_eq!(
        reply.header("mesh-degraded"),
        "context_trimmed, floor_repetition"
    );
    let reply = world.chat(ask_streaming("hello")).await;
    // The header went out with the first token; the loop showed later.
    assert_eq!(reply.header("mesh-degraded"), "context_trimmed");
    let chunks = reply.chunks();
    assert_eq!(chunks.last().expect("chunks")["mesh"]["degraded"], degraded);
}

#[tokio::test]
async fn a_declared_limit_sends_the_rest_to_the_next_backend() {
    let (small, large) = (cloud("small").await, cloud("large").await);
    let world = world()
        .cloud_with("small", &small, 0.9, |backend| {
            backend.limits.requests_per_minute = Some(2);
        })
        .cloud("large", &large, 0.5)
        .start();
    for _ in 0..5 {
        assert_eq!(world.chat(ask("hello")).await.status, StatusCode::OK);
    }
    assert_eq!((small.count(), large.count()), (2, 3));
    let limited = "mesh_gateway_attempts_total{backend=\"small\",sovereignty_class=\"cloud_domestic\",outcome=\"limited\"}";
    assert_eq!(world.metric(limited), Some(3.0));
}

#[tokio::test]
async fn a_backend_that_keeps_failing_is_left_alone_after_a_few_calls() {
    let (broken, well) = (cloud("never").await, cloud("well").await);
    broken.set(Answer::tokens(6).cut_after(3));
    let world = world()
        .cloud("broken", &broken, 0.9)
        .cloud("well", &well, 0.5)
        .start();
    for _ in 0..40 {
        let reply = world.chat(ask("hello")).await;
        assert_eq!(reply.header("mesh-backend"), "well");
    }
    assert!(broken.count() <= 6, "{} calls", broken.count());
    assert_eq!(
        world.metric("mesh_gateway_backend_up{backend=\"broken\"}"),
        Some(0.0)
    );
}
