//! The OpenAI API of a worker: chat completions, completions, models.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use mesh_core::LatencyClass;
use mesh_engine::openai::{self, Answer, Context, Error};
use mesh_engine::{AdapterInfo, Engine, Failure, Overflow, Partition, Refused};
use mesh_protocol::openai::error::ErrorBody;
use mesh_protocol::openai::write::{self, ChunkWriter, Head, Whole};
use mesh_protocol::{ModelRequest, Surface};
use serde_json::{Value, json};
use ulid::Ulid;

/// Largest request body in bytes.
const BODY_LIMIT: usize = 8 << 20;
/// Deepest nesting of a request body.
const DEPTH: usize = 64;
/// Most bytes of an answer that is collected for a caller without a stream.
const ANSWER_LIMIT: usize = 64 << 20;

#[derive(Clone)]
struct Served {
    engine: Engine,
    names: Arc<[String]>,
}

impl Served {
    /// The adapter of this name; `None` for the model as it is, an error with all names for what is not
    /// served.
    fn adapter(&self, model: &str) -> Result<Option<&AdapterInfo>, String> {
        let adapters = &self.engine.info().adapters;
        let found = adapters.iter().find(|adapter| adapter.name == model);
        if found.is_some() || self.names.iter().any(|name| name == model) {
            return Ok(found);
        }
        let adapters = adapters.iter().map(|adapter| adapter.name.as_str());
        let names = self.names.iter().map(String::as_str).chain(adapters);
        let names: Vec<&str> = names.collect();
        Err(format!("this worker serves `{}` only", names.join("`, `")))
    }
}

/// What a gateway says of a request besides its body.
#[derive(Debug, Clone, Copy)]
struct Hints {
    overflow: Overflow,
    latency: LatencyClass,
}

impl Hints {
    /// What is not said, or not understood, is the careful choice.
    fn read(headers: &HeaderMap) -> Self {
        let said = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        Self {
            overflow: match said("mesh-overflow") {
                Some(b"trim-history") => Overflow::TrimHistory,
                _ => Overflow::Refuse,
            },
            latency: match said("mesh-latency") {
                Some(b"interactive") => LatencyClass::Interactive,
                Some(b"batch") => LatencyClass::Batch,
                _ => LatencyClass::Standard,
            },
        }
    }
}

