//! A request with a payment card number in any part stays on the floor, and not one byte of it
//! reaches a cloud; claims that have expired count for nothing.

use http::StatusCode;
use mesh_core::{Place, PrivacyLevel};
use mesh_testkit::upstream::ScriptedUpstream;
use serde_json::{Value, json};

use crate::world::{Reply, World, ask, world};

/// A valid number by its check digit (a published test number).
const CARD: &str = "4111 1111 1111 1111";

async fn two_clouds() -> (World, [ScriptedUpstream; 2]) {
    let one = ScriptedUpstream::start().await.expect("a cloud");
    let two = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud("one", &one, 0.9)
        .cloud("two", &two, 0.8)
        .floor()
        .start();
    (world, [one, two])
}

/// The card in every part of a chat request that can hold text.
fn everywhere() -> Vec<(&'static str, Value)> {
    let text = format!("Charge {CARD} please");
    let user = json!({"role": "user", "content": "hello"});
    let with = |first: Value| json!({"model": "auto", "messages": [first, user]});
    let call = json!({"id": "c1", "type": "function", "function": {"name": "charge", "arguments": json!({"card": CARD}).to_string()}});
    let tool = json!({"type": "function", "function": {"name": "charge", "description": text, "parameters": {"type": "object"}}});
    let mut bodies = vec![
        ("user", ask(&text)),
        ("system", with(json!({"role": "system", "content": text}))),
        (
            "developer",
            with(json!({"role": "developer", "content": text})),
        ),
        (
            "assistant",
            with(json!({"role": "assistant", "content": text})),
        ),
        (
            "part",
            with(json!({"role": "user", "content": [{"type": "text", "text": text}]})),
        ),
        (
            "tool arguments",
            with(json!({"role": "assistant", "content": null, "tool_calls": [call]})),
        ),
        (
            "tool result",
            with(json!({"role": "tool", "tool_call_id": "c1", "content": text})),
        ),
        (
            "name",
            with(json!({"role": "user", "name": text, "content": "hi"})),
        ),
        (
            "unknown field of a message",
            with(json!({"role": "user", "content": "hi", "zeta": {"deep": [text]}})),
        ),
    ];
    for (name, field, value) in [
        ("tools", "tools", json!([tool])),
        ("metadata", "metadata", json!({"note": text})),
        ("user field", "user", json!(text)),
        ("stop", "stop", json!([text])),
        ("unknown field", "zeta", json!({"deep": [text]})),
        ("a key", "metadata", json!({ text.clone(): "x" })),
        (
            "response format",
            "response_format",
            json!({"type": "text", "note": text}),
        ),
        (
            "prediction",
            "prediction",
            json!({"type": "content", "content": text}),
        ),
    ] {
        let mut body = ask("hello");
        body[field] = value;
        bodies.push((name, body));
    }
    bodies
}

fn assert_home(name: &str, reply: &Reply, world: &World, clouds: &[ScriptedUpstream]) {
    assert_eq!(reply.status, StatusCode::OK, "{name}: {:?}", reply.body);
    assert_eq!(reply.header("mesh-backend"), "floor", "{name}");
    assert_eq!(reply.header("mesh-privacy"), "restricted", "{name}");
    assert_eq!(
        reply.header("mesh-sovereignty-class"),
        "OwnHardware",
        "{name}"
    );
    assert!(
        !reply.header("mesh-degraded").contains("floor_only"),
        "{name}: as planned"
    );
    assert!(world.floor.calls() > 0);
    for cloud in clouds {
        assert_eq!((cloud.count(), cloud.connections()), (0, 0), "{name}");
        assert!(cloud.bytes().iter().all(Vec::is_empty), "{name}");
    }
}

#[tokio::test]
async fn a_card_number_in_any_part_stays_on_the_floor_and_no_byte_reaches_a_cloud() {
    let (world, clouds) = two_clouds().await;
    for (name, mut body) in everywhere() {
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let reply = world.chat(body.clone()).await;
            assert_home(name, &reply, &world, &clouds);
        }
    }
    let legacy = json!({"model": "auto", "prompt": format!("Charge {CARD}")});
    let reply = world.post("/v1/completions", legacy, &[]).await;
    assert_home("prompt", &reply, &world, &clouds);
}

