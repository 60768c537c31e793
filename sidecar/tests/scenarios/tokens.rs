//! Tokens are counted once: those of the floor's own answers here, those of a gateway's answers there.

use bytes::Bytes;
use mesh_core::PrivacyLevel;
use serde_json::{Value, json};

use crate::peer::Act;
use crate::world::{Running, World, chat, policy};

const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"yes\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn whole() -> Act {
    let usage = json!({"prompt_tokens": 40, "completion_tokens": 30, "total_tokens": 70});
    let message = json!({"role": "assistant", "content": "yes"});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    Act::json(
        200,
        &json!({"choices": [choice], "usage": usage}).to_string(),
    )
}

/// Waits until so many tokens of public requests are counted, in and out.
async fn counted(running: &Running, input: u32, output: u32) {
    for (direction, count) in [("input", input), ("output", output)] {
        let labels = format!(
            "backend=\"floor\",sovereignty_class=\"own_hardware\",privacy_level=\"public\",direction=\"{direction}\""
        );
        let line = format!("mesh_sidecar_tokens_total{{{labels}}} {count}");
        running.wait_for_metric(&line).await;
    }
}

#[tokio::test]
async fn tokens_of_a_gateways_answer_are_not_counted_and_those_of_the_floors_are() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    counted(&running, 0, 0).await;
    world.gateway.then(whole());
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(answer.json()["usage"]["total_tokens"], 70);
    counted(&running, 0, 0).await;

    world.gateway.kill().await;
    world.floor.then(whole());
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(answer.json()["usage"]["total_tokens"], 70);
    counted(&running, 40, 30).await;
    assert!(
        !running
            .metrics()
            .contains("backend=\"gateway\",sovereignty_class=\"own_hardware\",privacy")
    );
}

#[tokio::test]
async fn a_stream_of_the_floor_is_counted_and_says_its_usage_only_to_who_asked() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    world.gateway.kill().await;
    for (round, asked) in [(1, false), (2, true)] {
        let (pieces, act) = Act::stream();
        world.floor.then(act);
        for piece in [TEXT, &USAGE[..20], &USAGE[20..], DONE] {
            pieces.send(Bytes::from(piece.to_owned())).expect("open");
        }
        drop(pieces);
        let mut body = chat("hello");
        body["stream"] = json!(true);
        if asked {
            body["stream_options"] = json!({"include_usage": true});
        }
        let answer = running.ask(&[], &body).await;
        let usage = if asked { USAGE } else { "" };
        assert_eq!(answer.text, format!("{TEXT}{usage}{DONE}"));
        let sent: Value =
            serde_json::from_str(&world.floor.arrived()[round - 1].body).expect("JSON");
        assert_eq!(sent["stream_options"], json!({"include_usage": true}));
        let rounds = u32::try_from(round).expect("few");
        counted(&running, 5 * rounds, 2 * rounds).await;
    }
}
