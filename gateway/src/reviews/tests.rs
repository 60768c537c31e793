use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use mesh_dataplane::Unrecognized;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::{MOST, PAUSE, Reviews};

const USER: &str = "system:serviceaccount:team:app";
const OLDEST: Duration = Duration::from_secs(5);

/// An API server that says this of every token, or nothing at all.
struct Server {
    status: Mutex<Option<Value>>,
    asked: AtomicU32,
}

impl Server {
    fn new(status: Value) -> Arc<Self> {
        Arc::new(Self {
            status: Mutex::new(Some(status)),
            asked: AtomicU32::new(0),
        })
    }

    fn says(&self, status: Option<Value>) {
        *self.status.lock().expect("a status") = status;
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    fn reviews(self: &Arc<Self>) -> Reviews {
        let this = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = Arc::clone(&this);
            async move {
                this.asked.fetch_add(1, Ordering::Relaxed);
                assert_eq!(
                    request.uri().path(),
                    "/apis/authentication.k8s.io/v1/tokenreviews"
                );
                tokio::task::yield_now().await;
                let status = this.status.lock().expect("a status").clone();
                let Some(status) = status else {
                    return Err(String::from("nobody there"));
                };
                let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status});
                Ok(Response::new(Body::from(review.to_string().into_bytes())))
            }
        });
        Reviews::new(Client::new(service, "default"), OLDEST)
    }
}

fn good() -> Value {
    json!({"authenticated": true, "audiences": ["inferencemesh.dev"], "user": {"username": USER}})
}

async fn confirm(reviews: &Reviews, token: &[u8]) -> Result<(), Unrecognized> {
    reviews.confirm(String::from(USER), token).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_for_its_time_and_no_longer() {
    let server = Server::new(good());
    let reviews = server.reviews();
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    server.says(Some(json!({"authenticated": false})));
    tokio::time::advance(Duration::from_millis(4999)).await;
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    assert_eq!(server.asked(), 1, "asked once");
    tokio::time::advance(Duration::from_millis(1)).await;
    let refused = Err(Unrecognized::Nobody);
    assert_eq!(confirm(&reviews, b"one").await, refused);
    assert_eq!(confirm(&reviews, b"one").await, refused);
    assert_eq!(server.asked(), 2);
    assert_eq!(
        confirm(&reviews, b"two").await,
        refused,
        "another token is another question"
    );
    assert_eq!(server.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_be_asked_only_what_was_just_known_good_is_served() {
    let server = Server::new(good());
    let reviews = server.reviews();
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    server.says(None);
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    let unknown = Err(Unrecognized::Unconfirmed);
    assert_eq!(confirm(&reviews, b"new").await, unknown);
    tokio::time::advance(OLDEST).await;
    assert_eq!(confirm(&reviews, b"one").await, unknown);
    // A crowd of requests is no crowd of questions.
    let before = server.asked();
    assert_eq!(confirm(&reviews, b"one").await, unknown);
    assert_eq!(server.asked(), before);
    server.says(Some(good()));
    tokio::time::advance(PAUSE).await;
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn many_requests_with_one_token_are_one_question() {
    let server = Server::new(good());
    let reviews = server.reviews();
    let all = join_all((0..50).map(|_| confirm(&reviews, b"one"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(server.asked(), 1);
    let mut registry = Registry::default();
    reviews.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in [
        "token_reviews_total{outcome=\"holds\"} 1",
        "token_reviews_total{outcome=\"taken_back\"} 0",
        "token_reviews_total{outcome=\"unknown\"} 0",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_same_account_for_our_audience_is_confirmed() {
    for change in [
        json!({"authenticated": false}),
        json!({"audiences": ["https://kubernetes.default.svc"]}),
        json!({"audiences": null}),
        json!({"user": {"username": "system:serviceaccount:team:other"}}),
        json!({"user": null}),
    ] {
        let mut status = good();
        for (key, value) in change.as_object().expect("fields") {
            status[key] = value.clone();
        }
        let reviews = Server::new(status).reviews();
        let found = confirm(&reviews, b"one").await;
        assert_eq!(found, Err(Unrecognized::Nobody), "{change}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_and_more_tokens_are_served_nevertheless() {
    let server = Server::new(good());
    let reviews = server.reviews();
    for number in 0..=MOST {
        assert_eq!(
            confirm(&reviews, number.to_string().as_bytes()).await,
            Ok(())
        );
    }
    assert_eq!(reviews.slots.lock().expect("slots").len(), MOST);
    tokio::time::advance(OLDEST).await;
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    assert_eq!(reviews.slots.lock().expect("slots").len(), 1);
}
