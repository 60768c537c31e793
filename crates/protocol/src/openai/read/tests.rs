//! Promises of the reader of upstream answers.

use serde_json::json;

use super::{ChunkReader, ReadError, UpstreamError, answer, vectors};
use crate::{Event, FinishReason, Surface};

fn chat(chunks: &[&str]) -> (Vec<Event>, ChunkReader) {
    let (mut reader, mut events) = (ChunkReader::new(Surface::Chat, 1), Vec::new());
    for chunk in chunks {
        reader.read(chunk, &mut events).expect("a chunk");
    }
    (events, reader)
}

fn text(choice: u32, text: &str) -> Event {
    Event::Text {
        choice,
        text: text.to_owned(),
        logprobs: None,
    }
}

fn finish(choice: u32, word: &str) -> Event {
    Event::Finish {
        choice,
        reason: FinishReason::from(word),
        repetition: false,
    }
}

#[test]
fn a_stream_becomes_text_finish_and_one_usage_and_role_only_deltas_become_nothing() {
    let (events, mut reader) = chat(&[
        r#"{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"lo \u20ac"}}],"usage":{"prompt_tokens":1}}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"late"},"finish_reason":"stop"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}}"#,
    ]);
    assert_eq!(events, [text(0, "Hel"), text(0, "lo €"), finish(0, "stop")]);
    assert!(reader.complete(false));
    let usage = reader.take_usage().expect("usage");
    assert_eq!((usage.prompt_tokens, usage.total_tokens), (3, 5));
    assert!(usage.details.contains_key("prompt_tokens_details"));
    assert_eq!(reader.take_usage(), None);
}

#[test]
fn an_answer_is_complete_only_with_the_finish_reason_of_every_choice() {
    let begun = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    let ended = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let other = r#"{"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":""}]}"#;
    assert!(!chat(&[]).1.complete(true), "nothing at all is a cut");
    assert!(!chat(&[begun]).1.complete(true));
    assert!(chat(&[ended]).1.complete(false), "an empty answer is valid");
    assert!(!chat(&[begun, other, ended]).1.complete(true));
    let mut two = ChunkReader::new(Surface::Chat, 2);
    two.read(ended, &mut Vec::new()).expect("a chunk");
    assert!(!two.complete(false), "the second choice is missing");
    assert!(two.complete(true), "the upstream makes one choice only");
}