/// The routes.
pub(crate) fn router(engine: Engine, names: Vec<String>) -> Router {
    Router::new()
        .route(
            "/v1/chat/completions",
            post(|state, headers, body| answer(Surface::Chat, state, headers, body)),
        )
        .route(
            "/v1/completions",
            post(|state, headers, body| answer(Surface::Completions, state, headers, body)),
        )
        .route("/v1/models", get(models))
        .route("/health", get(|| async { "ok\n" }))
        .fallback(|| async {
            fault(
                StatusCode::NOT_FOUND,
                "there is nothing at this path",
                None,
                "not_found",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Served {
            engine,
            names: names.into(),
        })
}

async fn models(State(served): State<Served>) -> Response {
    let info = served.engine.info();
    let model = |name: &String, parent: Option<&String>| {
        json!({"id": name, "object": "model", "created": 0, "owned_by": "inference-mesh",
            "parent": parent, "max_model_len": info.context_tokens})
    };
    let parent = served.names.first();
    let adapters = info.adapters.iter();
    let adapters = adapters.map(|adapter| model(&adapter.name, parent));
    let own = served.names.iter().map(|name| model(name, None));
    let models: Vec<Value> = own.chain(adapters).collect();
    axum::Json(json!({"object": "list", "data": models})).into_response()
}

async fn answer(
    surface: Surface,
    State(served): State<Served>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = match ModelRequest::parse(surface, &body, DEPTH) {
        Ok(request) => request,
        Err(error) => {
            return fault(
                StatusCode::BAD_REQUEST,
                &error.message,
                error.param,
                "invalid_request",
            );
        }
    };
    let adapter = match served.adapter(&request.model) {
        Ok(adapter) => adapter.cloned(),
        Err(message) => {
            return fault(
                StatusCode::NOT_FOUND,
                &message,
                Some(String::from("model")),
                "model_not_found",
            );
        }
    };
    let (adapter, fingerprint) = match adapter {
        Some(adapter) => (Some(adapter.name), adapter.fingerprint),
        None => (None, served.engine.info().fingerprint.clone()),
    };
    let hints = Hints::read(&headers);
    let engine = served.engine.clone();
    let asked = request.clone();
    // Encoding a long prompt takes milliseconds.
    let started = tokio::task::spawn_blocking(move || {
        openai::start(&engine, &asked, &context(hints, adapter))
    })
    .await;
    let answer = match started {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return refused(&error),
        Err(_) => return stopped(),
    };
    let head = head(surface, request.model.clone(), fingerprint);
    let trimmed = answer.context_trimmed;
    let mut response = if request.stream {
        streamed(&head, answer, request.include_usage)
    } else {
        whole(&head, answer).await
    };
    if trimmed {
        response
            .headers_mut()
            .insert("mesh-context-trimmed", HeaderValue::from_static("true"));
    }
    response
}

fn head(surface: Surface, model: String, fingerprint: String) -> Head {
    let kind = match surface {
        Surface::Chat => "chatcmpl",
        _ => "cmpl",
    };
    Head {
        surface,
        id: format!("{kind}-{}", Ulid::generate()),
        created: Timestamp::now().as_second(),
        model,
        system_fingerprint: Some(fingerprint),
    }
}

/// A worker is not told whose request it is, so no request may reuse another's prefix: each is a
/// partition of its own.
fn context(hints: Hints, adapter: Option<String>) -> Context {
    Context {
        partition: Partition::new("worker", Ulid::generate().to_string()),
        latency: hints.latency,
        sole: false,
        overflow: hints.overflow,
        drop_tools: false,
        adapter,
    }
}

fn streamed(head: &Head, answer: Answer, include_usage: bool) -> Response {
    let writer = ChunkWriter::new(head, include_usage);
    let frames = stream::unfold(
        (answer.events, writer, false),
        |(mut events, mut writer, ended)| async move {
            if ended {
                return None;
            }
            let mut out = Vec::with_capacity(256);
            let ended = match events.next().await {
                Some(Ok(event)) => {
                    writer.write(&event, &Value::Null, &mut out);
                    false
                }
                Some(Err(failure)) => {
                    write::failed(&interrupted(failure), &mut out);
                    true
                }
                None => {
                    write::done(&mut out);
                    true
                }
            };
            Some((
                Ok::<_, Infallible>(Bytes::from(out)),
                (events, writer, ended),
            ))
        },
    );
    (
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        Body::from_stream(frames),
    )
        .into_response()
}

async fn whole(head: &Head, answer: Answer) -> Response {
    let mut all = Whole::new(ANSWER_LIMIT);
    let mut events = answer.events;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if all.push(event).is_err() {
                    return fault(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "the answer is too large",
                        None,
                        "internal",
                    );
                }
            }
            Err(Failure::Busy { retry_after }) => return busy(retry_after.as_secs()),
            Err(Failure::Stopped) => return stopped(),
        }
    }
    let mut body = all.body(head, Value::Null);
    if let Some(fields) = body.as_object_mut() {
        fields.remove("mesh");
    }
    axum::Json(body).into_response()
}

fn refused(error: &Error) -> Response {
    match error {
        Error::Request(error) => fault(
            StatusCode::BAD_REQUEST,
            &error.message,
            error.param.clone(),
            "invalid_request",
        ),
        Error::Unsupported { field } => fault(
            StatusCode::BAD_REQUEST,
            &error.to_string(),
            Some(field.clone()),
            "unsupported_parameter",
        ),
        Error::Refused(refused) => {
            let message = refused.to_string();
            match refused {
                Refused::ContextLength { .. } => fault(
                    StatusCode::BAD_REQUEST,
                    &message,
                    Some(String::from("messages")),
                    "context_length_exceeded",
                ),
                Refused::Busy { retry_after } => busy(retry_after.as_secs()),
                Refused::Invalid { field, .. } => fault(
                    StatusCode::BAD_REQUEST,
                    &message,
                    Some((*field).to_owned()),
                    "invalid_request",
                ),
                Refused::Messages(_) | Refused::Template(_) => fault(
                    StatusCode::BAD_REQUEST,
                    &message,
                    Some(String::from("messages")),
                    "invalid_request",
                ),
                Refused::Stopped => stopped(),
            }
        }
    }
}

fn interrupted(failure: Failure) -> ErrorBody {
    ErrorBody::new(
        failure.to_string(),
        "server_error",
        None,
        "stream_interrupted",
    )
}

fn stopped() -> Response {
    fault(
        StatusCode::SERVICE_UNAVAILABLE,
        "the engine has stopped",
        None,
        "internal",
    )
}

fn busy(seconds: u64) -> Response {
    let mut response = fault(
        StatusCode::TOO_MANY_REQUESTS,
        "the engine is busy",
        None,
        "floor_busy",
    );
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, seconds.max(1).into());
    response
}

fn fault(status: StatusCode, message: &str, param: Option<String>, code: &str) -> Response {
    let kind = if status.is_server_error() {
        "server_error"
    } else {
        "invalid_request_error"
    };
    (
        status,
        axum::Json(ErrorBody::new(message, kind, param, code)),
    )
        .into_response()
}

#[cfg(test)]
mod tests;
