//! What is refused at the door is refused with one clear error object, and reaches nobody.

use axum::body::Body;
use http::{Request, StatusCode};
use mesh_testkit::upstream::ScriptedUpstream;
use serde_json::json;

use crate::world::{Reply, World, ask, world};

async fn guarded() -> (World, ScriptedUpstream) {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud("cloud", &cloud, 0.9)
        .floor()
        .config(|config| {
            config.body_limit = 2000;
            config.hosts = vec![String::from("mesh.example")];
        })
        .start();
    (world, cloud)
}

fn chat_request() -> http::request::Builder {
    Request::post("/v1/chat/completions")
        .header("host", "localhost:8080")
        .header("content-type", "application/json")
}

fn hello() -> Body {
    Body::from(ask("hello").to_string())
}

fn assert_refused(reply: &Reply, status: StatusCode, reason: &str) {
    assert_eq!(reply.status, status, "{:?}", reply.body);
    assert_eq!(reply.header("mesh-reason"), reason);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("x-request-id").len(), 26);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], reason);
    for key in ["message", "type", "param", "code"] {
        assert!(error.get(key).is_some(), "{key}");
    }
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused_on_every_path() {
    let (world, cloud) = guarded().await;
    for path in ["/v1/models", "/mesh/v1/backends", "/console", "/nothing"] {
        for (name, value) in [("host", "evil.example"), ("origin", "https://evil.example")] {
            let request = Request::get(path).header(name, value);
            let request = if name == "host" {
                request
            } else {
                request.header("host", "localhost:8080")
            };
            let reply = world
                .send(request.body(Body::empty()).expect("a request"))
                .await;
            assert_refused(&reply, StatusCode::FORBIDDEN, "foreign_origin");
            assert_eq!(reply.header("x-should-retry"), "false");
        }
    }
    let reply = world
        .send(
            chat_request()
                .header("origin", "null")
                .body(hello())
                .expect("a request"),
        )
        .await;
    assert_refused(&reply, StatusCode::FORBIDDEN, "foreign_origin");
    let listed = Request::get("/v1/models").header("host", "mesh.example");
    let reply = world
        .send(listed.body(Body::empty()).expect("a request"))
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!((cloud.count(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn bodies_that_are_no_json_too_large_or_too_deep_are_refused() {
    let (world, cloud) = guarded().await;
    let untyped = Request::post("/v1/chat/completions").header("host", "localhost");
    let reply = world.send(untyped.body(hello()).expect("a request")).await;
    assert_refused(
        &reply,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
    );

    let large =
        json!({"model": "auto", "messages": [{"role": "user", "content": "x".repeat(3000)}]});
    let reply = world.chat(large.clone()).await;
    assert_refused(&reply, StatusCode::PAYLOAD_TOO_LARGE, "request_too_large");
    let chunked = futures::stream::iter([Ok::<_, std::io::Error>(large.to_string())]);
    let reply = world
        .send(
            chat_request()
                .body(Body::from_stream(chunked))
                .expect("a request"),
        )
        .await;
    assert_refused(&reply, StatusCode::PAYLOAD_TOO_LARGE, "request_too_large");

    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    for body in [deep.as_str(), "{", "[]", "\"text\"", ""] {
        let request = chat_request().body(Body::from(body.to_owned()));
        let reply = world.send(request.expect("a request")).await;
        assert_refused(&reply, StatusCode::BAD_REQUEST, "invalid_request");
    }
    assert_eq!((cloud.count(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let world = world()
        .floor()
        .config(|config| config.body_timeout = std::time::Duration::from_millis(50))
        .start();
    let never = futures::stream::pending::<Result<String, std::io::Error>>();
    let request = chat_request().body(Body::from_stream(never));
    let reply = world.send(request.expect("a request")).await;
    assert_refused(&reply, StatusCode::REQUEST_TIMEOUT, "request_timeout");
}

#[tokio::test]
async fn unknown_paths_wrong_methods_and_later_parts_say_so() {
    let (world, cloud) = guarded().await;
    let reply = world.get("/v1/nothing").await;
    assert_refused(&reply, StatusCode::NOT_FOUND, "not_found");
    let reply = world.post("/nothing", json!({}), &[]).await;
    assert_refused(&reply, StatusCode::NOT_FOUND, "not_found");
    for path in ["/v1/chat/completions", "/v1/embeddings", "/mesh/v1/explain"] {
        let reply = world.get(path).await;
        assert_refused(&reply, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    }
    let reply = world.post("/v1/models", json!({}), &[]).await;
    assert_refused(&reply, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    for path in [
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/mesh/v1/decisions",
        "/console",
    ] {
        let reply = world.post(path, ask("hello"), &[]).await;
        assert_refused(&reply, StatusCode::NOT_IMPLEMENTED, "not_supported");
        assert_eq!(reply.header("x-should-retry"), "false");
        let error = reply.json();
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.starts_with("not supported yet: "), "{message}");
    }
    assert_eq!((cloud.count(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn with_keys_every_path_needs_one_and_the_wrong_one_is_a_401() {
    // SHA-256 of `secret`.
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let world = world().floor().keys(&format!("alice {hash}\n")).start();
    for path in ["/v1/models", "/mesh/v1/backends", "/v1/nothing"] {
        let reply = world.get(path).await;
        assert_refused(&reply, StatusCode::UNAUTHORIZED, "invalid_api_key");
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    let path = "/v1/chat/completions";
    for headers in [vec![], vec![("authorization", "Bearer wrong")]] {
        let reply = world.post(path, ask("hello"), &headers).await;
        assert_refused(&reply, StatusCode::UNAUTHORIZED, "invalid_api_key");
    }
    let reply = world.post("/mesh/v1/explain", ask("hello"), &[]).await;
    assert_refused(&reply, StatusCode::UNAUTHORIZED, "invalid_api_key");
    assert_eq!(world.floor.calls(), 0);
    let right = [("authorization", "Bearer secret")];
    let reply = world.post(path, ask("hello"), &right).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(!world.floor.saw("secret"));
}

#[tokio::test]
async fn headers_that_are_not_understood_are_refused() {
    let (world, cloud) = guarded().await;
    for (name, value) in [
        ("mesh-privacy", "secret"),
        ("mesh-privacy", "Restricted"),
        ("mesh-task", "anything"),
        ("mesh-latency", "soon"),
    ] {
        let reply = world
            .post("/v1/chat/completions", ask("hello"), &[(name, value)])
            .await;
        assert_refused(&reply, StatusCode::BAD_REQUEST, "invalid_request");
        assert_eq!(reply.json()["error"]["param"], name);
    }
    let twice = [("mesh-privacy", "public"), ("mesh-privacy", "public")];
    let reply = world
        .post("/v1/chat/completions", ask("hello"), &twice)
        .await;
    assert_refused(&reply, StatusCode::BAD_REQUEST, "invalid_request");
    assert_eq!((cloud.count(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn one_request_too_many_is_refused_at_once_and_a_sent_answer_makes_room() {
    let world = world()
        .floor()
        .config(|config| config.max_concurrent = 1)
        .start();
    let stream = crate::world::ask_streaming("hello").to_string();
    let held = world
        .open(chat_request().body(Body::from(stream)).expect("a request"))
        .await;
    assert_eq!(held.status(), StatusCode::OK);
    let reply = world.chat(ask("hello")).await;
    assert_refused(&reply, StatusCode::TOO_MANY_REQUESTS, "overloaded");
    assert_eq!(reply.header("retry-after"), "1");
    drop(held);
    assert_eq!(world.chat(ask("hello")).await.status, StatusCode::OK);
}

#[test]
fn a_listener_outside_loopback_without_keys_is_refused() {
    let config = mesh_dataplane::Config {
        loopback: false,
        ..mesh_dataplane::Config::default()
    };
    let error = config.check().expect_err("refused");
    assert!(error.to_string().contains("--api-keys"));
}

/// Knows everybody's name, and the labels of nobody's namespace.
#[derive(Debug)]
struct LabelsUnknown;

impl mesh_dataplane::Callers for LabelsUnknown {
    fn caller(&self, bearer: &[u8]) -> Result<mesh_core::Caller, mesh_dataplane::Unrecognized> {
        Err(match bearer {
            b"known" => mesh_dataplane::Unrecognized::NotYet,
            _ => mesh_dataplane::Unrecognized::Nobody,
        })
    }
}

#[tokio::test]
async fn a_caller_whose_namespace_is_not_known_yet_waits_and_reaches_nobody() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .cloud("cloud", &cloud, 0.9)
        .floor()
        .config(|config| config.callers = Some(std::sync::Arc::new(LabelsUnknown)))
        .start();
    for path in ["/v1/chat/completions", "/mesh/v1/explain"] {
        let bearer = [("authorization", "Bearer known")];
        let reply = world.post(path, ask("hello"), &bearer).await;
        assert_refused(&reply, StatusCode::SERVICE_UNAVAILABLE, "no_backend");
        assert_eq!(reply.header("retry-after"), "1");
        let stranger = [("authorization", "Bearer other")];
        let reply = world.post(path, ask("hello"), &stranger).await;
        assert_refused(&reply, StatusCode::UNAUTHORIZED, "invalid_api_key");
    }
    assert_eq!((cloud.count(), world.floor.calls()), (0, 0));
}
