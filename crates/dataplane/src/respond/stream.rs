//! A streamed answer. The body pulls events from the backend when the connection can take them, so
//! a slow caller slows the backend instead of filling memory, a fast one waits for nothing, and a
//! caller who leaves drops the work. No task of its own, no channel.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use http_body::{Body as HttpBody, Frame};
use mesh_backends::{AttemptError, EventStream};
use mesh_core::Degradation;
use mesh_protocol::Event;
use mesh_protocol::openai::write::{self, ChunkWriter, Head};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Error, Outcome, Report};
use crate::attempt::Flight;

/// What is ready is merged into one frame up to this size: one write instead of many. Nothing waits
/// for more to come.
const FRAME: usize = 16 * 1024;

/// An answer whose first token is there.
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) report: Report,
    /// Everything up to the first token.
    pub(crate) first: Vec<Event>,
    /// What follows.
    pub(crate) events: EventStream,
    pub(crate) flight: Flight,
    /// Longest silence between tokens.
    pub(crate) between: Duration,
    pub(crate) include_usage: bool,
}

/// The answer as `text/event-stream`.
pub(crate) fn sse(answer: Answer) -> Response {
    let outcome = Outcome::default();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.report.write(headers);
    response.extensions_mut().insert(outcome.clone());

    let mut body = SseBody {
        writer: ChunkWriter::new(&answer.head, answer.include_usage),
        out: Vec::with_capacity(1024),
        open: Vec::new(),
        report: answer.report,
        events: Some(answer.events),
        flight: answer.flight,
        between: answer.between,
        outcome,
        waiting_since: None,
        alarm: None,
    };
    for event in &answer.first {
        body.take(event);
    }
    response.map(|_| Body::new(body))
}

struct SseBody {
    writer: ChunkWriter,
    /// Written and not yet handed on.
    out: Vec<u8>,
    /// Choices that have begun, and whether each is finished.
    open: Vec<(u32, bool)>,
    report: Report,
    /// `None` once the last frame is written.
    events: Option<EventStream>,
    flight: Flight,
    between: Duration,
    outcome: Outcome,
    /// Since when the backend keeps us waiting; a slow caller does not count against it.
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl SseBody {
    /// Writes one event.
    fn take(&mut self, event: &Event) {
        self.flight.note(event);
        match event {
            Event::Finish {
                choice, repetition, ..
            } => {
                if *repetition {
                    self.report.degrade(Degradation::FloorRepetition);
                }
                self.begin(*choice, true);
                self.writer
                    .write(event, &self.report.object(), &mut self.out);
                return;
            }
            Event::Text { choice, .. }
            | Event::Reasoning { choice, .. }
            | Event::Refusal { choice, .. }
            | Event::ToolCalls { choice, .. }
            | Event::Other { choice, .. } => self.begin(*choice, false),
            Event::Usage(_) | Event::Embeddings(_) => {}
        }
        self.writer
            .write(event, &serde_json::Value::Null, &mut self.out);
    }

    fn begin(&mut self, choice: u32, finished: bool) {
        match self.open.iter_mut().find(|(open, _)| *open == choice) {
            Some((_, done)) => *done |= finished,
            None => self.open.push((choice, finished)),
        }
    }

    /// True if every choice that began has a finish reason: anything else was cut.
    fn complete(&self) -> bool {
        !self.open.is_empty() && self.open.iter().all(|(_, finished)| *finished)
    }

    fn finish(&mut self) {
        self.events = None;
        self.outcome.set("ok");
        self.flight.succeed();
        self.flight.degraded(&self.report.degraded);
        write::done(&mut self.out);
    }

    fn fail(&mut self, error: &AttemptError) {
        self.events = None;
        self.flight.fail(error);
        let error = Error::StreamInterrupted {
            cause: cause(error),
        };
        self.outcome.set(error.reason().as_str());
        write::failed(&error.body(), &mut self.out);
    }

    /// Waits for the backend no longer than the policy lets it be silent.
    fn stalled(&mut self, context: &mut Context<'_>) -> bool {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let end = since + self.between;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(end)));
        // The alarm is set anew only when it rings: a token costs no timer.
        while alarm.as_mut().poll(context).is_ready() {
            if Instant::now() >= end {
                return true;
            }
            alarm.as_mut().reset(end);
        }
        false
    }

    /// Pulls what is there. True if something can be handed on, or nothing more will come.
    fn pull(&mut self, context: &mut Context<'_>) -> bool {
        while let Some(events) = &mut self.events {
            match events.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(event))) => {
                    self.waiting_since = None;
                    self.take(&event);
                }
                Poll::Ready(Some(Err(error))) => self.fail(&error),
                Poll::Ready(None) if self.complete() => self.finish(),
                Poll::Ready(None) => self.fail(&AttemptError::Cut),
                Poll::Pending if !self.out.is_empty() => return true,
                Poll::Pending => {
                    if !self.stalled(context) {
                        return false;
                    }
                    self.fail(&AttemptError::Stalled);
                }
            }
            if self.out.len() >= FRAME {
                return true;
            }
        }
        true
    }
}

impl HttpBody for SseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if !this.pull(context) {
            return Poll::Pending;
        }
        if this.out.is_empty() {
            return Poll::Ready(None);
        }
        let frame = Bytes::from(std::mem::take(&mut this.out));
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.events.is_none() && self.out.is_empty()
    }
}

/// For the caller: what kind of end it was, without a word of the answer.
fn cause(error: &AttemptError) -> &'static str {
    match error {
        AttemptError::Stalled => "the backend stopped sending",
        AttemptError::Cut => "the backend ended before it was finished",
        _ => "the backend failed while it was answering",
    }
}
