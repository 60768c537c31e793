//! Vectors come from backends that declare the same embedding, in the form the caller asked for,
//! and never from the floor.

use http::StatusCode;
use mesh_core::{Backend, EmbeddingSpec, Feature};
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::json;

use crate::world::world;

fn embeds(dimensions: u32) -> impl FnOnce(&mut Backend) {
    move |backend| {
        let model = &mut backend.models[0];
        model.name = String::from("embed");
        model.capabilities.features = vec![Feature::Embeddings];
        model.capabilities.embedding = Some(EmbeddingSpec {
            model: String::from("minilm"),
            revision: String::from("1"),
            dimensions,
        });
    }
}

#[tokio::test]
async fn vectors_come_as_numbers_or_base64_whichever_was_asked_for() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud_with("cloud", &cloud, 0.9, embeds(4))
        .floor()
        .start();
    let mut body = json!({"model": "embed", "input": ["one", "two"]});
    let plain = world.post("/v1/embeddings", body.clone(), &[]).await;
    assert_eq!(plain.status, StatusCode::OK, "{:?}", plain.body);
    let answer = plain.json();
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "embed");
    for index in 0..2 {
        assert_eq!(answer["data"][index]["index"], index);
        assert_eq!(
            answer["data"][index]["embedding"].as_array().map(Vec::len),
            Some(4)
        );
    }
    assert_eq!(answer["mesh"]["backend"], "cloud");
    body["encoding_format"] = json!("base64");
    let packed = world.post("/v1/embeddings", body, &[]).await.json();
    let text = packed["data"][0]["embedding"].as_str().expect("base64");
    assert_eq!(text.len(), 24, "16 bytes");
    assert_eq!(world.floor.calls(), 0);
}

#[tokio::test]
async fn without_a_backend_for_vectors_there_is_no_floor_to_fall_back_to() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    cloud.set(Behavior::status(500));
    let world = world()
        .cloud_with("cloud", &cloud, 0.9, embeds(4))
        .floor()
        .start();
    let body = json!({"model": "embed", "input": "one"});
    let reply = world.post("/v1/embeddings", body, &[]).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("mesh-reason"), "no_backend");
    assert_eq!(world.floor.calls(), 0);
}

#[tokio::test]
async fn vectors_of_another_length_than_declared_are_a_failed_attempt() {
    let (short, right) = (
        ScriptedUpstream::start().await.expect("a cloud"),
        ScriptedUpstream::start().await.expect("a cloud"),
    );
    short.set(Answer::text("").dimensions(3));
    let world = world()
        .cloud_with("short", &short, 0.9, embeds(4))
        .cloud_with("right", &right, 0.5, embeds(4))
        .start();
    let body = json!({"model": "embed", "input": "one"});
    let reply = world.post("/v1/embeddings", body, &[]).await;
    assert_eq!(reply.header("mesh-backend"), "right");
}
