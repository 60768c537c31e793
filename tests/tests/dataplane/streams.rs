//! A stream that breaks after the first token says so and is never closed as if it were complete;
//! nothing waits in a buffer; a slow reader slows the backend instead of filling memory.

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Request, StatusCode};
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::json;

use crate::world::{ask_streaming, world};

const TOKENS: usize = 60_000;

fn stream_request() -> Request<Body> {
    Request::post("/v1/chat/completions")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(ask_streaming("hello").to_string()))
        .expect("a request")
}

#[tokio::test]
async fn a_cut_after_the_first_token_ends_with_an_error_and_no_done() {
    let error = json!({"message": "secret words of the upstream", "type": "server_error"});
    let faults: [(&str, Behavior); 4] = [
        ("cut", Answer::tokens(6).cut_after(3).into()),
        ("quiet", Answer::tokens(6).end_quietly_after(3).into()),
        ("stall", Answer::tokens(6).stall_after(3).into()),
        ("error", Answer::tokens(6).error_after(3, error).into()),
    ];
    for (name, fault) in faults {
        let broken = ScriptedUpstream::start().await.expect("a cloud");
        let other = ScriptedUpstream::start().await.expect("a cloud");
        broken.set(fault);
        let world = world()
            .cloud("broken", &broken, 0.9)
            .cloud("other", &other, 0.5)
            .floor()
            .policy(|policy| {
                let failover = policy.failover.as_mut().expect("failover");
                failover.between_tokens = Duration::from_millis(200);
            })
            .start();
        let reply = world.chat(ask_streaming("hello")).await;
        assert_eq!(reply.status, StatusCode::OK, "{name}");
        assert_eq!(reply.streamed_text(), "t0 t1 t2 ", "{name}");
        assert!(!reply.done(), "{name}");
        let chunks = reply.chunks();
        let last = chunks.last().expect("chunks");
        assert_eq!(last["error"]["code"], "stream_interrupted", "{name}");
        assert!(!last.to_string().contains("secret words"), "{name}");
        assert_eq!((other.count(), world.floor.calls()), (0, 0), "{name}");
        let outcome = "mesh_gateway_request_duration_seconds_count{surface=\"chat\",outcome=\"stream_interrupted\"}";
        assert_eq!(world.metric(outcome), Some(1.0), "{name}");
    }
}

#[tokio::test]
async fn a_backend_that_cuts_streams_is_left_alone_after_a_few() {
    let broken = ScriptedUpstream::start().await.expect("a cloud");
    broken.set(Answer::tokens(6).cut_after(3));
    let world = world().cloud("broken", &broken, 0.9).floor().start();
    let mut interrupted = 0;
    for _ in 0..30 {
        let reply = world.chat(ask_streaming("hello")).await;
        interrupted += usize::from(!reply.done());
    }
    assert!(interrupted <= 6, "{interrupted}");
    assert_eq!(broken.count(), interrupted);
}

#[tokio::test]
async fn a_token_is_passed_on_while_the_next_is_still_awaited() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    cloud.set(Answer::tokens(6).stall_after(2));
    let world = world()
        .cloud("cloud", &cloud, 0.9)
        .policy(|policy| {
            let failover = policy.failover.as_mut().expect("failover");
            failover.between_tokens = Duration::from_mins(10);
        })
        .start();
    let response = world.open(stream_request()).await;
    let mut frames = response.into_body().into_data_stream();
    let mut text = String::new();
    while !text.contains("t1 ") {
        let frame = frames.next().await.expect("a frame").expect("bytes");
        text.push_str(std::str::from_utf8(&frame).expect("UTF-8"));
    }
    assert!(text.contains("t0 ") && !text.contains("[DONE]"));
}

#[tokio::test]
async fn a_reader_who_does_not_read_holds_the_backend_and_not_the_memory() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    // More than the frames that are in the air.
    cloud.set(Answer::tokens(TOKENS));
    let world = world()
        .cloud("cloud", &cloud, 0.9)
        .policy(|policy| {
            let failover = policy.failover.as_mut().expect("failover");
            failover.time_to_first_token = Duration::from_mins(1);
            failover.deadline = Duration::from_mins(1);
        })
        .start();
    let response = world.open(stream_request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut frames = response.into_body().into_data_stream();
    let first = frames.next().await.expect("a frame").expect("bytes");
    assert!(first.len() <= 64 * 1024, "{}", first.len());
    // Nobody reads for a while longer than the backend may be silent; that is not its fault.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut last = first;
    let mut tokens = 0;
    let mut largest = 0;
    loop {
        tokens += String::from_utf8_lossy(&last)
            .matches("\"content\":\"t")
            .count();
        largest = largest.max(last.len());
        match frames.next().await {
            Some(frame) => last = frame.expect("bytes"),
            None => break,
        }
    }
    assert_eq!(tokens, TOKENS, "nothing lost, nothing doubled");
    assert!(largest <= 64 * 1024, "{largest}");
    assert!(last.ends_with(b"data: [DONE]\n\n"));
}
