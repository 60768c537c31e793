//! The answer of an upstream as events: a stream read event by event, or a whole body read at once.
//! Both own the response, so dropping the events closes the connection (HTTP/1) or resets the
//! stream (HTTP/2) at once.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use http::header::CONTENT_TYPE;
use mesh_protocol::openai::read::{self, ChunkReader, ReadError};
use mesh_protocol::sse::{self, Reader, SseEvent};
use mesh_protocol::{Event, Surface};
use reqwest::Response;
use tokio::time::timeout;

use crate::scrub::Scrubber;
use crate::{AttemptError, EventStream, failure};

/// How long the end of a complete answer is waited for, so that its connection can be used again.
const TRAILER_TIME: Duration = Duration::from_millis(50);

/// What the reader has to know about the request.
pub(crate) struct Expected {
    pub(crate) surface: Surface,
    /// Choices asked for.
    pub(crate) n: u32,
    /// Inputs of an embeddings request.
    pub(crate) inputs: usize,
    /// Declared length of vectors.
    pub(crate) dimensions: Option<u32>,
    pub(crate) answer_limit: usize,
    pub(crate) event_limit: usize,
}

/// Whether the content type is what was asked for.
pub(crate) fn check_type(response: &Response, stream: bool) -> Result<(), AttemptError> {
    let Some(value) = response.headers().get(CONTENT_TYPE) else {
        return Err(match response.content_length() {
            Some(0) => AttemptError::InvalidBody {
                what: "an empty body",
            },
            _ => AttemptError::ContentType,
        });
    };
    let kind = value.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let right = if stream {
        kind == "text/event-stream"
    } else {
        kind == "application/json" || kind.ends_with("+json")
    };
    if right {
        Ok(())
    } else {
        Err(AttemptError::ContentType)
    }
}

/// Events of a streamed answer.
pub(crate) fn streamed(response: Response, expected: &Expected, scrubber: Scrubber) -> EventStream {
    let answer = Answer {
        body: response.bytes_stream().boxed(),
        frames: Reader::new(sse::Limits::of(expected.event_limit)),
        chunks: ChunkReader::new(expected.surface, expected.n),
        scrubber,
        ready: VecDeque::new(),
        answering: false,
        state: State::Reading,
    };
    fused(stream::unfold(answer, |mut answer| async move {
        answer.next().await.map(|item| (item, answer))
    }))
}

/// Events of a whole answer, read when they are asked for.
pub(crate) fn whole(response: Response, expected: Expected, scrubber: Scrubber) -> EventStream {
    let read = async move {
        let events = match read_whole(response, &expected, &scrubber).await {
            Ok(events) => events.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(events)
    };
    fused(stream::once(read).flatten())
}

fn fused(events: impl Stream<Item = Result<Event, AttemptError>> + Send + 'static) -> EventStream {
    Box::pin(events.fuse())
}

async fn read_whole(
    response: Response,
    expected: &Expected,
    scrubber: &Scrubber,
) -> Result<Vec<Event>, AttemptError> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| AttemptError::Cut)?;
        if body.len() + piece.len() > expected.answer_limit {
            return Err(AttemptError::InvalidBody {
                what: "larger than the limit",
            });
        }
        body.extend_from_slice(&piece);
    }
    let events = match expected.surface {
        Surface::Embeddings => read::vectors(&body),
        Surface::Chat | Surface::Completions => read::answer(expected.surface, &body),
    }
    .map_err(|error| failure::unreadable(error, false, scrubber))?;
    check_vectors(&events, expected)?;
    Ok(events)
}

/// Vectors of another length or number than declared would poison an index without a trace.
fn check_vectors(events: &[Event], expected: &Expected) -> Result<(), AttemptError> {
    let Some(Event::Embeddings(vectors)) = events.first() else {
        return Ok(());
    };
    if vectors.len() != expected.inputs {
        return Err(AttemptError::InvalidBody {
            what: "another number of vectors than inputs",
        });
    }
    let first = vectors.first().map_or(0, |first| first.vector.len());
    let declared = match expected.dimensions {
        Some(declared) => declared as usize,
        None => first,
    };
    match vectors
        .iter()
        .find(|embedding| embedding.vector.len() != declared)
    {
        None => Ok(()),
        Some(other) => Err(AttemptError::Dimensions {
            declared: u32::try_from(declared).unwrap_or(u32::MAX),
            answered: u32::try_from(other.vector.len()).unwrap_or(u32::MAX),
        }),
    }
}

/// Where the reader of a stream stands.
enum State {
    /// More may come.
    Reading,
    /// It ended badly; the error comes after what was read before it.
    Failed(AttemptError),
    /// The answer is complete; the connection may have a trailer.
    Complete,
    /// Nothing follows.
    Over,
}

/// A streamed answer on its way.
struct Answer {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    frames: Reader,
    chunks: ChunkReader,
    scrubber: Scrubber,
    ready: VecDeque<Event>,
    /// A first token was read.
    answering: bool,
    state: State,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<Event, AttemptError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            match std::mem::replace(&mut self.state, State::Over) {
                State::Reading => {
                    self.state = State::Reading;
                    self.read().await;
                }
                State::Failed(error) => return Some(Err(error)),
                State::Complete => self.drain().await,
                State::Over => return None,
            }
        }
    }

    async fn read(&mut self) {
        let mut frames = Vec::new();
        match self.body.next().await {
            Some(Ok(bytes)) => {
                let read = self.frames.read(&bytes, &mut frames);
                self.take(frames);
                if read.is_err() && matches!(self.state, State::Reading) {
                    self.state = State::Failed(AttemptError::InvalidBody {
                        what: "an event larger than the limit",
                    });
                }
            }
            // A connection that breaks after the last finish reason breaks nothing.
            Some(Err(_)) => self.end(false),
            None => {
                frames.extend(self.frames.finish().ok().flatten());
                self.take(frames);
                if matches!(self.state, State::Reading) {
                    self.end(false);
                }
            }
        }
    }

    fn take(&mut self, frames: Vec<SseEvent>) {
        for frame in frames {
            if frame.data.trim_ascii() == sse::DONE {
                return self.end(true);
            }
            if let Err(error) = self.chunk(&frame) {
                self.state =
                    State::Failed(failure::unreadable(error, self.answering, &self.scrubber));
                return;
            }
        }
    }

    fn chunk(&mut self, frame: &SseEvent) -> Result<(), ReadError> {
        let mut events = Vec::new();
        let read = if frame.event == "error" {
            let said = read::UpstreamError::read(frame.data.as_bytes());
            Err(ReadError::Upstream(Box::new(said)))
        } else {
            self.chunks.read(&frame.data, &mut events)
        };
        self.answering |= events.iter().any(Event::first_token);
        self.ready.extend(events);
        read
    }

    /// The upstream has no more to say.
    fn end(&mut self, done: bool) {
        if self.chunks.complete(done) {
            let usage = self.chunks.take_usage();
            self.ready.extend(usage.map(Event::Usage));
            self.state = State::Complete;
        } else {
            self.state = State::Failed(AttemptError::Cut);
        }
    }

    /// Reads the end of the body, so that the connection goes back to the pool instead of being
    /// closed. What comes is dropped.
    async fn drain(&mut self) {
        let end = async {
            for _ in 0..16 {
                if !matches!(self.body.next().await, Some(Ok(_))) {
                    break;
                }
            }
        };
        let _in_time = timeout(TRAILER_TIME, end).await.is_ok();
    }
}
