//! Every row of the table of semantics section 5.

use std::time::Duration;

use mesh_backends::{Action, AttemptError, ConnectCause, HealthEffect, TlsCause};
use mesh_protocol::Surface;
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::json;

use crate::world::{
    CANARY, admitted, at, backend, chat, clients, endpoint, error, finished, key_file, outbound,
    send, text,
};

/// The same request, for an upstream that is not asked for a stream.
fn plain(upstream: &ScriptedUpstream) -> mesh_core::Backend {
    mesh_core::Backend {
        stream_upstream: false,
        ..at(upstream)
    }
}

/// What an upstream's behavior is taken for, streamed and not.
async fn taken_for(behavior: impl Into<Behavior>) -> [AttemptError; 2] {
    let behavior = behavior.into();
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(behavior);
    let backends = clients();
    let streamed = error(&backends, &admitted(at(&upstream)), chat()).await;
    let whole = error(&backends, &admitted(plain(&upstream)), chat()).await;
    assert_eq!(
        upstream.count(),
        2,
        "one request per attempt, never a retry"
    );
    [streamed, whole]
}

async fn both(behavior: impl Into<Behavior>, expected: AttemptError) {
    assert_eq!(taken_for(behavior).await, [expected.clone(), expected]);
}

#[tokio::test]
async fn server_errors_and_conflicts_are_failures_of_the_backend() {
    for status in [408, 409, 425, 500, 502, 503, 504, 529, 405, 410, 418] {
        let expected = AttemptError::Status { status };
        assert_eq!(expected.action(), Action::NextAttempt);
        assert_eq!(expected.health(), HealthEffect::Failure);
        both(Behavior::status(status), expected).await;
    }
}

#[tokio::test]
async fn a_rate_limit_carries_the_rest_that_was_asked_for() {
    let rest = Some(Duration::from_secs(7));
    let expected = AttemptError::RateLimited { retry_after: rest };
    assert_eq!(expected.action(), Action::NextAttempt);
    assert_eq!(expected.health(), HealthEffect::RateLimited(rest));
    both(Behavior::rate_limited(7), expected).await;
    both(
        Behavior::status(429),
        AttemptError::RateLimited { retry_after: None },
    )
    .await;
}

#[tokio::test]
async fn a_rejection_marks_the_backend_and_never_reaches_the_caller() {
    for (status, reason) in [
        (401, "Unauthorized"),
        (402, "PaymentRequired"),
        (403, "Forbidden"),
        (404, "NotFound"),
    ] {
        let expected = AttemptError::Rejected { status };
        assert_eq!(expected.action(), Action::NextAttempt);
        assert_eq!(expected.health(), HealthEffect::Marked(reason));
        both(Behavior::status(status), expected).await;
    }
    both(
        Behavior::error(
            400,
            &json!({"error": {"message": "m", "code": "invalid_api_key"}}),
        ),
        AttemptError::Rejected { status: 401 },
    )
    .await;
}

#[tokio::test]
async fn a_request_that_one_backend_cannot_take_goes_to_the_next_without_harm_to_health() {
    let expected = AttemptError::Unsupported {
        code: "context_length_exceeded",
    };
    assert_eq!(expected.action(), Action::NextAttempt);
    assert_eq!(expected.health(), HealthEffect::None);
    both(Behavior::context_length(), expected.clone()).await;
    let llama = json!({"error": {"code": 500, "message": "the request exceeds the available context size", "type": "exceed_context_size_error", "n_ctx": 256}});
    both(Behavior::error(500, &llama), expected.clone()).await;
    both(
        Behavior::error(422, &json!({"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1168", "error_type": "validation"})),
        expected.clone(),
    )
    .await;
    both(
        Answer::text("").error_after(0, llama["error"].clone()),
        expected,
    )
    .await;
    both(
        Behavior::error(
            400,
            &json!({"error": {"message": "m", "code": "unsupported_parameter", "param": "seed"}}),
        ),
        AttemptError::Unsupported {
            code: "unsupported_parameter",
        },
    )
    .await;
}

