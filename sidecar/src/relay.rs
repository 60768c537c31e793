//! The answer of a peer on its way to the application: every piece as it comes, nothing collected. If it is
//! cut between two events, an event says so; elsewhere the connection ends, which no reader takes for the end.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_core::Reason;
use mesh_door::{Error, Outcome};

use crate::meter::{Meter, Whose};

/// The body of an answer.
struct Relay {
    body: Incoming,
    events: bool,
    between: bool,
    /// Nothing follows.
    ended: bool,
    meter: Option<Meter>,
    outcome: Outcome,
}

/// What the application gets of an answer, with these headers. `count`: whose tokens these are, and whether the
/// application did not ask a stream for its usage.
pub(crate) fn relay(
    answer: http::Response<Incoming>,
    headers: HeaderMap,
    count: Option<(Whose, bool)>,
) -> Response {
    let outcome = Outcome::default();
    if let Some(word) = word(&answer) {
        outcome.set(word);
    }
    let events = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let status = answer.status();
    let body = answer.into_body();
    // What has a length ends with it.
    let events = events && body.size_hint().exact().is_none();
    let meter = count.map(|(whose, hide)| {
        if events {
            Meter::events(whose, hide)
        } else {
            Meter::whole(whose)
        }
    });
    let body = Body::new(Relay {
        body,
        events,
        between: true,
        ended: false,
        meter,
        outcome: outcome.clone(),
    });
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.extensions_mut().insert(outcome);
    response
}

/// How a request ended, if the head says so already.
pub(crate) fn word<B>(answer: &http::Response<B>) -> Option<&'static str> {
    let reason = answer.headers().get("mesh-reason");
    let known = reason.and_then(|reason| Reason::of(reason.as_bytes()));
    let other = (!answer.status().is_success()).then_some(Reason::UpstreamRejected);
    known.or(other).map(Reason::as_str)
}

fn interrupted() -> Bytes {
    let error = Error::StreamInterrupted {
        cause: "the connection to the mesh was cut",
    };
    let body = serde_json::to_string(&error.body()).unwrap_or_default();
    Bytes::from(format!("data: {body}\n\n"))
}

impl Relay {
    /// What of a frame goes on now.
    fn passed(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Some(trailers),
        };
        let Some(meter) = &mut self.meter else {
            if !data.is_empty() {
                self.between = data.ends_with(b"\n\n");
            }
            return Some(Frame::data(data));
        };
        let data = meter.piece(data);
        self.between = meter.between();
        if self.body.is_end_stream() {
            // Of what has a length nobody asks for more.
            self.ended = true;
            meter.end();
        }
        (!data.is_empty()).then(|| Frame::data(data))
    }
}

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(frame) = self.passed(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    // All of it is held back.
                }
                Poll::Ready(Some(Err(error))) => {
                    self.outcome.set(Reason::StreamInterrupted.as_str());
                    if self.events && self.between {
                        self.ended = true;
                        return Poll::Ready(Some(Ok(Frame::data(interrupted()))));
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    let rest = self.meter.as_mut().map(Meter::end);
                    let rest = rest.filter(|rest| !rest.is_empty());
                    return Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A meter still has to count, and may hold something back.
        self.ended || (self.meter.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
