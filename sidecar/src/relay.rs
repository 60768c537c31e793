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

/// The body of an answer.
struct Relay {
    body: Incoming,
    events: bool,
    between: bool,
    cut: bool,
    outcome: Outcome,
}

/// What the application gets of an answer, with these headers.
pub(crate) fn relay(answer: http::Response<Incoming>, headers: HeaderMap) -> Response {
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
    let body = Body::new(Relay {
        body,
        events,
        between: true,
        cut: false,
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

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.cut {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                    self.between = data.ends_with(b"\n\n");
                }
            }
            Poll::Ready(Some(Err(_))) => {
                self.outcome.set(Reason::StreamInterrupted.as_str());
                if self.events && self.between {
                    self.cut = true;
                    return Poll::Ready(Some(Ok(Frame::data(interrupted()))));
                }
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.cut || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
