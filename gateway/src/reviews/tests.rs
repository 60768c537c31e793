use std::ops::Range;
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
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::kept::{Kept, MOST};
use super::{Answer, Asker, BRIEF, LIMIT, PAUSE, Reviews, said};

const USER: &str = "system:serviceaccount:team:app";
const OLDEST: Duration = Duration::from_secs(5);

/// An API server that says this of every token, or nothing at all.
struct Server {
    status: Mutex<Option<Value>>,
    asked: AtomicU32,
    /// How long an answer takes.
    takes: Duration,
}

impl Server {
    fn new(status: Value) -> Arc<Self> {
        Self::slow(status, Duration::ZERO)
    }

    fn slow(status: Value, takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            status: Mutex::new(Some(status)),
            asked: AtomicU32::new(0),
            takes,
        })
    }

    fn says(&self, status: Option<Value>) {
        *self.status.lock().expect("a status") = status;
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    fn reviews(self: &Arc<Self>) -> Reviews {
        self.counting(OLDEST)
    }

    /// An answer counts for so long.
    fn counting(self: &Arc<Self>, oldest: Duration) -> Reviews {
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
                if !this.takes.is_zero() {
                    tokio::time::sleep(this.takes).await;
                }
                let status = this.status.lock().expect("a status").clone();
                let Some(status) = status else {
                    return Err(String::from("nobody there"));
                };
                let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status});
                Ok(Response::new(Body::from(review.to_string().into_bytes())))
            }
        });
        Reviews::new(Client::new(service, "default"), oldest)
    }
}

fn good() -> Value {
    json!({"authenticated": true, "audiences": ["inferencemesh.dev"], "user": {"username": USER}})
}

async fn confirm(reviews: &Reviews, token: &[u8]) -> Result<(), Unrecognized> {
    of(reviews, "team", token).await
}

/// A request of an account of that namespace.
async fn of(reviews: &Reviews, namespace: &str, token: &[u8]) -> Result<(), Unrecognized> {
    let account = (namespace, "app");
    reviews.confirm(Asker::Request, account, token).await
}

async fn stream(reviews: &Reviews, token: &[u8]) -> Result<(), Unrecognized> {
    let account = ("team", "app");
    reviews.confirm(Asker::Stream, account, token).await
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
    assert_eq!(reviews.kept.lock().expect("kept").count("team").0, MOST);
    tokio::time::advance(OLDEST).await;
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    assert_eq!(reviews.kept.lock().expect("kept").count("team").0, 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_one_namespace_take_no_room_that_another_needs() {
    let server = Server::new(good());
    let reviews = server.reviews();
    let crowd = |numbers: Range<usize>| {
        let mut kept = reviews.kept.lock().expect("kept");
        for number in numbers {
            let hash = Sha256::digest(number.to_string()).into();
            let (slot, _) = kept.find("loud", hash, OLDEST);
            slot.keep(OLDEST, Instant::now(), Answer::Holds);
        }
    };
    crowd(0..MOST);
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    crowd(MOST..2 * MOST);
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    assert_eq!(server.asked(), 1, "it was kept");
    let kept = reviews.kept.lock().expect("kept");
    assert_eq!(kept.count("team"), (MOST, 1));
    assert_eq!(kept.count("loud"), (MOST, MOST - 1));
}

/// How long `asking` takes while `crowd` asks.
async fn beside<T, U>(crowd: impl Future<Output = T>, asking: impl Future<Output = U>) -> Duration {
    let begun = Instant::now();
    let timed = async {
        // The crowd comes first.
        tokio::time::sleep(Duration::from_millis(1)).await;
        asking.await;
        begun.elapsed()
    };
    futures::join!(crowd, timed).1
}

#[tokio::test(start_paused = true)]
async fn questions_of_one_namespace_keep_no_other_waiting() {
    let takes = Duration::from_millis(20);
    let reviews = Server::slow(good(), takes).reviews();
    let tokens: Vec<_> = (0..2000).map(|number: u32| number.to_string()).collect();
    let crowd = join_all(
        tokens
            .iter()
            .map(|one| of(&reviews, "loud", one.as_bytes())),
    );
    let took = beside(crowd, async {
        assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    })
    .await;
    assert!(took < takes * 3, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn streams_keep_no_request_waiting_not_even_one_with_the_same_token() {
    let takes = Duration::from_millis(20);
    let server = Server::slow(good(), takes);
    let reviews = server.reviews();
    let tokens: Vec<_> = (0..2000).map(|number: u32| number.to_string()).collect();
    let crowd = join_all(tokens.iter().map(|one| stream(&reviews, one.as_bytes())));
    let took = beside(crowd, async {
        assert_eq!(confirm(&reviews, b"1999").await, Ok(()));
    })
    .await;
    assert!(took < takes * 3, "{took:?}");
    // Those that found no place in time have not said that nobody can be asked.
    assert_eq!(confirm(&reviews, b"1998").await, Ok(()));
    // What was answered for a stream is answered for requests, too.
    let before = server.asked();
    assert_eq!(stream(&reviews, b"1998").await, Ok(()));
    assert_eq!(server.asked(), before);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_with_one_token_asks_once_also_where_answers_take_longer_than_they_count() {
    let server = Server::slow(good(), Duration::from_millis(1500));
    let reviews = server.counting(Duration::from_secs(1));
    let all = join_all((0..20).map(|_| confirm(&reviews, b"one"))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(server.asked(), 1);
    // Who comes later is not served with it.
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit_behind_others() {
    let server = Server::slow(good(), Duration::from_mins(1));
    let reviews = server.reviews();
    // The one before goes away shortly before it would have waited long enough.
    let leaves = tokio::time::timeout(LIMIT * 3 / 4, confirm(&reviews, b"one"));
    let took = beside(leaves, async {
        let unknown = Err(Unrecognized::Unconfirmed);
        assert_eq!(confirm(&reviews, b"one").await, unknown);
    })
    .await;
    assert!(took < LIMIT * 5 / 4, "{took:?}");
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn taken_back_counts_a_few_seconds_only_since_a_fault_reads_the_same() {
    let server = Server::new(json!({"authenticated": false, "error": "no lookup today"}));
    let reviews = server.counting(Duration::from_mins(5));
    let refused = Err(Unrecognized::Nobody);
    assert_eq!(confirm(&reviews, b"one").await, refused);
    server.says(Some(good()));
    assert_eq!(confirm(&reviews, b"one").await, refused);
    assert_eq!(server.asked(), 1);
    tokio::time::advance(BRIEF).await;
    assert_eq!(confirm(&reviews, b"one").await, Ok(()));
}

#[test]
fn what_the_api_server_said_is_told_without_the_token() {
    let review = json!({"metadata": {}, "spec": {}, "status": {"authenticated": false, "error": "token ey.abc is odd"}});
    let review = serde_json::from_value(review).expect("a review");
    let said = said(&review, "ey.abc");
    assert!(
        said.contains("is odd") && !said.contains("ey.abc"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_question_in_vain_takes_no_answer_away_that_counts() {
    let (slot, _) = Kept::default().find("team", [7; 32], OLDEST);
    slot.keep(OLDEST, Instant::now(), Answer::Holds);
    tokio::time::sleep(Duration::from_secs(1)).await;
    slot.keep(OLDEST, Instant::now(), Answer::Unknown);
    assert_eq!(slot.counts(OLDEST, Instant::now()), Some(Answer::Holds));
    tokio::time::sleep(OLDEST).await;
    slot.keep(OLDEST, Instant::now(), Answer::Unknown);
    assert_eq!(slot.counts(OLDEST, Instant::now()), Some(Answer::Unknown));
}