#[test]
fn everything_a_delta_can_hold_is_kept() {
    let (events, _) = chat(&[
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm","reasoning":"hm"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":null,"refusal":"no"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c","type":"function","function":{"name":"f","arguments":"{"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"id":"d"}],"function_call":{"name":"old"},"audio":null}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"so"}]},{"type":"text","text":"yes"},{"type":"image","x":1}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"p"},"logprobs":{"content":[{"token":"p","logprob":-0.1}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"vendor":{"a":1}},"finish_reason":"tool_calls"}]}"#,
    ]);
    let fields = |value: serde_json::Value| Event::Other {
        choice: 0,
        fields: value.as_object().expect("an object").clone(),
    };
    let reasoning = |text: &str| Event::Reasoning {
        choice: 0,
        text: text.to_owned(),
    };
    let call = |value| Event::ToolCalls {
        choice: 0,
        calls: vec![value],
    };
    assert_eq!(
        events,
        [
            reasoning("hm"),
            Event::Refusal {
                choice: 0,
                text: String::from("no")
            },
            call(
                json!({"index":1,"id":"c","type":"function","function":{"name":"f","arguments":"{"}})
            ),
            call(json!({"id":"d","index":0})),
            fields(json!({"function_call":{"name":"old"}})),
            reasoning("so"),
            text(0, "yes"),
            fields(json!({"content":[{"type":"image","x":1}]})),
            Event::Text {
                choice: 0,
                text: String::from("p"),
                logprobs: Some(json!({"content":[{"token":"p","logprob":-0.1}]})),
            },
            fields(json!({"vendor":{"a":1}})),
            finish(0, "tool_calls"),
        ]
    );
}

#[test]
fn legacy_completions_are_read_with_their_logprobs() {
    let mut reader = ChunkReader::new(Surface::Completions, 1);
    let mut events = Vec::new();
    reader
        .read(
            r#"{"choices":[{"index":0,"text":"a","logprobs":{"tokens":["a"]},"finish_reason":"length"}]}"#,
            &mut events,
        )
        .expect("a chunk");
    assert_eq!(
        events,
        [
            Event::Text {
                choice: 0,
                text: String::from("a"),
                logprobs: Some(json!({"tokens":["a"]}))
            },
            finish(0, "length")
        ]
    );
}

#[test]
fn a_whole_answer_gives_the_events_that_a_stream_would_have_given() {
    let body = br#"{"id":"x","choices":[
        {"index":0,"message":{"role":"assistant","content":"hi","tool_calls":[{"id":"a","type":"function"}]},"finish_reason":"stop"},
        {"index":1,"message":{"role":"assistant","content":""},"finish_reason":"function_call"}],
        "usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
    let events = answer(Surface::Chat, body).expect("an answer");
    assert_eq!(events[0], text(0, "hi"));
    assert_eq!(
        events[1],
        Event::ToolCalls {
            choice: 0,
            calls: vec![json!({"id":"a","type":"function","index":0})]
        }
    );
    assert_eq!(
        events[2..4],
        [finish(0, "stop"), finish(1, "function_call")]
    );
    assert!(matches!(&events[4], Event::Usage(usage) if usage.total_tokens == 2));
    assert_eq!(events.len(), 5);
}

#[test]
fn what_is_not_an_answer_is_refused_without_quoting_it() {
    for (body, error) in [
        ("", ReadError::Invalid("an empty body")),
        (" \n", ReadError::Invalid("an empty body")),
        ("{\"canary\"", ReadError::Invalid("not JSON")),
        ("[]", ReadError::Invalid("an answer of another shape")),
        (
            "\"canary\"",
            ReadError::Invalid("an answer of another shape"),
        ),
        ("{}", ReadError::Invalid("an answer without choices")),
        (
            "{\"choices\":[]}",
            ReadError::Invalid("an answer without choices"),
        ),
        (
            r#"{"choices":[{"index":0,"message":{"content":"canary"},"finish_reason":null}]}"#,
            ReadError::Cut,
        ),
        (
            r#"{"choices":[{"index":4000000000,"message":{"content":"canary"},"finish_reason":"stop"}]}"#,
            ReadError::Invalid("a choice has an impossible index"),
        ),
    ] {
        assert_eq!(answer(Surface::Chat, body.as_bytes()), Err(error), "{body}");
    }
    assert!(answer(Surface::Chat, b"\xFF\xFE").is_err());
}

#[test]
fn errors_within_a_200_are_recognized_in_a_stream_and_in_a_whole_answer() {
    for body in [
        r#"{"error":{"message":"canary","code":"overloaded"}}"#,
        r#"{"error":"canary"}"#,
        r#"{"error":{"message":"canary"},"choices":"none"}"#,
        r#"{"object":"error","message":"canary","type":"BadRequestError","code":400}"#,
    ] {
        let mut reader = ChunkReader::new(Surface::Chat, 1);
        let error = reader.read(body, &mut Vec::new()).expect_err("an error");
        assert!(matches!(&error, ReadError::Upstream(said) if said.message == "canary"));
        assert!(!format!("{error} {error:?}").contains("canary"));
        assert!(matches!(
            answer(Surface::Chat, body.as_bytes()),
            Err(ReadError::Upstream(_))
        ));
    }
    let fine = r#"{"error":null,"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    assert_eq!(chat(&[fine]).0, [text(0, "a")]);
}

