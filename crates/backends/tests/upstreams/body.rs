//! The body that arrives: the caller's, in its order, with the few edits that are ours.

use mesh_core::Backend;
use mesh_protocol::Surface;
use mesh_testkit::upstream::{Answer, ScriptedUpstream};
use serde_json::{Value, json};

use crate::world::{admitted, at, clients, outbound, send};

/// What arrives of `body`, with the backend changed by `edit`.
async fn arrives(
    surface: Surface,
    body: Value,
    drop_tools: bool,
    edit: impl FnOnce(&mut Backend),
) -> (Vec<String>, Value) {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let mut backend = at(&upstream);
    edit(&mut backend);
    let mut outbound = outbound(surface, body);
    outbound.drop_tools = drop_tools;
    let (_, error) = send(&clients(), &admitted(backend), outbound).await;
    assert_eq!(error, None);
    let request = upstream.requests().pop().expect("a request");
    (request.fields(), request.json())
}

#[tokio::test]
async fn everything_the_caller_wrote_arrives_in_its_order_with_the_target_as_model() {
    let body = json!({
        "zeta": {"deep": [1, null]}, "temperature": 0.5, "model": "auto", "n": 2,
        "messages": [{"role": "user", "content": "hi", "x": 1}], "user": "u", "logprobs": true,
    });
    let (fields, sent) = arrives(Surface::Chat, body.clone(), false, |_| {}).await;
    assert_eq!(
        fields,
        [
            "zeta",
            "temperature",
            "model",
            "n",
            "messages",
            "user",
            "logprobs",
            "stream",
            "stream_options"
        ]
    );
    assert_eq!(sent["model"], "big-2026");
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    for name in ["zeta", "temperature", "n", "messages", "user", "logprobs"] {
        assert_eq!(sent[name], body[name], "{name}");
    }
}

#[tokio::test]
async fn options_of_the_callers_stream_are_kept_where_there_is_a_stream() {
    let body = json!({
        "model": "auto", "stream": false, "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"include_usage": false, "include_obfuscation": false},
    });
    let (_, sent) = arrives(Surface::Chat, body.clone(), false, |_| {}).await;
    assert_eq!(sent["stream"], true);
    assert_eq!(
        sent["stream_options"],
        json!({"include_usage": true, "include_obfuscation": false})
    );
    let (fields, sent) = arrives(Surface::Chat, body, false, |backend| {
        backend.stream_upstream = false;
    })
    .await;
    assert_eq!(fields, ["model", "stream", "messages"]);
    assert_eq!(sent["stream"], false);
}

#[tokio::test]
async fn overrides_of_the_backend_win_over_the_caller() {
    let body = json!({
        "model": "auto", "store": true, "messages": [{"role": "user", "content": "hi"}],
    });
    let overrides = json!({
        "store": false, "service_tier": "flex", "model": "forged", "stream": false,
        "stream_options": {"extra": 1, "include_usage": false},
    });
    let (fields, sent) = arrives(Surface::Chat, body, false, |backend| {
        backend.request_overrides = overrides.as_object().expect("an object").clone();
    })
    .await;
    assert_eq!(
        fields,
        [
            "model",
            "store",
            "messages",
            "stream",
            "stream_options",
            "service_tier"
        ]
    );
    assert_eq!(
        (&sent["store"], &sent["service_tier"]),
        (&json!(false), &json!("flex"))
    );
    // What we read the answer by stays ours.
    assert_eq!(
        (&sent["model"], &sent["stream"]),
        (&json!("big-2026"), &json!(true))
    );
    assert_eq!(
        sent["stream_options"],
        json!({"extra": 1, "include_usage": true})
    );
}

#[tokio::test]
async fn tools_are_left_out_only_where_the_caller_can_do_without() {
    let body = json!({
        "model": "auto", "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
        "parallel_tool_calls": true, "temperature": 0,
    });
    let (kept, _) = arrives(Surface::Chat, body.clone(), false, |_| {}).await;
    assert!(kept.contains(&String::from("tools")));
    let (dropped, _) = arrives(Surface::Chat, body, true, |_| {}).await;
    assert_eq!(
        dropped,
        [
            "model",
            "messages",
            "temperature",
            "stream",
            "stream_options"
        ]
    );
}

#[tokio::test]
async fn embeddings_and_what_cannot_be_streamed_are_asked_for_whole() {
    let body = json!({"model": "big", "input": "a", "stream": true, "encoding_format": "base64"});
    let (fields, _) = arrives(Surface::Embeddings, body, false, |_| {}).await;
    assert_eq!(fields, ["model", "input", "encoding_format"]);
    let body = json!({"model": "big", "prompt": "a", "best_of": 3, "echo": true, "logprobs": 2});
    let (fields, sent) = arrives(Surface::Completions, body, false, |_| {}).await;
    assert_eq!(fields, ["model", "prompt", "best_of", "echo", "logprobs"]);
    assert_eq!(sent["echo"], true);
}

#[tokio::test]
async fn an_answer_that_was_asked_for_whole_gives_the_same_events_as_a_stream() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::tool_call("lookup", &json!({"q": 1})).reasoning("hm"));
    let request = || {
        outbound(
            Surface::Chat,
            json!({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}),
        )
    };
    let mut whole = at(&upstream);
    whole.stream_upstream = false;
    let streamed = send(&clients(), &admitted(at(&upstream)), request()).await;
    assert_eq!(streamed.1, None);
    assert!(streamed.0.len() >= 4, "reasoning, call, finish, usage");
    assert_eq!(
        streamed,
        send(&clients(), &admitted(whole), request()).await
    );
}
