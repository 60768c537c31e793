//! What callers of the OpenAI surfaces are promised about the form of answers.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise ends the test"
)]

use mesh_protocol::event::Embedding;
use mesh_protocol::openai::error::ErrorBody;
use mesh_protocol::openai::write::{self, ChunkWriter, Encoding, Head, Whole, embeddings};
use mesh_protocol::{Event, FinishReason, Surface, Usage};
use serde_json::{Value, json};

fn head(surface: Surface) -> Head {
    Head {
        surface,
        id: String::from("chatcmpl-1"),
        created: 1_700_000_000,
        model: String::from("smollm2"),
        system_fingerprint: Some(String::from("fp")),
    }
}

fn text(choice: u32, text: &str) -> Event {
    Event::Text {
        choice,
        text: text.to_owned(),
        logprobs: None,
    }
}

fn finish(choice: u32, reason: FinishReason) -> Event {
    Event::Finish {
        choice,
        reason,
        repetition: false,
    }
}

fn calls(calls: Value) -> Event {
    let Value::Array(calls) = calls else {
        panic!("a list")
    };
    Event::ToolCalls { choice: 0, calls }
}

fn usage() -> Event {
    Event::Usage(Usage {
        prompt_tokens: 3,
        completion_tokens: 2,
        total_tokens: 5,
        ..Usage::default()
    })
}

/// Every frame must be `data: ` with one JSON object, whatever the event.
fn frames(surface: Surface, include_usage: bool, events: &[Event]) -> Vec<Value> {
    let mesh = json!({"decision": "01J", "backend": "floor", "degraded": ["floor_only"]});
    let mut writer = ChunkWriter::new(&head(surface), include_usage);
    let mut out = Vec::new();
    for event in events {
        writer.write(event, &mesh, &mut out);
    }
    let text = String::from_utf8(out).expect("UTF-8");
    text.split_terminator("\n\n")
        .map(|frame| {
            let data = frame.strip_prefix("data: ").expect("a data line");
            serde_json::from_str(data).expect("JSON")
        })
        .collect()
}

fn whole(surface: Surface, events: Vec<Event>) -> Value {
    let mut whole = Whole::new(1 << 20);
    for event in events {
        whole.push(event).expect("small");
    }
    assert!(whole.complete());
    whole.body(&head(surface), json!({"decision": "01J"}))
}

#[test]
fn one_id_one_created_and_the_role_once_per_choice() {
    let events = [
        text(0, "Hel"),
        text(1, "Bon"),
        text(0, "lo \"you\"\n"),
        finish(0, FinishReason::Stop),
        finish(1, FinishReason::Length),
    ];
    let frames = frames(Surface::Chat, false, &events);
    assert_eq!(frames.len(), 5);
    for frame in &frames {
        assert_eq!(frame["id"], "chatcmpl-1");
        assert_eq!(frame["created"], 1_700_000_000);
        assert_eq!(frame["object"], "chat.completion.chunk");
        assert_eq!(frame["model"], "smollm2");
        assert!(frame.get("usage").is_none(), "nobody asked for usage");
    }
    let roles: Vec<bool> = frames
        .iter()
        .map(|frame| frame["choices"][0]["delta"].get("role").is_some())
        .collect();
    assert_eq!(roles, [true, true, false, false, false]);
    assert_eq!(frames[2]["choices"][0]["delta"]["content"], "lo \"you\"\n");
    assert_eq!(frames[4]["choices"][0]["finish_reason"], "length");
}

#[test]
fn the_mesh_object_sits_on_chunks_with_a_finish_reason_only() {
    let frames = frames(
        Surface::Chat,
        false,
        &[text(0, "a"), finish(0, FinishReason::Stop)],
    );
    assert!(frames[0].get("mesh").is_none());
    assert_eq!(frames[1]["mesh"]["backend"], "floor");
}

#[test]
fn usage_gets_a_chunk_of_its_own_and_only_for_those_who_asked() {
    let events = [text(0, "a"), finish(0, FinishReason::Stop), usage()];
    let asked = frames(Surface::Chat, true, &events);
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].get("usage"), Some(&Value::Null));
    assert_eq!(asked[1].get("usage"), Some(&Value::Null));
    assert_eq!(asked[2]["choices"], json!([]));
    assert_eq!(asked[2]["usage"]["total_tokens"], 5);
    assert_eq!(frames(Surface::Chat, false, &events).len(), 2);
}

#[test]
fn every_kind_of_event_makes_well_formed_chunks_on_both_surfaces() {
    let other = json!({"role": "tool", "index": 9, "audio": {"id": "a"}});
    let Value::Object(fields) = other else {
        panic!("an object")
    };
    let events = [
        Event::Reasoning {
            choice: 0,
            text: String::from("hm"),
        },
        Event::Refusal {
            choice: 0,
            text: String::from("no"),
        },
        calls(json!([{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}])),
        Event::Other { choice: 0, fields },
        Event::Other {
            choice: 0,
            fields: serde_json::Map::new(),
        },
        finish(0, FinishReason::ToolCalls),
    ];
    let chat = frames(Surface::Chat, false, &events);
    assert_eq!(chat[0]["choices"][0]["delta"]["reasoning_content"], "hm");
    assert_eq!(chat[1]["choices"][0]["delta"]["refusal"], "no");
    assert_eq!(
        chat[2]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"],
        "f"
    );
    assert_eq!(chat[3]["choices"][0]["delta"]["audio"]["id"], "a");
    assert!(chat[3]["choices"][0]["delta"].get("role").is_none());
    let legacy = frames(Surface::Completions, false, &events);
    for frame in &legacy {
        assert_eq!(frame["object"], "text_completion");
        assert_eq!(frame["choices"][0]["index"], 0);
        assert_eq!(frame["choices"][0]["text"], "");
    }
}