#[tokio::test]
async fn a_caller_may_always_raise_and_never_lower() {
    let (world, clouds) = two_clouds().await;
    let path = "/v1/chat/completions";
    let raised = world
        .post(path, ask("hello"), &[("mesh-privacy", "restricted")])
        .await;
    assert_home("raised", &raised, &world, &clouds);
    let text = format!("Charge {CARD}");
    let lowered = world
        .post(path, ask(&text), &[("mesh-privacy", "public")])
        .await;
    assert_home("lowered", &lowered, &world, &clouds);
}

#[tokio::test]
async fn a_named_cloud_model_does_not_move_a_secret() {
    let (world, clouds) = two_clouds().await;
    let mut body = ask(&format!("Charge {CARD}"));
    body["model"] = json!("big");
    let reply = world.chat(body).await;
    assert_home("named", &reply, &world, &clouds);
    assert_eq!(reply.header("mesh-degraded"), "model_substituted");
    assert_eq!(reply.json()["model"], "smollm2");
}

#[tokio::test]
async fn without_a_floor_a_secret_is_refused_by_name_of_the_constraint() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world().cloud("one", &cloud, 0.9).start();
    let reply = world.chat(ask(&format!("Charge {CARD}"))).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(reply.header("mesh-reason"), "policy_denied");
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!(reply.header("mesh-decision").len(), 26);
    let error = &reply.json()["error"];
    assert_eq!(error["constraints"], json!(["minimum_class"]));
    assert!(
        !error["message"]
            .as_str()
            .expect("a message")
            .contains("4111")
    );
    assert_eq!(cloud.connections(), 0);
    let refusals = "mesh_gateway_refusals_total{constraint=\"minimum_class\"}";
    assert_eq!(world.metric(refusals), Some(1.0));
}

#[tokio::test]
async fn a_cloud_whose_claims_have_expired_is_refused_for_internal_data_and_not_for_public() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud_with("old", &cloud, 0.9, |backend| {
            let Place::Cloud(place) = &mut backend.place else {
                panic!("a cloud")
            };
            let claims = place.claims.as_mut().expect("claims");
            claims.expires = "2020-01-01T00:00:00Z".parse().expect("a date");
        })
        .floor()
        .start();
    let path = "/v1/chat/completions";
    let internal = [("mesh-privacy", PrivacyLevel::Internal.as_str())];
    let reply = world.post(path, ask("hello"), &internal).await;
    assert_eq!(reply.header("mesh-backend"), "floor");
    assert_eq!(cloud.connections(), 0);
    let explained = world
        .post("/mesh/v1/explain", ask("hello"), &internal)
        .await;
    let candidates = explained.json()["candidates"].clone();
    let mut listed = candidates.as_array().expect("a list").iter();
    let refused = listed.find(|one| one["backend"] == "old");
    let refused = refused.expect("the cloud");
    assert_eq!(refused["refusal"]["constraint"], "minimum_class");
    assert_eq!(refused["class"], "CloudRetained");

    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "old");
    let expiry = "mesh_gateway_claim_expiry_seconds{backend=\"old\"}";
    assert!(world.metric(expiry).is_some_and(|left| left < 0.0));
}

#[tokio::test]
async fn fields_nobody_knows_go_to_a_cloud_only_at_public() {
    let (world, clouds) = two_clouds().await;
    let mut body = ask("hello");
    body["zeta"] = json!(1);
    let reply = world.chat(body.clone()).await;
    assert_eq!(reply.header("mesh-backend"), "one");
    assert_eq!(clouds[0].requests()[0].json()["zeta"], 1);

    let lonely = world_without_floor(&clouds[0]);
    let internal = [("mesh-privacy", "internal")];
    let reply = lonely.post("/v1/chat/completions", body, &internal).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.header("mesh-reason"), "unsupported_parameter");
    assert_eq!(reply.json()["error"]["param"], "zeta");
    assert_eq!(clouds[0].count(), 1);
}

fn world_without_floor(cloud: &ScriptedUpstream) -> World {
    world().cloud("one", cloud, 0.9).start()
}
