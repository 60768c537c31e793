//! Answers have the form that the official SDKs expect, whoever served.

use http::StatusCode;
use mesh_testkit::upstream::{Answer, ScriptedUpstream};
use serde_json::{Value, json};

use crate::world::{FLOOR_SAYS, ask, ask_streaming, world};

#[tokio::test]
async fn a_stream_has_one_id_one_created_a_role_first_and_usage_only_for_those_who_asked() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    cloud.set(Answer::tokens(5));
    let world = world().cloud("cloud", &cloud, 0.9).start();
    let mut body = ask_streaming("hello");
    for asked in [false, true] {
        body["stream_options"] = json!({"include_usage": asked});
        let reply = world.chat(body.clone()).await;
        assert_eq!(
            reply.header("content-type"),
            "text/event-stream; charset=utf-8"
        );
        let chunks = reply.chunks();
        let first = chunks.first().expect("chunks");
        assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(
                (&chunk["id"], &chunk["created"]),
                (&first["id"], &first["created"])
            );
            assert_eq!(chunk["model"], "big");
            assert_eq!(chunk.get("usage").is_some(), asked);
        }
        assert_eq!(reply.streamed_text(), "t0 t1 t2 t3 t4 ");
        let finished = chunks.iter().find(|chunk| chunk.get("mesh").is_some());
        let finished = finished.expect("a chunk with the mesh object");
        assert_eq!(finished["choices"][0]["finish_reason"], "stop");
        assert_eq!(finished["mesh"]["decision"], reply.header("mesh-decision"));
        let usage = chunks.last().expect("chunks");
        assert_eq!(usage["choices"] == json!([]), asked);
        assert_eq!(usage["usage"]["total_tokens"].is_u64(), asked);
        assert!(reply.done());
    }
    // The mesh needs usage for itself and asks for it either way.
    let sent = cloud.requests();
    for request in sent {
        assert_eq!(request.json()["stream_options"]["include_usage"], true);
    }
}

#[tokio::test]
async fn a_whole_answer_has_message_usage_and_the_mesh_object() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    cloud.set(Answer::tool_call("weather", &json!({"city": "Köln"})));
    let world = world().cloud("cloud", &cloud, 0.9).start();
    let reply = world.chat(ask("hello")).await;
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert!(
        body["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("chatcmpl-"))
    );
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "weather");
    assert!(call.get("index").is_none());
    assert!(body["usage"]["total_tokens"].is_u64());
    assert_eq!(body["mesh"]["backend"], "cloud");
    assert_eq!(body["mesh"]["degraded"], json!([]));
}

#[tokio::test]
async fn legacy_completions_have_their_own_form() {
    let world = world().floor().start();
    let mut body = json!({"model": "smollm2", "prompt": "Once"});
    let whole = world
        .post("/v1/completions", body.clone(), &[])
        .await
        .json();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["text"], FLOOR_SAYS);
    assert_eq!(whole["system_fingerprint"], "fp_floor");
    body["stream"] = json!(true);
    let reply = world.post("/v1/completions", body, &[]).await;
    let text: String = reply
        .chunks()
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, FLOOR_SAYS);
    assert!(reply.done());
}

#[tokio::test]
async fn models_are_listed_by_the_names_a_caller_may_use_and_found_by_them() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud_with("cloud", &cloud, 0.9, |backend| {
            backend.models[0].name = String::from("org/large-2");
            backend.models[0].aliases = vec![String::from("large"), String::from("*")];
        })
        .floor()
        .start();
    let list = world.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let names: Vec<&str> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!(names, ["auto", "local", "large", "org/large-2", "smollm2"]);
    for name in names {
        let one = world.get(&format!("/v1/models/{name}")).await;
        assert_eq!(
            (one.status, &one.json()["id"]),
            (StatusCode::OK, &json!(name))
        );
    }
    let unknown = world.get("/v1/models/org/none").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.header("mesh-reason"), "model_not_found");
    assert!(String::from_utf8_lossy(&unknown.body).contains("smollm2"));
    assert_eq!(cloud.count(), 0);
}

#[tokio::test]
async fn backends_are_shown_with_class_evidence_and_health_and_without_addresses() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world().cloud("cloud", &cloud, 0.9).floor().start();
    let reply = world.get("/mesh/v1/backends").await;
    let shown = reply.json();
    assert_eq!(shown["backends"][0]["backend"], "cloud");
    assert_eq!(shown["backends"][0]["class"], "CloudDomestic");
    assert_eq!(shown["backends"][0]["models"][0]["health"]["state"], "well");
    assert_eq!(shown["backends"][1]["class"], "OwnHardware");
    assert_eq!(shown["backends"][1]["floor"], true);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(!text.contains("127.0.0.1"), "{text}");
}
