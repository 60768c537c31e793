//! A word that is sent everywhere is found in no log, no metric, no error and no header. A process of
//! its own: log filters of tests that run beside it would get in the way.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise ends the test"
)]

#[path = "dataplane/world.rs"]
#[expect(dead_code, unused_imports, reason = "made for the other scenarios too")]
mod world;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::Request;
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry};

use world::{Reply, World, ask, world};

const CANARY: &str = "xyzzycanary";

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("a lock")).into_owned()
    }
}

/// The word in every place a caller can write, in requests that succeed and that fail.
fn requests() -> Vec<(&'static str, Value)> {
    let text = format!("{CANARY} hello");
    let mut everywhere = json!({
        "model": "auto",
        "messages": [
            {"role": "system", "content": text, "name": CANARY},
            {"role": "assistant", "content": null, "tool_calls": [{"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": format!("{{\"a\":\"{CANARY}\"}}")}}]},
            {"role": "tool", "tool_call_id": CANARY, "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}], CANARY: CANARY},
        ],
        "tools": [{"type": "function", "function": {"name": CANARY, "description": text, "parameters": {"title": CANARY}}}],
        "metadata": {CANARY: CANARY},
        "user": CANARY,
        "stop": [CANARY],
        "zeta": CANARY,
    });
    let mut streamed = everywhere.clone();
    streamed["stream"] = json!(true);
    let mut named = ask(&text);
    named["model"] = json!(CANARY);
    let mut role = ask(&text);
    role["messages"][0]["role"] = json!(CANARY);
    let mut content = ask(&text);
    content["messages"][0]["content"] = json!({CANARY: CANARY});
    let mut temperature = ask(&text);
    temperature["temperature"] = json!(CANARY);
    everywhere["n"] = json!(1);
    vec![
        ("/v1/chat/completions", everywhere),
        ("/v1/chat/completions", streamed),
        ("/v1/chat/completions", named),
        ("/v1/chat/completions", role),
        ("/v1/chat/completions", content),
        ("/v1/chat/completions", temperature),
        ("/v1/completions", json!({"model": "auto", "prompt": text})),
        ("/v1/embeddings", json!({"model": "auto", "input": text})),
        ("/v1/responses", json!({"model": "auto", "input": text})),
        ("/v1/xyzzycanary", json!({CANARY: CANARY})),
    ]
}

fn assert_silent(what: &str, reply: &Reply) {
    for (name, value) in &reply.headers {
        let line = format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        assert!(!line.contains(CANARY), "{what}: header {line}");
    }
    if !reply.status.is_success() {
        let body = String::from_utf8_lossy(&reply.body);
        assert!(!body.contains(CANARY), "{what}: {body}");
    }
}

/// Logs of all our rooms at the finest level.
fn subscriber(logs: &Kept) -> impl tracing::Subscriber + Send + Sync + use<> {
    let ours = [
        "mesh_dataplane",
        "mesh_backends",
        "mesh_routing",
        "mesh_classify",
        "mesh_protocol",
        "mesh_core",
    ];
    let filter = format!("off,{}", ours.map(|name| format!("{name}=trace")).join(","));
    Registry::default().with(EnvFilter::new(filter)).with(
        tracing_subscriber::fmt::layer()
            .with_writer(logs.clone())
            .with_ansi(false)
            .with_span_events(FmtSpan::FULL),
    )
}

/// Sends the word everywhere and looks at every answer.
async fn send_everywhere(world: &World) {
    let headers = [
        ("authorization", CANARY),
        ("x-request-id", CANARY),
        ("cookie", CANARY),
        ("mesh-other", CANARY),
    ];
    for (path, body) in requests() {
        let reply = world.post(path, body, &headers).await;
        assert_silent(path, &reply);
    }
    let path = "/v1/chat/completions";
    for header in [
        "mesh-privacy",
        "mesh-task",
        "mesh-latency",
        "origin",
        "host",
    ] {
        let reply = world.post(path, ask("hello"), &[(header, CANARY)]).await;
        assert!(reply.status.is_client_error(), "{header}");
        assert_silent(header, &reply);
    }
    let broken = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(format!("{{\"{CANARY}\": ")));
    assert_silent("broken", &world.send(broken.expect("a request")).await);
    assert!(!world.metrics().contains(CANARY));
    let shown = world.get("/mesh/v1/backends").await;
    assert!(!String::from_utf8_lossy(&shown.body).contains(CANARY));
}

#[tokio::test]
async fn a_word_sent_everywhere_is_found_nowhere() {
    let logs = Kept::default();
    let _guard = tracing::subscriber::set_default(subscriber(&logs));

    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let fault = json!({"error": {"message": "bad", "type": "invalid_request_error", "param": null, "code": null}});
    let behaviors: Vec<Behavior> = vec![
        Answer::text("fine").into(),
        Behavior::status(500),
        Behavior::rate_limited(1),
        Behavior::error(400, &fault),
        Behavior::garbage(),
        Behavior::Close,
        Answer::tokens(4).cut_after(2).into(),
        Answer::text(CANARY).into(),
    ];
    for behavior in &behaviors {
        cloud.set(behavior.clone());
        let alone = world().cloud("cloud", &cloud, 0.9).start();
        send_everywhere(&alone).await;
        let with_floor = world().cloud("cloud", &cloud, 0.9).floor().start();
        send_everywhere(&with_floor).await;
    }
    let logs = logs.text();
    for word in ["request ended", "attempt failed", "classify", "decide"] {
        assert!(logs.contains(word), "{word} was logged");
    }
    if let Some(line) = logs.lines().find(|line| line.contains(CANARY)) {
        panic!("in the log: {line}");
    }
}