#[tokio::test]
async fn the_callers_own_fault_reaches_the_caller_scrubbed_of_all_that_is_ours() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let (_folder, key) = key_file("key-canary-99");
    let mut endpoint = endpoint(&upstream.url());
    endpoint.credentials = Some(key);
    endpoint.headers = vec![(String::from("x-team"), String::from("team-canary-5"))];
    let admitted = admitted(backend(endpoint));
    let url = upstream.url();
    for status in [400, 413, 422] {
        upstream.set(Behavior::error(
            status,
            &json!({"error": {
                "message": format!("temperature is wrong; Bearer key-canary-99 at {url}/chat for team-canary-5"),
                "type": "invalid_request_error", "param": "temperature", "code": "invalid_type",
            }}),
        ));
        let error = error(&clients(), &admitted, chat()).await;
        assert_eq!(error.action(), Action::ToCaller);
        assert_eq!(error.health(), HealthEffect::None);
        let AttemptError::CallerFault { status: told, body } = error else {
            panic!("{error:?}");
        };
        let body = &body.expose().error;
        assert_eq!(told, status);
        assert!(body.message.starts_with("temperature is wrong"));
        assert!(!body.message.contains("canary"), "{}", body.message);
        assert!(!body.message.contains("127.0.0.1"), "{}", body.message);
        assert_eq!(body.param.as_deref(), Some("temperature"));
        assert_eq!(body.code.as_deref(), Some("invalid_type"));
    }
}

#[tokio::test]
async fn an_endless_error_body_is_read_only_as_far_as_it_matters() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Behavior::raw(400, "text/plain", "x".repeat(1 << 20)));
    let error = error(&clients(), &admitted(at(&upstream)), chat()).await;
    let AttemptError::CallerFault { body, .. } = error else {
        panic!("{error:?}");
    };
    assert!(body.expose().error.message.len() <= 2048);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_its_target_hears_nothing() {
    let target = ScriptedUpstream::start().await.expect("an upstream");
    let expected = AttemptError::Redirect { status: 307 };
    assert_eq!(expected.action(), Action::NextAttempt);
    assert_eq!(expected.health(), HealthEffect::Failure);
    both(
        Behavior::redirect(&format!("{}/chat/completions", target.url())),
        expected,
    )
    .await;
    assert_eq!((target.count(), target.connections()), (0, 0));
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure_whatever_its_status() {
    both(Behavior::wrong_type(), AttemptError::ContentType).await;
    both(
        Behavior::raw(200, "text/plain", "data: {}\n\n"),
        AttemptError::ContentType,
    )
    .await;
    both(
        Behavior::garbage(),
        AttemptError::InvalidBody { what: "not JSON" },
    )
    .await;
    both(
        Behavior::empty(),
        AttemptError::InvalidBody {
            what: "an empty body",
        },
    )
    .await;
    assert_eq!(
        taken_for(Behavior::raw(200, "text/event-stream", "")).await,
        [AttemptError::Cut, AttemptError::ContentType]
    );
    assert_eq!(
        taken_for(Behavior::raw(200, "application/json", "{}")).await[1],
        AttemptError::InvalidBody {
            what: "an answer without choices"
        }
    );
    assert_eq!(AttemptError::ContentType.health(), HealthEffect::Failure);
}

#[tokio::test]
async fn an_answer_without_finish_reason_is_a_cut_with_or_without_done() {
    both(Answer::text("a b").without_finish(), AttemptError::Cut).await;
    both(
        Answer::text("a b").without_finish().without_done(),
        AttemptError::Cut,
    )
    .await;
    both(Answer::text("a b c").cut_after(2), AttemptError::Cut).await;
    let [streamed, _] = taken_for(Answer::text("a b c").end_quietly_after(2)).await;
    assert_eq!(streamed, AttemptError::Cut);
}

#[tokio::test]
async fn a_finish_reason_without_text_is_a_valid_empty_answer() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("").without_done());
    for backend in [at(&upstream), plain(&upstream)] {
        let (events, error) = send(&clients(), &admitted(backend), chat()).await;
        assert_eq!(error, None);
        assert!(finished(&events) && text(&events).is_empty());
    }
}

