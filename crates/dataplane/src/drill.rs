//! Floor drills: a floor whose policy says `floor.drill` is asked a small question again and again, so that it is
//! known to answer before somebody needs it.
//!
//! Every process that serves drills for itself: what is proved is that *it* reaches the floor. The question goes the
//! way of a request, through an `Admitted`, to that floor and to nobody else; it stands last in every queue, takes no
//! place within declared limits, and neither opens nor closes a breaker. It is in the metrics of drills only: requests,
//! attempts and tokens are callers'.

mod book;
mod wanted;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mesh_backends::{AttemptError, Outbound};
use mesh_core::policy::Overflow;
use mesh_core::{LatencyClass, PrivacyLevel, Snapshot};
use mesh_protocol::openai::write::Whole;
use mesh_protocol::{ModelRequest, Surface};
use mesh_routing::{AdmitInput, Admitted, EffectivePolicy, admit, find_floor};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) use book::{Drills, Outcome, Shown};
use wanted::{Wanted, wanted};

use crate::clock::new_id;
use crate::decide::facts;
use crate::{Dataplane, Hints};

/// Longest time of one drill. A floor of ours says that it is busy long before.
const LIMIT: Duration = Duration::from_mins(1);
/// Tokens of the answer.
const TOKENS: u32 = 8;
/// Largest answer read, in bytes.
const ANSWER: usize = 64 << 10;
/// Deepest nesting of the question.
const DEPTH: usize = 8;

/// Runs until it is dropped.
pub(crate) async fn run(plane: Dataplane) {
    let mut changes = plane.snapshots().subscribe();
    let within = plane.config().drill_within;
    let mut running = FuturesUnordered::new();
    plane.drills().keep(declared(&plane), within);
    loop {
        for due in plane.drills().due(Instant::now()) {
            running.push(drill(&plane, due));
        }
        let next = plane.drills().next();
        tokio::select! {
            swapped = changes.changed() => {
                if swapped.is_err() {
                    return;
                }
                plane.drills().keep(declared(&plane), within);
            }
            Some(()) = running.next(), if !running.is_empty() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

fn declared(plane: &Dataplane) -> Vec<Wanted> {
    wanted(&plane.snapshots().current())
}

async fn drill(plane: &Dataplane, wanted: Wanted) {
    let started = Instant::now();
    let asked = timeout(LIMIT, ask(plane, &wanted)).await;
    let result = asked.unwrap_or(Err(Cause::Attempt(AttemptError::Timeout)));
    let (outcome, reason) = match &result {
        Ok(()) => (Outcome::Succeeded, None),
        Err(cause) => (cause.outcome(), Some(cause.reason())),
    };
    let backend = &wanted.floor;
    match outcome {
        Outcome::Succeeded | Outcome::Busy => {
            tracing::debug!(%backend, reason, outcome = outcome.as_str(), "floor drill");
        }
        Outcome::Failed | Outcome::Refused => {
            tracing::warn!(%backend, reason, "the floor did not answer a drill");
        }
    }
    plane.drills().ended(backend, outcome, started.elapsed());
}

/// Why a drill proved nothing.
#[derive(Debug)]
enum Cause {
    /// No backend of that name can be a floor.
    NoFloor,
    /// No level, and no model of it, that policy lets it serve.
    Refused,
    /// It is at a declared limit.
    Limited,
    /// It was asked.
    Attempt(AttemptError),
}

impl Cause {
    const fn outcome(&self) -> Outcome {
        match self {
            Self::Limited
            | Self::Attempt(AttemptError::Busy { .. } | AttemptError::RateLimited { .. }) => {
                Outcome::Busy
            }
            Self::Refused => Outcome::Refused,
            Self::NoFloor | Self::Attempt(_) => Outcome::Failed,
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::NoFloor => "NoFloor",
            Self::Refused => "Refused",
            Self::Limited => "Limited",
            Self::Attempt(error) => error.reason(),
        }
    }
}

/// Asks once, and reads the answer to its end.
async fn ask(plane: &Dataplane, wanted: &Wanted) -> Result<(), Cause> {
    let snapshot = plane.snapshots().current();
    let policy = mesh_routing::join(&snapshot, &wanted.caller);
    let (admitted, request, level) = question(plane, &snapshot, &policy, wanted)?;
    if !plane.limits().free(admitted.backend()) {
        return Err(Cause::Limited);
    }
    let outbound = Outbound {
        request: request.into(),
        // Another one each time, so that no cache answers and every pod has its turn.
        tenant: format!("drill/{}", new_id(plane.now())),
        level,
        latency: LatencyClass::Batch,
        sole: false,
        protect: policy.floor().is_some_and(|floor| floor.protect),
        overflow: Overflow::Refuse,
        drop_tools: false,
    };
    let answer = answer(plane, &admitted, outbound).await;
    answer.map_err(Cause::Attempt)
}

/// The question at the highest level that policy lets the floor have: a floor on rented hardware is none for
/// Restricted requests, and for all others it is.
fn question(
    plane: &Dataplane,
    snapshot: &Snapshot,
    policy: &EffectivePolicy,
    wanted: &Wanted,
) -> Result<(Admitted, ModelRequest, PrivacyLevel), Cause> {
    let now = plane.now();
    let floor = find_floor(snapshot, policy, now).filter(|floor| floor.id == wanted.floor);
    let floor = floor.ok_or(Cause::NoFloor)?;
    let levels = PrivacyLevel::ALL.into_iter().rev();
    let mut ways = levels.flat_map(|level| floor.models.iter().map(move |model| (level, model)));
    let found = ways.find_map(|(level, model)| {
        let request = request(&model.name)?;
        let hints = Hints {
            privacy: Some(level),
            latency: Some(LatencyClass::Batch),
            ..Hints::default()
        };
        let facts = facts(&request, policy, hints);
        let input = AdmitInput {
            policy,
            facts: &facts,
            local_only: false,
            embedding: None,
            overflow: false,
            // A drill is nobody's request.
            recorded: true,
            now,
        };
        let admitted = admit(&input, floor, &model.name).ok()?;
        Some((admitted, request, input.level()))
    });
    found.ok_or(Cause::Refused)
}

fn request(model: &str) -> Option<ModelRequest> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "Say yes."}],
        "max_tokens": TOKENS,
    });
    ModelRequest::parse(Surface::Chat, &Bytes::from(body.to_string()), DEPTH).ok()
}

async fn answer(
    plane: &Dataplane,
    admitted: &Admitted,
    outbound: Outbound,
) -> Result<(), AttemptError> {
    let mut events = plane.backends().start(admitted, outbound).await?.events;
    let mut whole = Whole::new(ANSWER);
    while let Some(event) = events.next().await {
        whole.push(event?).map_err(|_| AttemptError::InvalidBody {
            what: "larger than the answer to a drill may be",
        })?;
    }
    whole.complete().then_some(()).ok_or(AttemptError::Cut)
}
