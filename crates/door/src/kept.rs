//! Response bodies that hold on to something until they have been sent or the caller has left.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// How a request ended (label `outcome` of `request_duration_seconds`): `ok`, a reason, or
/// `canceled`. The first word counts. Travels in the extensions of a response; a stream may fill it
/// while it is sent.
#[derive(Debug, Clone, Default)]
pub struct Outcome(Arc<OnceLock<&'static str>>);

impl Outcome {
    /// Ended already.
    pub fn of(word: &'static str) -> Self {
        let outcome = Self::default();
        outcome.set(word);
        outcome
    }

    /// Says how it ended, unless somebody has.
    pub fn set(&self, word: &'static str) {
        let _ = self.0.set(word);
    }

    /// The word, if somebody has said one.
    pub fn get(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// A body with something that is dropped when the body is sent, or given up. `finished` tells the
/// kept thing that everything was sent.
pub struct Kept<K: Finished> {
    body: Body,
    keep: K,
}

/// Wants to know whether a body was sent to its end.
pub trait Finished: Send + Unpin + 'static {
    /// Everything was handed to the connection.
    fn finished(&mut self);
}

impl<K: Finished> Kept<K> {
    /// Wraps `body`.
    pub fn wrap(body: Body, mut keep: K) -> Body {
        if body.is_end_stream() {
            keep.finished();
            return body;
        }
        Body::new(Self { body, keep })
    }
}

impl<K: Finished> HttpBody for Kept<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        let ended = matches!(polled, Poll::Ready(None));
        if ended || (polled.is_ready() && this.body.is_end_stream()) {
            this.keep.finished();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
