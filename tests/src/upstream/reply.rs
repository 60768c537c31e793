//! Behaviors as HTTP: streams, whole answers, vectors, lists of models.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use futures::{StreamExt, stream};
use mesh_protocol::sse;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::answer::{End, Piece};
use super::connection::Peer;
use super::record::Received;
use super::{Answer, Behavior, Waiting};

pub(super) async fn respond(
    behavior: Behavior,
    received: &Received,
    peer: &Peer,
    mut waiting: Waiting,
) -> Response {
    match behavior {
        Behavior::HangBeforeHeaders => hang().await,
        Behavior::Close => {
            waiting.done();
            peer.break_off();
            Response::new(Body::empty())
        }
        Behavior::Raw {
            status,
            headers,
            body,
        } => {
            waiting.done();
            response(status, &headers, Body::from(body))
        }
        Behavior::Answer(answer) => answer_to(answer, received, peer, waiting),
    }
}

async fn hang<T>() -> T {
    futures::future::pending().await
}

fn response(status: u16, headers: &[(String, String)], body: Body) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(body).unwrap_or_else(|_| {
        let mut broken = Response::new(Body::from("the script is no valid HTTP"));
        *broken.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        broken
    })
}

/// A step of a body: something to send after a wait, or the way it ends.
enum Step {
    Send(Duration, Vec<u8>),
    Break,
    Hang,
}

fn answer_to(answer: Answer, received: &Received, peer: &Peer, waiting: Waiting) -> Response {
    let body = received.json();
    let kind = received.path.rsplit('/').next().unwrap_or_default();
    let streamed = body.get("stream") == Some(&Value::Bool(true));
    let (content_type, steps) = match kind {
        "models" => (
            "application/json",
            whole(&json!({
                "object": "list", "data": [{"id": "scripted", "object": "model"}],
            })),
        ),
        "embeddings" => ("application/json", embeddings(&answer, &body)),
        _ if streamed => (
            "text/event-stream; charset=utf-8",
            events(&answer, kind, &body),
        ),
        _ => ("application/json", answer_steps(&answer, kind, &body)),
    };
    let mut headers = answer.headers;
    headers.push((String::from("content-type"), content_type.to_owned()));
    response(200, &headers, steps_as_body(steps, peer.clone(), waiting))
}

fn steps_as_body(steps: Vec<Step>, peer: Peer, waiting: Waiting) -> Body {
    let steps = stream::unfold(
        (steps.into_iter(), peer, waiting),
        |(mut steps, peer, mut waiting)| async move {
            match steps.next() {
                Some(Step::Send(delay, bytes)) => {
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    let sent = Ok::<_, Infallible>(Bytes::from(bytes));
                    if steps.len() == 0 {
                        waiting.done();
                    }
                    Some((sent, (steps, peer, waiting)))
                }
                Some(Step::Break) => {
                    waiting.done();
                    // What was sent before must be on its way first.
                    tokio::task::yield_now().await;
                    peer.break_off();
                    hang().await
                }
                Some(Step::Hang) => hang().await,
                None => None,
            }
        },
    );
    Body::from_stream(steps.boxed())
}

fn whole(value: &Value) -> Vec<Step> {
    vec![Step::Send(Duration::ZERO, value.to_string().into_bytes())]
}

/// The model that was asked for, said back.
fn model(body: &Value) -> Value {
    body.get("model")
        .cloned()
        .unwrap_or_else(|| json!("scripted"))
}

