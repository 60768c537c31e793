//! Asks the API server whether a token still holds (TokenReview), where the platform team wants that: a token verified
//! offline is good until its end, also after its ServiceAccount or its pod was deleted.
//!
//! What was answered counts for a bounded time and not longer. Refuses to guess: who can be asked neither way is not
//! served, since whoever takes a token back would else have to cut the gateway off first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::time::Instant;

/// Longest time to ask.
const LIMIT: Duration = Duration::from_secs(2);
/// For so long nobody asks again after asking in vain.
const PAUSE: Duration = Duration::from_secs(1);
/// Questions on their way at once.
const AT_ONCE: usize = 16;
/// Tokens of which an answer is kept.
const MOST: usize = 16_384;

type Hash = [u8; 32];

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

/// Of one token: the last answer and when it was asked for, and whose turn it is to ask.
#[derive(Default)]
struct Slot {
    last: Mutex<Option<(Instant, Answer)>>,
    turn: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// The answer, if it still counts.
    fn fresh(&self, oldest: Duration) -> Option<Answer> {
        let last = *lock(&self.last);
        let (asked, answer) = last?;
        let lives = match answer {
            Answer::Holds | Answer::TakenBack => oldest,
            Answer::Unknown => PAUSE,
        };
        (asked.elapsed() < lives).then_some(answer)
    }
}

/// Asks, and remembers for a while what was said.
pub(crate) struct Reviews {
    api: Api<TokenReview>,
    oldest: Duration,
    slots: Mutex<HashMap<Hash, Arc<Slot>>>,
    asking: Semaphore,
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
            slots: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
            asked,
        }
    }

    /// Enters how often it asked.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Questions to the API server whether a token still holds";
        registry.register("token_reviews", help, self.asked.clone());
    }

    /// Whether the token, which belongs to `user` by its own word, still holds.
    pub(crate) fn confirm<'a>(
        &'a self,
        user: String,
        token: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Unrecognized>> {
        async move {
            let slot = self.slot(Sha256::digest(token).into());
            match self.answer(&slot, &user, token).await {
                Answer::Holds => Ok(()),
                Answer::TakenBack => Err(Unrecognized::Nobody),
                Answer::Unknown => Err(Unrecognized::Unconfirmed),
            }
        }
        .boxed()
    }

    /// Where there is no more room, one that nobody else sees.
    fn slot(&self, hash: Hash) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&hash) {
            return Arc::clone(slot);
        }
        if slots.len() >= MOST {
            // Who waits for an answer holds the slot.
            slots
                .retain(|_, slot| Arc::strong_count(slot) > 1 || slot.fresh(self.oldest).is_some());
        }
        let slot = Arc::<Slot>::default();
        if slots.len() < MOST {
            slots.insert(hash, Arc::clone(&slot));
        }
        slot
    }

    async fn answer(&self, slot: &Slot, user: &str, token: &[u8]) -> Answer {
        if let Some(answer) = slot.fresh(self.oldest) {
            return answer;
        }
        let _turn = slot.turn.lock().await;
        // Whoever had the turn before may have brought it.
        if let Some(answer) = slot.fresh(self.oldest) {
            return answer;
        }
        // What is taken back while the question is on its way may not be seen by the answer.
        let since = Instant::now();
        let answer = tokio::time::timeout(LIMIT, self.ask(user, token))
            .await
            .unwrap_or_else(|_| {
                tracing::warn!("asking whether a token still holds took too long");
                Answer::Unknown
            });
        let since = match answer {
            Answer::Holds | Answer::TakenBack => since,
            Answer::Unknown => Instant::now(),
        };
        let outcome = answer.word();
        self.asked.get_or_create(&Outcome { outcome }).inc();
        *lock(&slot.last) = Some((since, answer));
        answer
    }

    async fn ask(&self, user: &str, token: &[u8]) -> Answer {
        // Never closed.
        let Ok(_place) = self.asking.acquire().await else {
            return Answer::Unknown;
        };
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
            Ok(_) => {
                tracing::info!(user, "a token that was good is taken back");
                Answer::TakenBack
            }
            Err(error) => {
                tracing::warn!(%error, "could not ask whether a token still holds");
                Answer::Unknown
            }
        }
    }
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