#[test]
fn a_cut_stream_ends_with_an_error_object_and_no_done() {
    let mut out = Vec::new();
    write::failed(
        &ErrorBody::new("cut", "server_error", None, "stream_interrupted"),
        &mut out,
    );
    let text = String::from_utf8(out).expect("UTF-8");
    let data = text.strip_prefix("data: ").expect("data");
    let value: Value = serde_json::from_str(data.trim_end()).expect("JSON");
    assert_eq!(value["error"]["code"], "stream_interrupted");
    assert_eq!(value["error"].get("param"), Some(&Value::Null));
    assert!(!text.contains("[DONE]"));
}

#[test]
fn tool_call_fragments_are_merged_by_index() {
    let body = whole(
        Surface::Chat,
        vec![
            calls(
                json!([{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]),
            ),
            calls(
                json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\""}}]),
            ),
            calls(json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}}])),
            calls(json!([{"index": 1, "function": {"arguments": "{}"}}])),
            finish(0, FinishReason::ToolCalls),
        ],
    );
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(
        message["tool_calls"],
        json!([
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ])
    );
}

#[test]
fn tool_calls_without_an_index_are_told_apart_by_their_id() {
    let body = whole(
        Surface::Chat,
        vec![
            calls(json!([{"id": "a", "function": {"name": "f", "arguments": "{"}}])),
            calls(json!([{"function": {"arguments": "}"}}])),
            calls(json!([{"id": "b", "function": {"name": "g", "arguments": "{}"}}])),
            finish(0, FinishReason::ToolCalls),
        ],
    );
    let calls = &body["choices"][0]["message"]["tool_calls"];
    assert_eq!(calls[0]["function"]["arguments"], "{}");
    assert_eq!(calls[0]["type"], "function");
    assert_eq!(calls[1]["id"], "b");
}

#[test]
fn log_probabilities_are_appended_in_both_forms() {
    let piece = |logprobs: Value| Event::Text {
        choice: 0,
        text: String::from("a"),
        logprobs: Some(logprobs),
    };
    let chat = whole(
        Surface::Chat,
        vec![
            piece(json!({"content": [{"token": "a"}], "refusal": null})),
            piece(json!({"content": [{"token": "b"}], "refusal": null})),
            finish(0, FinishReason::Stop),
        ],
    );
    assert_eq!(
        chat["choices"][0]["logprobs"]["content"],
        json!([{"token": "a"}, {"token": "b"}])
    );
    let legacy = whole(
        Surface::Completions,
        vec![
            piece(json!({"tokens": ["a"], "token_logprobs": [null], "text_offset": [0]})),
            piece(json!({"tokens": ["b"], "token_logprobs": [-0.5], "text_offset": [1]})),
            finish(0, FinishReason::Stop),
        ],
    );
    assert_eq!(legacy["object"], "text_completion");
    assert_eq!(legacy["choices"][0]["text"], "aa");
    assert_eq!(
        legacy["choices"][0]["logprobs"],
        json!({"tokens": ["a", "b"], "token_logprobs": [null, -0.5], "text_offset": [0, 1]})
    );
}

#[test]
fn usage_that_nobody_told_is_absent_rather_than_invented() {
    let silent = whole(Surface::Chat, vec![finish(0, FinishReason::Stop)]);
    assert!(silent.get("usage").is_none());
    assert_eq!(silent["choices"][0]["message"]["content"], "");
    assert_eq!(silent["mesh"]["decision"], "01J");
    let told = whole(Surface::Chat, vec![finish(0, FinishReason::Stop), usage()]);
    assert_eq!(told["usage"]["prompt_tokens"], 3);
}

#[test]
fn an_answer_without_a_finish_reason_is_not_complete() {
    let mut whole = Whole::new(1000);
    assert!(!whole.complete());
    whole.push(text(0, "a")).expect("small");
    whole.push(text(1, "a")).expect("small");
    whole.push(finish(0, FinishReason::Stop)).expect("small");
    assert!(!whole.complete(), "choice 1 was cut");
}

#[test]
fn an_answer_without_an_end_does_not_fill_the_memory() {
    let mut whole = Whole::new(1000);
    let refused = (0..10_000).any(|_| whole.push(text(0, "0123456789")).is_err());
    assert!(refused);
}

#[test]
fn vectors_come_in_the_order_of_the_inputs_as_numbers_or_base64() {
    let vectors = || {
        vec![
            Embedding {
                index: 1,
                vector: vec![0.5, -1.0],
            },
            Embedding {
                index: 0,
                vector: vec![0.1],
            },
        ]
    };
    let usage = Usage {
        prompt_tokens: 4,
        total_tokens: 4,
        ..Usage::default()
    };
    let head = head(Surface::Embeddings);
    let plain = embeddings(&head, vectors(), Some(&usage), Encoding::Float, json!({}));
    assert_eq!(plain["data"][0]["embedding"], json!([0.1_f32]));
    assert_eq!(plain["data"][1]["embedding"], json!([0.5, -1.0]));
    assert_eq!(
        plain["usage"],
        json!({"prompt_tokens": 4, "total_tokens": 4})
    );
    let packed = embeddings(&head, vectors(), None, Encoding::Base64, json!({}));
    // 0.5 and -1.0 as little-endian binary32: 0000003f 000080bf.
    assert_eq!(packed["data"][1]["embedding"], "AAAAPwAAgL8=");
    assert!(packed.get("usage").is_none());
}
