//! The active probe.

use std::time::Duration;

use mesh_backends::{AttemptError, Backends, ClientOptions, ConnectCause};
use mesh_testkit::upstream::{Behavior, ScriptedUpstream};

use crate::world::{at, backend, clients, endpoint, key_file};

#[tokio::test]
async fn a_probe_asks_for_the_models_with_our_key_and_carries_no_prompt() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Behavior::status(500));
    let (_folder, key) = key_file("key-1");
    let mut endpoint = endpoint(&upstream.url());
    endpoint.credentials = Some(key);
    assert_eq!(clients().probe(&backend(endpoint)).await, Ok(()));
    let sent = &upstream.requests()[0];
    assert_eq!(
        (sent.method.as_str(), sent.path.as_str()),
        ("GET", "/v1/models")
    );
    assert_eq!(sent.header("authorization"), Some("Bearer key-1"));
    assert!(sent.body.is_empty());
}

#[tokio::test]
async fn a_probe_tells_what_is_wrong_and_a_missing_list_is_not() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let backend = at(&upstream);
    for (status, found) in [
        (404, Ok(())),
        (405, Ok(())),
        (401, Err(AttemptError::Rejected { status: 401 })),
        (503, Err(AttemptError::Status { status: 503 })),
    ] {
        upstream.set_probe(Behavior::status(status));
        assert_eq!(clients().probe(&backend).await, found);
    }
    upstream.set_probe(Behavior::redirect("http://127.0.0.1:9/"));
    assert_eq!(
        clients().probe(&backend).await,
        Err(AttemptError::Redirect { status: 307 })
    );
    upstream.kill().await;
    assert_eq!(
        clients().probe(&backend).await,
        Err(AttemptError::Connect(ConnectCause::Refused))
    );
}

#[tokio::test]
async fn a_probe_ends_in_bounded_time() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set_probe(Behavior::HangBeforeHeaders);
    let backends = Backends::new(ClientOptions {
        probe_timeout: Duration::from_millis(50),
        ..ClientOptions::default()
    })
    .expect("clients");
    let found = backends.probe(&at(&upstream)).await;
    assert_eq!(found, Err(AttemptError::Timeout));
    upstream.disconnected(1).await;
}
