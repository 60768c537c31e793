//! Asks the API server whether a token still holds (TokenReview), where the platform team wants that: a token verified
//! offline is good until its end, also after its ServiceAccount or its pod was deleted.
//!
//! What was answered counts for a bounded time and not longer. Refuses to guess: who can be asked neither way is not
//! served, since whoever takes a token back would else have to cut the gateway off first.

mod kept;

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_dataplane::Unrecognized;
use mesh_identity::AUDIENCE;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use self::kept::{Both, Kept, Slot, lock};

/// Longest time that a request waits, for its turn, a place and the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// The same of a stream: its sidecar waits five seconds for it to begin.
const STREAM_LIMIT: Duration = Duration::from_secs(4);
/// For so long nobody asks again after asking in vain.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long at most a token counts as taken back: an API server that fails to look something up says the same.
const BRIEF: Duration = Duration::from_secs(5);
/// Questions on their way at once for requests, of all namespaces.
const AT_ONCE: usize = 16;
/// The same for streams.
const STREAMS_AT_ONCE: usize = 8;
/// Characters of what the API server said that are logged.
const WORDS: usize = 200;

/// For what it is asked: streams ask in places of their own, and keep no request waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Request,
    Stream,
}

impl Asker {
    const fn limit(self) -> Duration {
        match self {
            Self::Request => LIMIT,
            Self::Stream => STREAM_LIMIT,
        }
    }
}

/// What the API server says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Holds,
    TakenBack,
    /// It did not answer, or not to us.
    Unknown,
}

impl Answer {
    const ALL: [Self; 3] = [Self::Holds, Self::TakenBack, Self::Unknown];

    const fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::TakenBack => "taken_back",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Asks, and remembers for a while what was said.
pub(crate) struct Reviews {
    api: Api<TokenReview>,
    oldest: Duration,
    kept: Mutex<Kept>,
    places: Both<Semaphore>,
    asked: Family<Outcome, Counter>,
}

impl Reviews {
    /// An answer counts for `oldest`.
    pub(crate) fn new(client: Client, oldest: Duration) -> Self {
        let asked = Family::<Outcome, Counter>::default();
        for answer in Answer::ALL {
            let outcome = answer.word();
            drop(asked.get_or_create(&Outcome { outcome }));
        }
        Self {
            api: Api::all(client),
            oldest,
            kept: Mutex::default(),
            places: Both::new(Semaphore::new(AT_ONCE), Semaphore::new(STREAMS_AT_ONCE)),
            asked,
        }
    }

    /// Enters how often it asked.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Questions to the API server whether a token still holds";
        registry.register("token_reviews", help, self.asked.clone());
    }

    /// Whether the token, which by its own word belongs to the account of that namespace and name, still holds.
    pub(crate) fn confirm<'a>(
        &'a self,
        asker: Asker,
        (namespace, name): (&'a str, &'a str),
        token: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Unrecognized>> {
        async move {
            let hash = Sha256::digest(token).into();
            let (slot, share) = lock(&self.kept).find(namespace, hash, self.oldest);
            let user = format!("system:serviceaccount:{namespace}:{name}");
            let question = Question {
                asker,
                share: share.of(asker),
                user: &user,
                token,
            };
            match self.answer(&slot, &question).await {
                Answer::Holds => Ok(()),
                Answer::TakenBack => Err(Unrecognized::Nobody),
                Answer::Unknown => Err(Unrecognized::Unconfirmed),
            }
        }
        .boxed()
    }

    async fn answer(&self, slot: &Slot, question: &Question<'_>) -> Answer {
        let arrived = Instant::now();
        if let Some(answer) = slot.counts(self.oldest, arrived) {
            return answer;
        }
        let deadline = arrived + question.asker.limit();
        let turn = slot.turn.of(question.asker);
        let Ok(_turn) = timeout_at(deadline, turn.lock()).await else {
            return slot.counts(self.oldest, arrived).unwrap_or(Answer::Unknown);
        };
        // Whoever had the turn before may have brought it. It counts if it did when this one came: a crowd would
        // else ask one after the other where answers take longer than they count.
        if let Some(answer) = slot.counts(self.oldest, arrived) {
            return answer;
        }
        let asked = timeout_at(deadline, self.ask(question)).await;
        let (since, answer) = asked.unwrap_or_else(|_| {
            tracing::warn!("asking whether a token still holds took too long");
            (Instant::now(), Answer::Unknown)
        });
        let outcome = answer.word();
        self.asked.get_or_create(&Outcome { outcome }).inc();
        // A stream that found no place is no reason not to ask for a request.
        if answer != Answer::Unknown || question.asker == Asker::Request {
            slot.keep(self.oldest, since, answer);
        }
        if answer == Answer::Unknown {
            // Requests and streams ask apart: the other may know.
            return slot.counts(self.oldest, arrived).unwrap_or(answer);
        }
        answer
    }

    /// The answer and of when it is.
    async fn ask(&self, question: &Question<'_>) -> (Instant, Answer) {
        let places = self.places.of(question.asker);
        // The share first: who waits for it holds no place of others. Neither is ever closed.
        let (Ok(_share), Ok(_place)) = (question.share.acquire().await, places.acquire().await)
        else {
            return (Instant::now(), Answer::Unknown);
        };
        // What is taken back while the question is on its way may not be seen by the answer.
        let since = Instant::now();
        match self.review(question.user, question.token).await {
            Answer::Unknown => (Instant::now(), Answer::Unknown),
            answer => (since, answer),
        }
    }

    async fn review(&self, user: &str, token: &[u8]) -> Answer {
        let Ok(token) = std::str::from_utf8(token) else {
            return Answer::TakenBack;
        };
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![String::from(AUDIENCE)]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        match self.api.create(&PostParams::default(), &review).await {
            Ok(review) if holds(&review, user) => Answer::Holds,
            Ok(review) => {
                let said = said(&review, token);
                tracing::info!(user, said, "a token that was good is taken back");
                Answer::TakenBack
            }
            Err(error) => {
                tracing::warn!(%error, "could not ask whether a token still holds");
                Answer::Unknown
            }
        }
    }
}

/// What is asked, and for what.
struct Question<'a> {
    asker: Asker,
    /// Places of its namespace.
    share: &'a Semaphore,
    user: &'a str,
    token: &'a [u8],
}

/// Why the API server says no, as far as it tells: a fault of its own reads like an account that is gone. Never the token.
fn said(review: &TokenReview, token: &str) -> String {
    let status = review.status.as_ref();
    let error = status.and_then(|status| status.error.as_deref());
    let error = error.unwrap_or_default().replace(token, "…");
    error.chars().take(WORDS).collect()
}

/// It is good, for the mesh, and of whom it says.
fn holds(review: &TokenReview, user: &str) -> bool {
    let Some(status) = &review.status else {
        return false;
    };
    let audiences = status.audiences.iter().flatten();
    let name = status.user.as_ref().and_then(|one| one.username.as_deref());
    status.authenticated == Some(true)
        && audiences.into_iter().any(|audience| audience == AUDIENCE)
        && name == Some(user)
}

#[cfg(test)]
mod tests;