#[test]
fn error_objects_of_many_servers_are_brought_into_one_shape() {
    let read = |body: serde_json::Value| UpstreamError::read(body.to_string().as_bytes());
    let words = |error: &UpstreamError| {
        (
            error.message.clone(),
            error.kind.clone().unwrap_or_default(),
            error.param.clone().unwrap_or_default(),
            error.code.clone().unwrap_or_default(),
            error.status,
        )
    };
    let row = |a: &str, b: &str, c: &str, d: &str, e| {
        (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned(), e)
    };
    for (body, expected) in [
        (
            json!({"error":{"message":"m","type":"t","param":"p","code":"c"}}),
            row("m", "t", "p", "c", None),
        ),
        (
            json!({"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}),
            row("m", "BadRequestError", "", "", Some(400)),
        ),
        (
            json!({"error":{"code":400,"message":"m","type":"exceed_context_size_error","n_ctx":256}}),
            row("m", "exceed_context_size_error", "", "", Some(400)),
        ),
        (
            json!({"error":"m","error_type":"validation"}),
            row("m", "validation", "", "", None),
        ),
        (json!({"detail":"m"}), row("m", "", "", "", None)),
        (
            json!({"detail":[{"loc":["body","messages",0,"role"],"msg":"m","type":"extra_forbidden"}]}),
            row("m", "extra_forbidden", "messages.role", "", None),
        ),
        (
            json!([{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"@type":"x"},{"reason":"API_KEY_INVALID"}]}}]),
            row("m", "INVALID_ARGUMENT", "", "API_KEY_INVALID", Some(400)),
        ),
        (
            json!({"type":"error","error":{"type":"invalid_request_error","message":"m"}}),
            row("m", "invalid_request_error", "", "", None),
        ),
        (
            json!({"errors":[{"message":"m","code":"7003"}]}),
            row("m", "", "", "7003", None),
        ),
        (json!("m"), row("m", "", "", "", None)),
        (json!(7), row("", "", "", "", None)),
    ] {
        assert_eq!(words(&read(body.clone())), expected, "{body}");
    }
    assert_eq!(UpstreamError::read(b" no json \n").message, "no json");
    assert_eq!(UpstreamError::read(b"<html>").message, "");
    let long = UpstreamError::read(json!({ "error": "€".repeat(9000) }).to_string().as_bytes());
    assert!(long.message.len() <= UpstreamError::TEXT_LIMIT);
}

#[test]
fn vectors_are_read_as_numbers_and_as_base64_in_the_order_of_the_inputs() {
    let body =
        br#"{"data":[{"index":1,"embedding":"AACAPwAAAEA="},{"index":0,"embedding":[0.5,-1]}],
        "usage":{"prompt_tokens":4,"total_tokens":4}}"#;
    let events = vectors(body).expect("vectors");
    let Event::Embeddings(found) = &events[0] else {
        panic!("vectors first");
    };
    assert_eq!(found[0].vector, [0.5, -1.0]);
    assert_eq!(found[1].vector, [1.0, 2.0]);
    assert!(matches!(&events[1], Event::Usage(usage) if usage.prompt_tokens == 4));
}

#[test]
fn broken_vectors_are_refused() {
    for body in [
        "",
        "{}",
        r#"{"data":[]}"#,
        r#"{"data":[{"index":0,"embedding":[]}]}"#,
        r#"{"data":[{"index":0,"embedding":[[1.0]]}]}"#,
        r#"{"data":[{"index":0,"embedding":[1e39]}]}"#,
        r#"{"data":[{"index":0,"embedding":"AACAfw=="}]}"#,
        r#"{"data":[{"index":0,"embedding":"AAA="}]}"#,
        r#"{"data":[{"index":0,"embedding":"?"}]}"#,
        r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#,
        r#"{"data":[{"index":1,"embedding":[1]}]}"#,
    ] {
        assert!(
            matches!(vectors(body.as_bytes()), Err(ReadError::Invalid(_))),
            "{body}"
        );
    }
    assert!(matches!(
        vectors(br#"{"error":{"message":"m"}}"#),
        Err(ReadError::Upstream(_))
    ));
}
