//! Reviews as the API server sends them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_runtime::Shutdown;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::Metrics;
use super::super::template::tests::template;
use super::{Injector, router};

fn served() -> (Router, Metrics) {
    until(&Shutdown::new())
}

fn until(shutdown: &Shutdown) -> (Router, Metrics) {
    let metrics = Metrics::default();
    let injector = Injector {
        template: template("registry.example/sidecar:1"),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    (router(&Arc::new(injector)), metrics)
}

fn review(pod: &Value, dry_run: bool) -> Value {
    let pods = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": kind, "resource": pods, "requestKind": kind, "requestResource": pods,
        "namespace": "team", "operation": "CREATE", "userInfo": {"username": "somebody"},
        "object": pod, "oldObject": null, "dryRun": dry_run, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }})
}

fn pod(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": spec})
}

fn plain() -> Value {
    pod(
        &json!({"containers": [{"name": "app", "image": "a", "env": [{"name": "TOKEN", "value": "hidden"}]}]}),
    )
}

async fn ask(router: &Router, path: &str, body: String) -> (StatusCode, String) {
    let request = Request::post(path)
        .body(Body::from(body))
        .expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(start_paused = true)]
async fn while_it_drains_it_answers_and_lets_the_connection_go() {
    let shutdown = Shutdown::new();
    let (router, _) = until(&shutdown);
    let closes = || async {
        let body = review(&plain(), false).to_string();
        let request = Request::post("/inject/namespace").body(Body::from(body));
        let answer = router.clone().oneshot(request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.headers().get("connection").is_some()
    };
    assert!(!closes().await);
    let look = async {
        shutdown.until_draining().await;
        closes().await
    };
    let (lets_go, ()) = tokio::join!(look, shutdown.drain(Duration::from_secs(5)));
    assert!(lets_go);
}

async fn reviewed(router: &Router, path: &str, body: &Value) -> Value {
    let (status, text) = ask(router, path, body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["uid"], "u-1");
    answer["response"].clone()
}

/// The pod after the answer's patch.
fn patched(mut pod: Value, response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch", "{response}");
    let bytes = response["patch"].as_str().expect("a patch");
    let bytes = STANDARD.decode(bytes).expect("base64");
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).expect("a patch");
    json_patch::patch(&mut pod, &patch).expect("it fits");
    pod
}

fn counted(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).expect("text");
    text
}

#[tokio::test]
async fn a_pod_comes_back_as_a_patch_and_the_second_time_unchanged() {
    let (router, metrics) = served();
    for path in ["/inject/namespace", "/inject/pod/confined"] {
        let answer = reviewed(&router, path, &review(&plain(), false)).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        let made = patched(plain(), &answer);
        assert_eq!(made["spec"]["initContainers"][0]["name"], "mesh-sidecar");
        assert_eq!(made["metadata"]["generateName"], "p-");
        let again = reviewed(&router, path, &review(&made, false)).await;
        assert_eq!(again["allowed"], true);
        assert_eq!(again["patch"], Value::Null, "{again}");
    }
    let text = counted(&metrics);
    assert!(
        text.contains(r#"injections_total{outcome="injected",reason=""} 2"#),
        "{text}"
    );
    assert!(
        text.contains(r#"injections_total{outcome="unchanged",reason=""} 2"#),
        "{text}"
    );
    assert!(
        text.contains("injection_duration_seconds_count 4"),
        "{text}"
    );
}

#[tokio::test]
async fn a_refusal_says_why_and_a_skipped_pod_is_left_alone_with_a_warning() {
    let (router, metrics) = served();
    let mut host = pod(&json!({"hostNetwork": true, "containers": []}));
    let answer = reviewed(&router, "/inject/namespace", &review(&host, false)).await;
    assert_eq!(
        (&answer["allowed"], &answer["patch"]),
        (&json!(true), &Value::Null)
    );
    assert!(
        answer["warnings"][0]
            .as_str()
            .is_some_and(|text| text.contains("hostNetwork")),
        "{answer}"
    );
    host["metadata"]["labels"] = json!({"inferencemesh.dev/inject": "enabled"});
    let answer = reviewed(&router, "/inject/pod", &review(&host, false)).await;
    assert_eq!(answer["allowed"], false, "{answer}");
    assert_eq!(answer["status"]["code"], 403);
    assert!(
        answer["status"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("hostNetwork"))
    );
    let text = counted(&metrics);
    assert!(
        text.contains(r#"{outcome="skipped",reason="HostNetwork"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"{outcome="refused",reason="HostNetwork"} 1"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_dry_run_is_answered_like_any_other_and_counted_apart() {
    let (router, metrics) = served();
    let dry = reviewed(&router, "/inject/namespace", &review(&plain(), true)).await;
    let wet = reviewed(&router, "/inject/namespace", &review(&plain(), false)).await;
    assert_eq!(dry["patch"], wet["patch"]);
    let text = counted(&metrics);
    assert!(
        text.contains(r#"{outcome="dry_run",reason=""} 1"#),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_no_review_of_a_new_pod_gets_an_error_and_nothing_of_it_is_said_again() {
    let (router, metrics) = served();
    let mut update = review(&plain(), false);
    update["request"]["operation"] = json!("UPDATE");
    let mut other = review(&plain(), false);
    other["request"]["object"]["kind"] = json!("Secret");
    for asked in [update, other] {
        let answer = reviewed(&router, "/inject/namespace", &asked).await;
        assert_eq!(answer["allowed"], false);
        assert_eq!(answer["status"]["code"], 400, "{answer}");
        assert!(!answer.to_string().contains("hidden"), "{answer}");
    }
    let mut old = review(&plain(), false);
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut empty = review(&plain(), false);
    empty["request"] = Value::Null;
    for body in [
        String::from("hidden"),
        String::from("{}"),
        String::new(),
        old.to_string(),
        empty.to_string(),
    ] {
        let (status, text) = ask(&router, "/inject/namespace", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }
    let large = "x".repeat((4 << 20) + 1);
    let (status, _) = ask(&router, "/inject/namespace", large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = ask(
        &router,
        "/inject/nobody",
        review(&plain(), false).to_string(),
    )
    .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let text = counted(&metrics);
    assert!(
        text.contains(r#"{outcome="malformed",reason=""} 6"#),
        "{text}"
    );
}
