//! From an answer to the partial file: one connection, or several that each bring a piece. Pieces are
//! written and hashed in order, so what is on the disk is always the beginning of the file, and memory
//! is bounded by the pieces on their way.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};

use super::sink::Sink;
use super::{Fetch, asked};
use crate::error::{SourceError, Stop};
use crate::http::{Pace, Start, content_range, strong_etag, text, transport};
use crate::progress::Meter;

/// Bytes gathered before they are written and hashed on the blocking pool.
const BATCH: usize = 1024 * 1024;

/// An answer whose body is the file from `start` on.
pub(super) struct Body {
    pub(super) response: Response,
    /// Where the redirects led.
    pub(super) from: Start,
    pub(super) start: u64,
    pub(super) total: Option<u64>,
    /// Set if several connections may share the rest.
    pub(super) pieces: Option<Pieces>,
}

/// What every piece must agree with.
pub(super) struct Pieces {
    etag: String,
    total: u64,
}

/// A part of the file; the first one comes from the answer that is open already.
struct Piece {
    open: Option<Response>,
    start: u64,
    end: u64,
}

impl Fetch<'_> {
    /// Whether several connections are worth it and safe: the server says that it can begin anywhere and
    /// has a validator, so that pieces of two versions of a file are never mixed.
    pub(super) fn pieces(
        &self,
        headers: &HeaderMap,
        partial: bool,
        start: u64,
        total: Option<u64>,
    ) -> Option<Pieces> {
        let settings = self.asker.settings;
        let total = total?;
        let ranges = partial
            || text(headers, header::ACCEPT_RANGES)
                .is_some_and(|unit| unit.eq_ignore_ascii_case("bytes"));
        let worth = settings.connections > 1
            && settings.piece > 0
            && total.saturating_sub(start) > settings.parallel_from;
        let etag = strong_etag(headers)?.to_owned();
        (ranges && worth).then_some(Pieces { etag, total })
    }

    pub(super) async fn drain(
        &self,
        sink: Sink,
        mut body: Body,
        meter: &mut Meter<'_>,
    ) -> Result<Sink, Stop> {
        match body.pieces.take() {
            Some(pieces) => self.drain_pieces(sink, body, &pieces, meter).await,
            None => self.drain_whole(sink, body, meter).await,
        }
    }

    async fn drain_whole(
        &self,
        mut sink: Sink,
        body: Body,
        meter: &mut Meter<'_>,
    ) -> Result<Sink, Stop> {
        let mut stream = body.response.bytes_stream();
        let mut pace = Pace::new(self.asker.settings);
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let ended = self.gather(&mut stream, &mut batch, &mut pace).await;
            let received = sink.written.saturating_add(batch.len() as u64);
            let ended = ended.map_err(|stop| cut(stop, received, body.total));
            if received > self.asker.settings.max_bytes {
                return Err(self.too_large()?.into());
            }
            // Even when the stream broke, what came before is kept: the next try goes on from there.
            sink = self.append(sink, batch).await?;
            meter.at(sink.written);
            if body.total.is_some_and(|total| sink.written > total) {
                self.discard()?;
                return Err(self.broken("more bytes than announced").into());
            }
            if ended? {
                return Ok(sink);
            }
        }
    }

    /// Fills a batch; true at the end of the body.
    async fn gather(
        &self,
        stream: &mut (impl Stream<Item = reqwest::Result<Bytes>> + Unpin),
        batch: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<bool, Stop> {
        let url = self.target.url();
        while batch.len() < BATCH {
            match self.asker.in_time(url, stream.next()).await? {
                None => return Ok(true),
                Some(Err(error)) => return Err(transport(url, error).into()),
                Some(Ok(chunk)) => {
                    batch.extend_from_slice(&chunk);
                    pace.moved(chunk.len() as u64, url)?;
                }
            }
        }
        Ok(false)
    }

    async fn drain_pieces(
        &self,
        mut sink: Sink,
        body: Body,
        pieces: &Pieces,
        meter: &mut Meter<'_>,
    ) -> Result<Sink, Stop> {
        let settings = self.asker.settings;
        let mut open = Some(body.response);
        let (from, mut at) = (&body.from, body.start);
        let parts = std::iter::from_fn(|| {
            let start = at;
            at = start.saturating_add(settings.piece).min(pieces.total);
            (start < at).then(|| Piece {
                open: open.take(),
                start,
                end: at,
            })
        });
        let mut arriving = futures::stream::iter(parts)
            .map(|piece| self.piece(from, pieces, piece))
            .buffered(settings.connections);
        let mut next = arriving.next().await;
        while let Some(piece) = next {
            // The others go on arriving while this one is written.
            let (written, following) = tokio::join!(self.append(sink, piece?), arriving.next());
            sink = written?;
            meter.at(sink.written);
            next = following;
        }
        Ok(sink)
    }

    async fn piece(&self, from: &Start, pieces: &Pieces, piece: Piece) -> Result<Vec<u8>, Stop> {
        let url = self.target.url();
        let (start, end) = (piece.start, piece.end);
        let response = match piece.open {
            Some(response) => response,
            None => self.ask(from, pieces, start, end).await?,
        };
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(length.min(BATCH));
        let mut stream = response.bytes_stream();
        let mut pace = Pace::new(self.asker.settings);
        while bytes.len() < length {
            let chunk = match self.asker.in_time(url, stream.next()).await? {
                Some(Ok(chunk)) => chunk,
                ended => {
                    let error = match ended {
                        Some(Err(error)) => transport(url, error),
                        _ => self.broken("a piece ended too early"),
                    };
                    let received = start.saturating_add(bytes.len() as u64);
                    return Err(cut(error.into(), received, Some(pieces.total)));
                }
            };
            pace.moved(chunk.len() as u64, url)?;
            // The answer that was open first has the whole rest of the file.
            let wanted = chunk.len().min(length - bytes.len());
            bytes.extend_from_slice(chunk.get(..wanted).unwrap_or_default());
        }
        Ok(bytes)
    }

    /// Asks for one piece of the very file that the first answer was about.
    async fn ask(
        &self,
        from: &Start,
        pieces: &Pieces,
        start: u64,
        end: u64,
    ) -> Result<Response, Stop> {
        let range = format!("bytes={start}-{}", end - 1);
        let headers = asked(Some(&range), Some(&pieces.etag));
        let response = self.asker.get(from, &headers).await?.response;
        let status = response.status();
        let same = strong_etag(response.headers()).is_none_or(|etag| etag == pieces.etag);
        let right = content_range(response.headers()) == Some((start, Some(pieces.total)));
        if status == StatusCode::PARTIAL_CONTENT && same && right {
            return Ok(response);
        }
        if matches!(status.as_u16(), 200 | 206 | 412 | 416) {
            // Another file by now: nothing of the old one may be built on.
            self.discard()?;
            return Err(self.broken("it changed while it was fetched").into());
        }
        // A signed link that expired, most likely: the next try asks the source itself again.
        Err(self
            .broken(&format!("a piece was answered with {status}"))
            .into())
    }

    fn broken(&self, problem: &str) -> SourceError {
        SourceError::Transport {
            url: self.shown(),
            problem: problem.to_owned(),
        }
    }
}

/// A connection that broke inside an announced body is a body that ended too early.
fn cut(stop: Stop, received: u64, total: Option<u64>) -> Stop {
    match (stop, total) {
        (Stop::Source(SourceError::Transport { url, .. }), Some(announced))
            if received < announced =>
        {
            SourceError::Truncated {
                url,
                received,
                announced,
            }
            .into()
        }
        (stop, _) => stop,
    }
}