fn usage(answer: &Answer) -> Value {
    let count = answer.pieces.len();
    json!({"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count})
}

/// Makes the events of a stream.
struct Chunks<'a> {
    answer: &'a Answer,
    chat: bool,
    model: Value,
    steps: Vec<Step>,
}

fn events(answer: &Answer, kind: &str, body: &Value) -> Vec<Step> {
    let mut chunks = Chunks {
        answer,
        chat: kind != "completions" || body.get("messages").is_some(),
        model: model(body),
        steps: Vec::new(),
    };
    if answer.role_first && chunks.chat {
        chunks.push(
            Duration::ZERO,
            &json!({"role": "assistant", "content": ""}),
            None,
        );
    }
    for (position, piece) in answer.pieces.iter().enumerate() {
        let delay = match position {
            0 => answer.first_delay,
            _ => answer.delay,
        };
        chunks.piece(delay, piece);
    }
    let include_usage = body.pointer("/stream_options/include_usage") == Some(&json!(true));
    chunks.end(include_usage);
    chunks.steps
}

impl Chunks<'_> {
    fn data(&mut self, delay: Duration, text: &str) {
        let mut bytes = Vec::new();
        if self.answer.comments {
            sse::comment("processing", &mut bytes);
        }
        sse::data(text, &mut bytes);
        self.steps.push(Step::Send(delay, bytes));
    }

    fn push(&mut self, delay: Duration, delta: &Value, finish: Option<&str>) {
        let choice = if self.chat {
            json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish})
        } else {
            let text = delta.get("content").cloned().unwrap_or_else(|| json!(""));
            json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish})
        };
        let chunk = self.chunk(&json!([choice]));
        self.data(delay, &chunk.to_string());
    }

    fn chunk(&self, choices: &Value) -> Value {
        let object = if self.chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        };
        json!({"id": "scripted-1", "object": object, "created": 1, "model": self.model, "choices": choices})
    }

    fn piece(&mut self, delay: Duration, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.push(delay, &json!({ "content": text }), None),
            Piece::Reasoning(text) => self.push(delay, &json!({ "reasoning_content": text }), None),
            Piece::ToolCall(call) => self.push(delay, &json!({ "tool_calls": [call] }), None),
            Piece::Raw(text) => self.data(delay, text),
        }
    }

    fn end(&mut self, include_usage: bool) {
        let answer = self.answer;
        match &answer.end {
            End::Complete => {}
            End::Cut => return self.steps.push(Step::Break),
            End::Quiet => return,
            End::Stall => return self.steps.push(Step::Hang),
            End::Error(error) => return self.data(answer.delay, &error.to_string()),
        }
        if let Some(finish) = &answer.finish {
            self.push(Duration::ZERO, &json!({}), Some(finish));
        }
        if include_usage && answer.usage {
            let mut chunk = self.chunk(&json!([]));
            chunk["usage"] = usage(answer);
            self.data(Duration::ZERO, &chunk.to_string());
        }
        if answer.done {
            self.data(Duration::ZERO, sse::DONE);
        }
    }
}

/// A whole answer, in one piece or broken.
fn answer_steps(answer: &Answer, kind: &str, body: &Value) -> Vec<Step> {
    let text = whole_answer(answer, kind, body);
    let pieces = u32::try_from(answer.pieces.len()).unwrap_or(u32::MAX);
    let delay = answer.first_delay + answer.delay * pieces.saturating_sub(1);
    let half = text.as_bytes()[..text.len() / 2].to_vec();
    match &answer.end {
        End::Complete => vec![Step::Send(delay, text.into_bytes())],
        End::Quiet => vec![Step::Send(delay, half)],
        End::Cut => vec![Step::Send(delay, half), Step::Break],
        End::Stall => vec![Step::Send(delay, half), Step::Hang],
        End::Error(error) => vec![Step::Send(delay, error.to_string().into_bytes())],
    }
}

fn whole_answer(answer: &Answer, kind: &str, body: &Value) -> String {
    let (mut text, mut message) = (String::new(), Map::new());
    message.insert(String::from("role"), json!("assistant"));
    message.insert(String::from("content"), Value::Null);
    for piece in &answer.pieces {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Reasoning(text) => {
                message.insert(String::from("reasoning_content"), json!(text));
            }
            Piece::ToolCall(call) => {
                message.insert(String::from("tool_calls"), json!([call]));
            }
            Piece::Raw(raw) => return raw.clone(),
        }
    }
    let choice = if kind == "completions" && body.get("messages").is_none() {
        json!({"index": 0, "text": text, "logprobs": null, "finish_reason": answer.finish})
    } else {
        if !text.is_empty() {
            message.insert(String::from("content"), json!(text));
        }
        json!({"index": 0, "message": message, "logprobs": null, "finish_reason": answer.finish})
    };
    let mut whole = json!({
        "id": "scripted-1", "object": "chat.completion", "created": 1,
        "model": model(body), "choices": [choice],
    });
    if answer.usage {
        whole["usage"] = usage(answer);
    }
    whole.to_string()
}

/// Vectors that tell their inputs apart: the position, and then ones.
fn embeddings(answer: &Answer, body: &Value) -> Vec<Step> {
    let inputs = match body.get("input") {
        Some(Value::Array(items)) if !items.iter().all(Value::is_number) => items.len(),
        _ => 1,
    };
    let data: Vec<Value> = (0_u16..)
        .take(inputs)
        .map(|index| {
            let mut vector = vec![1.0_f32; answer.dimensions];
            if let Some(first) = vector.first_mut() {
                *first = f32::from(index);
            }
            json!({"object": "embedding", "index": index, "embedding": vector})
        })
        .collect();
    whole(&json!({
        "object": "list", "model": model(body), "data": data,
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }))
}
