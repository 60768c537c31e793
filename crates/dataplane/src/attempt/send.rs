//! Sending one attempt within its limits of time: the first token as a whole, then the silence
//! between tokens.

use std::time::Duration;

use futures::StreamExt;
use http::{HeaderName, HeaderValue};
use mesh_backends::{AttemptError, EventStream, Outbound};
use mesh_core::Degradation;
use mesh_core::policy::Overflow;
use mesh_protocol::Event;
use mesh_protocol::openai::write::Whole;
use mesh_routing::Admitted;
use tokio::time::timeout;

use super::Flight;
use crate::Dataplane;
use crate::respond::Report;

/// Events before the first token beyond which an upstream only pretends to answer.
const MOST_BEFORE_TOKEN: usize = 1024;

/// Limits of one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From the start to the first token; `None` for the floor.
    pub(super) first_token: Option<Duration>,
    /// Longest silence afterwards.
    pub(crate) between: Duration,
    /// The floor keeps half of its memory for requests without an alternative.
    pub(super) protect: bool,
    /// What the floor does with a prompt that is too large.
    pub(super) overflow: Overflow,
}

/// An attempt whose first token is there.
pub(crate) struct Opened {
    /// Everything up to the first token.
    pub(crate) first: Vec<Event>,
    /// What follows.
    pub(crate) events: EventStream,
    pub(super) context_trimmed: bool,
    pub(crate) system_fingerprint: Option<String>,
    /// Response headers of the upstream that may be passed on.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Starts the attempt and waits for its first token.
pub(super) async fn open(
    plane: &Dataplane,
    admitted: &Admitted,
    outbound: Outbound,
    limits: &Limits,
    flight: &mut Flight,
) -> Result<Opened, AttemptError> {
    let work = first_token(plane, admitted, outbound);
    // One limit around everything: headers and events that trickle do not get past it.
    let opened = match limits.first_token {
        Some(limit) => timeout(limit, work)
            .await
            .unwrap_or(Err(AttemptError::Timeout))?,
        None => work.await?,
    };
    flight.begin();
    Ok(opened)
}

async fn first_token(
    plane: &Dataplane,
    admitted: &Admitted,
    outbound: Outbound,
) -> Result<Opened, AttemptError> {
    let started = plane.backends().start(admitted, outbound).await?;
    let mut events = started.events;
    let mut first = Vec::new();
    while let Some(event) = events.next().await {
        first.push(event?);
        if first.last().is_some_and(Event::first_token) {
            return Ok(Opened {
                first,
                events,
                context_trimmed: started.context_trimmed,
                system_fingerprint: started.system_fingerprint,
                headers: started.headers,
            });
        }
        if first.len() > MOST_BEFORE_TOKEN {
            let what = "too many events before the first token";
            return Err(AttemptError::InvalidBody { what });
        }
    }
    Err(AttemptError::Cut)
}

/// Collects the whole answer.
pub(super) async fn collect(
    opened: &mut Opened,
    answer_limit: usize,
    limits: &Limits,
    flight: &mut Flight,
    report: &mut Report,
) -> Result<Whole, AttemptError> {
    let mut whole = Whole::new(answer_limit);
    let mut take = |event: Event| {
        flight.note(&event);
        if let Event::Finish {
            repetition: true, ..
        } = event
        {
            report.degrade(Degradation::FloorRepetition);
        }
        whole.push(event).map_err(|_| AttemptError::InvalidBody {
            what: "larger than an answer may be",
        })
    };
    for event in opened.first.drain(..) {
        take(event)?;
    }
    loop {
        match timeout(limits.between, opened.events.next()).await {
            Err(_) => return Err(AttemptError::Stalled),
            Ok(Some(event)) => take(event?)?,
            Ok(None) => break,
        }
    }
    if whole.complete() {
        Ok(whole)
    } else {
        Err(AttemptError::Cut)
    }
}