#[tokio::test]
async fn an_error_event_is_a_failure_before_the_first_token_and_a_cut_after_it() {
    let broken = json!({"message": CANARY, "type": "server_error"});
    both(
        Answer::text("").error_after(0, broken.clone()),
        AttemptError::ErrorEvent,
    )
    .await;
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("a b c").error_after(2, broken));
    let (events, error) = send(&clients(), &admitted(at(&upstream)), chat()).await;
    assert_eq!(
        (text(&events).as_str(), error),
        ("a b ", Some(AttemptError::Cut))
    );
    let limited = json!({"message": "slow down", "code": 429});
    both(
        Answer::text("").error_after(0, limited),
        AttemptError::RateLimited { retry_after: None },
    )
    .await;
}

#[tokio::test]
async fn text_before_a_cut_is_given_before_the_error() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::tokens(9).cut_after(4));
    let (events, error) = send(&clients(), &admitted(at(&upstream)), chat()).await;
    assert_eq!(text(&events), "t0 t1 t2 t3 ");
    assert_eq!(error, Some(AttemptError::Cut));
    upstream.set(Answer::text("a b").raw_event("{\"oops"));
    let (events, error) = send(&clients(), &admitted(at(&upstream)), chat()).await;
    assert_eq!(text(&events), "a b");
    assert_eq!(error, Some(AttemptError::InvalidBody { what: "not JSON" }));
}

#[tokio::test]
async fn a_server_that_is_gone_or_hangs_up_is_a_failure_to_connect() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let admitted = admitted(at(&upstream));
    upstream.set(Behavior::Close);
    let closed = error(&clients(), &admitted, chat()).await;
    assert_eq!(closed, AttemptError::Connect(ConnectCause::Closed));
    assert_eq!(closed.health(), HealthEffect::Failure);
    assert_eq!(upstream.count(), 1, "never sent twice");
    upstream.kill().await;
    let refused = error(&clients(), &admitted, chat()).await;
    assert_eq!(refused, AttemptError::Connect(ConnectCause::Refused));
}

#[tokio::test]
async fn a_name_without_an_address_is_a_failure_to_connect() {
    let backend = backend(endpoint("http://no-such-host.invalid/v1"));
    let error = error(&clients(), &admitted(backend), chat()).await;
    assert_eq!(error, AttemptError::Connect(ConnectCause::Name));
}

#[tokio::test]
async fn plain_http_behind_an_https_address_is_a_tls_failure() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    let backend = backend(endpoint(&upstream.url().replace("http:", "https:")));
    let error = error(&clients(), &admitted(backend), chat()).await;
    assert_eq!(error, AttemptError::Tls(TlsCause::Handshake));
    assert_eq!(error.health(), HealthEffect::Failure);
    assert!(!upstream.saw(CANARY));
}

#[tokio::test]
async fn answers_and_events_over_their_limits_are_failures() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text(&"x".repeat(5000)));
    let backends = mesh_backends::Backends::new(mesh_backends::ClientOptions {
        answer_limit: 4096,
        event_limit: 4096,
        ..mesh_backends::ClientOptions::default()
    })
    .expect("clients");
    let streamed = error(&backends, &admitted(at(&upstream)), chat()).await;
    let whole = error(&backends, &admitted(plain(&upstream)), chat()).await;
    assert_eq!(
        [streamed, whole],
        [
            AttemptError::InvalidBody {
                what: "an event larger than the limit"
            },
            AttemptError::InvalidBody {
                what: "larger than the limit"
            },
        ]
    );
}

#[tokio::test]
async fn legacy_completions_follow_the_same_rules() {
    let upstream = ScriptedUpstream::start().await.expect("an upstream");
    upstream.set(Answer::text("a b"));
    let request = || {
        outbound(
            Surface::Completions,
            json!({"model": "big", "prompt": CANARY}),
        )
    };
    let (events, error) = send(&clients(), &admitted(at(&upstream)), request()).await;
    assert_eq!((text(&events).as_str(), error), ("a b", None));
    upstream.set(Answer::text("a b").without_finish());
    let (_, error) = send(&clients(), &admitted(at(&upstream)), request()).await;
    assert_eq!(error, Some(AttemptError::Cut));
}
