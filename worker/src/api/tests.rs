//! The worker's API over the real model.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_engine::{Engine, EngineOptions};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

/// The model of the tests; without it the test is skipped, in CI it fails.
fn engine() -> Option<Engine> {
    engine_with(EngineOptions::default())
}

/// The adapter that the engine's own tests compare with its reference, as `legal`.
fn adapted() -> Option<Engine> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/engine/tests/golden/adapter");
    engine_with(EngineOptions {
        adapters: vec![(String::from("legal"), folder)],
        ..EngineOptions::default()
    })
}

fn engine_with(options: EngineOptions) -> Option<Engine> {
    let named = std::env::var_os("MESH_TEST_MODEL").map(PathBuf::from);
    let cached = || {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".cache/inference-mesh/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    let path = named.or_else(cached).filter(|path| path.is_file());
    assert!(
        path.is_some() || std::env::var_os("CI").is_none(),
        "the model is missing: run `cargo xtask model`"
    );
    if path.is_none() {
        println!("skipped: no model, run `cargo xtask model`");
    }
    path.map(|path| Engine::load(path, options).expect("the model loads"))
}

async fn post(router: &Router, path: &str, body: Value) -> (StatusCode, String) {
    let request = Request::post(path).header("content-type", "application/json");
    let request = request
        .body(Body::from(body.to_string()))
        .expect("a request");
    let response = router.clone().oneshot(request).await.expect("an answer");
    let status = response.status();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_worker_answers_whole_and_streamed_with_the_same_text_and_counts_it() {
    let Some(engine) = adapted() else { return };
    let mut registry = Registry::default();
    crate::metrics::register(&mut registry, &engine, "smollm2");
    let router = super::router(engine, vec![String::from("smollm2")]);
    let mut body = json!({"model": "smollm2", "temperature": 0, "max_tokens": 8,
        "messages": [{"role": "user", "content": "What is the capital of France?"}]});

    let (status, text) = post(&router, "/v1/chat/completions", body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    let content = whole["choices"][0]["message"]["content"]
        .as_str()
        .expect("text");
    assert!(content.contains("Paris"), "{content}");
    assert!(whole.get("mesh").is_none(), "a worker decides nothing");

    body["stream"] = json!(true);
    let (_, frames) = post(&router, "/v1/chat/completions", body).await;
    let chunks = frames
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let pieces = chunks.filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok());
    let streamed: String = pieces
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(streamed, content);
    assert!(frames.trim_end().ends_with("data: [DONE]"));

    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).expect("metrics");
    promised(&metrics);
}

/// What is rendered is what the page promises, no more and no less.
fn promised(metrics: &str) {
    let page = include_str!("../../../docs/reference/metrics-worker.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    for name in &names {
        let sample = match *name {
            "vllm:lora_requests_info" => format!(
                "{name}{{max_lora=\"1\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"}} "
            ),
            name => format!("{name}{{model_name=\"smollm2\"}} "),
        };
        assert!(metrics.contains(&sample), "{sample} in\n{metrics}");
    }
    let types = metrics.lines().filter(|line| line.starts_with("# TYPE "));
    assert_eq!(types.count(), names.len(), "{metrics}");
}

#[tokio::test]
async fn an_adapter_is_a_model_of_its_own_name_beside_the_model() {
    let Some(engine) = adapted() else { return };
    let router = super::router(engine, vec![String::from("smollm2")]);
    let request = Request::get("/v1/models").body(Body::empty());
    let request = request.expect("a request");
    let listed = router.clone().oneshot(request).await.expect("an answer");
    let listed = listed.into_body().collect().await.expect("a body");
    let listed: Value = serde_json::from_slice(&listed.to_bytes()).expect("JSON");
    let models = listed["data"].as_array().expect("a list");
    let parents: Vec<_> = models
        .iter()
        .map(|model| (model["id"].as_str(), model["parent"].as_str()))
        .collect();
    assert_eq!(
        parents,
        [(Some("smollm2"), None), (Some("legal"), Some("smollm2"))]
    );
    let mut answers = Vec::new();
    for model in ["smollm2", "legal"] {
        let body = json!({"model": model, "temperature": 0, "max_tokens": 16,
            "messages": [{"role": "user", "content": "What is the capital of France?"}]});
        let (status, text) = post(&router, "/v1/chat/completions", body).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["model"], model);
        answers.push(answer);
    }
    let [plain, adapted] = [0, 1].map(|i| &answers[i]);
    assert_ne!(plain["system_fingerprint"], adapted["system_fingerprint"]);
    let text = |answer: &Value| answer["choices"][0]["message"]["content"].to_string();
    assert_ne!(text(plain), text(adapted));
    let body = json!({"model": "other", "messages": [{"role": "user", "content": "hi"}]});
    let (status, text) = post(&router, "/v1/chat/completions", body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("`smollm2`, `legal`"), "{text}");
}

#[tokio::test]
async fn what_a_worker_cannot_do_is_refused_in_openais_form() {
    let Some(engine) = engine() else { return };
    let router = super::router(engine, vec![String::from("smollm2")]);
    let chat = |more: Value| {
        let mut body = json!({"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        body
    };
    for (more, status, code) in [
        (
            json!({"model": "other"}),
            StatusCode::NOT_FOUND,
            "model_not_found",
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            StatusCode::BAD_REQUEST,
            "unsupported_parameter",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            StatusCode::BAD_REQUEST,
            "unsupported_parameter",
        ),
        (json!({"n": 5}), StatusCode::BAD_REQUEST, "invalid_request"),
        (
            json!({"messages": [{"role": "user", "content": "word ".repeat(9000)}]}),
            StatusCode::BAD_REQUEST,
            "context_length_exceeded",
        ),
    ] {
        let (answered, text) = post(&router, "/v1/chat/completions", chat(more.clone())).await;
        let error: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (answered, error["error"]["code"].as_str()),
            (status, Some(code)),
            "{more}: {text}"
        );
    }
}

#[tokio::test]
async fn completions_echo_the_prompt_with_log_probabilities_for_several_prompts() {
    let Some(engine) = engine() else { return };
    let router = super::router(engine, vec![String::from("smollm2")]);
    let body = json!({"model": "smollm2", "prompt": ["The sky is", "Water is"], "echo": true, "logprobs": 2,
        "max_tokens": 3, "temperature": 0});
    let (status, text) = post(&router, "/v1/completions", body).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    for (index, prompt) in ["The sky is", "Water is"].into_iter().enumerate() {
        let choice = &answer["choices"][index];
        assert!(
            choice["text"]
                .as_str()
                .is_some_and(|text| text.starts_with(prompt)),
            "{choice}"
        );
        let values = choice["logprobs"]["token_logprobs"]
            .as_array()
            .expect("values");
        assert!(
            values[0].is_null() && values[1..].iter().all(Value::is_f64),
            "{choice}"
        );
        assert_eq!(
            values.len(),
            choice["logprobs"]["text_offset"]
                .as_array()
                .expect("offsets")
                .len()
        );
    }
    assert_eq!(answer["usage"]["completion_tokens"], 6);
}
