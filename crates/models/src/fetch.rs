//! One file from one URL into a partial file: streamed, hashed on the way, resumed where it broke off.
//! Refuses redirects that leave https, encoded bodies, files above the limit, servers that trickle.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::digest::{Digest, Hasher, Stopped, hash_file};
use crate::error::{Error, SourceError, Stop};
use crate::place::{redirect, shown};
use crate::progress::Meter;
use crate::resolve::Settings;
use crate::store::{remove, write_atomically};

/// Bytes gathered before they are written and hashed on the blocking pool.
const BATCH: usize = 1024 * 1024;
/// A try that moved this much renews the allowance of tries.
const HEADWAY: u64 = 8 * 1024 * 1024;

/// One download.
pub(crate) struct Fetch<'a> {
    pub(crate) client: &'a Client,
    pub(crate) settings: &'a Settings,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) url: Url,
    /// The wanted digest; without one a partial file is only resumed from the same, unchanged URL.
    pub(crate) expected: Option<Digest>,
    pub(crate) partial: PathBuf,
}

/// A complete file, flushed to the disk, not yet judged.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) sha256: Digest,
    /// True if some bytes came from an earlier try, perhaps of another source.
    pub(crate) resumed: bool,
}

/// What is known of a partial file.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    url: String,
    etag: Option<String>,
}

/// The partial file, opened, with its hash so far.
struct Sink {
    file: File,
    hasher: Hasher,
    written: u64,
}

/// An answer whose body is the file from `start` on.
struct Body {
    response: Response,
    start: u64,
    total: Option<u64>,
}

impl Fetch<'_> {
    /// Downloads, trying again where it broke off. Whatever was received stays in the partial file,
    /// except on a full disk.
    pub(crate) async fn run(&self, meter: &mut Meter<'_>) -> Result<Fetched, Stop> {
        let mut tries = 0;
        loop {
            let before = self.present();
            let error = match self.once(meter).await {
                Err(Stop::Source(error)) if error.transient() => error,
                done => return done,
            };
            tries = if self.present() >= before + HEADWAY {
                1
            } else {
                tries + 1
            };
            if tries > self.settings.retries {
                return Err(error.into());
            }
            tracing::debug!(url = %shown(&self.url), reason = error.reason(), tries, "download is tried again");
            self.unless_cancelled(tokio::time::sleep(self.settings.retry_pause))
                .await?;
        }
    }

    fn present(&self) -> u64 {
        std::fs::metadata(&self.partial).map_or(0, |metadata| metadata.len())
    }

    fn note(&self) -> PathBuf {
        self.partial.with_extension("json")
    }

    /// Forgets what is there.
    pub(crate) fn discard(&self) -> Result<(), Error> {
        discard(&self.partial)
    }

    async fn once(&self, meter: &mut Meter<'_>) -> Result<Fetched, Stop> {
        let (present, validator) = self.resumable();
        let response = self.request(present, validator.as_deref()).await?;
        if present > 0 && complete(&response, present) {
            return Ok(Fetched {
                sha256: self.hash_present(present).await?.finish(),
                resumed: true,
            });
        }
        let body = self.judge(response, present)?;
        if body
            .total
            .is_some_and(|total| total > self.settings.max_bytes)
        {
            return Err(self.too_large()?.into());
        }
        self.write_note(body.response.headers())?;
        let (resumed, total) = (body.start > 0, body.total);
        let sink = self.open(body.start).await?;
        meter.start(sink.written, total);
        let sink = self.drain(sink, body, meter).await?;
        if let Some(announced) = total.filter(|total| *total != sink.written) {
            let received = sink.written;
            return Err(SourceError::Truncated {
                url: shown(&self.url),
                received,
                announced,
            }
            .into());
        }
        let path = self.partial.clone();
        let sha256 = blocking(move || {
            sink.file
                .sync_all()
                .map_err(|error| Error::store("flush", path, error))?;
            Ok(sink.hasher.finish())
        })
        .await?;
        Ok(Fetched { sha256, resumed })
    }

    /// How many bytes may be built on, and the validator that the server must confirm.
    fn resumable(&self) -> (u64, Option<String>) {
        let present = self.present();
        if self.expected.is_some() || present == 0 {
            return (present, None);
        }
        let origin = std::fs::read(self.note())
            .ok()
            .and_then(|note| serde_json::from_slice::<Origin>(&note).ok());
        match origin {
            Some(Origin {
                url,
                etag: Some(etag),
            }) if url == shown(&self.url) => (present, Some(etag)),
            _ => (0, None),
        }
    }

    fn write_note(&self, headers: &HeaderMap) -> Result<(), Error> {
        // A weak validator (W/) does not promise equal bytes.
        let etag = text(headers, header::ETAG)
            .filter(|etag| etag.starts_with('"'))
            .map(str::to_owned);
        let note = self.note();
        let origin = Origin {
            url: shown(&self.url),
            etag,
        };
        let text = serde_json::to_vec(&origin)
            .map_err(|error| Error::store("write", &note, error.into()))?;
        write_atomically(&note, &text)
    }

    fn too_large(&self) -> Result<SourceError, Error> {
        self.discard()?;
        Ok(SourceError::TooLarge {
            limit: self.settings.max_bytes,
        })
    }

    async fn request(&self, present: u64, validator: Option<&str>) -> Result<Response, Stop> {
        let mut url = self.url.clone();
        for _ in 0..=self.settings.max_redirects {
            let mut request = self
                .client
                .get(url.clone())
                .header(header::ACCEPT_ENCODING, "identity");
            if present > 0 {
                request = request.header(header::RANGE, format!("bytes={present}-"));
            }
            if let Some(etag) = validator {
                request = request.header(header::IF_RANGE, etag);
            }
            let response = self
                .in_time(request.send())
                .await?
                .map_err(|error| self.transport(error))?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let Some(location) = text(response.headers(), header::LOCATION) else {
                return Err(SourceError::Refused {
                    why: "redirect without a target".to_owned(),
                }
                .into());
            };
            url = redirect(&url, location)?;
        }
        Err(SourceError::Refused {
            why: format!("more than {} redirects", self.settings.max_redirects),
        }
        .into())
    }

    /// Decides what an answer's body is.
    fn judge(&self, response: Response, present: u64) -> Result<Body, Stop> {
        let (status, headers) = (response.status(), response.headers());
        let code = status.as_u16();
        let url = shown(&self.url);
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            self.discard()?;
        }
        let start = match code {
            200 => 0,
            206 => present,
            401 | 403 => return Err(SourceError::Denied { url, status: code }.into()),
            404 | 410 => return Err(SourceError::NotFound { what: url }.into()),
            status => return Err(SourceError::Status { url, status }.into()),
        };
        if text(headers, header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(SourceError::Refused {
                why: format!("{url} sends an encoded body"),
            }
            .into());
        }
        let length: Option<u64> =
            text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let total = match code {
            206 => content_range(headers)
                .filter(|(from, _)| *from == present)
                .map(|(_, total)| total),
            _ => Some(length),
        };
        let Some(total) = total else {
            // The server answers another range than asked for: begin again rather than trust it.
            self.discard()?;
            return Err(SourceError::Transport {
                url,
                problem: "wrong Content-Range".to_owned(),
            }
            .into());
        };
        let total = total.or_else(|| length.map(|length| start.saturating_add(length)));
        let delimited = total.is_some() || headers.contains_key(header::TRANSFER_ENCODING);
        if !delimited && self.expected.is_none() && response.version() < reqwest::Version::HTTP_2 {
            let why = format!(
                "{url} states no length and no sha256 is known, so a cut could not be noticed"
            );
            return Err(SourceError::Refused { why }.into());
        }
        Ok(Body {
            response,
            start,
            total,
        })
    }

    /// Opens the partial file at `start` and hashes what is before.
    async fn open(&self, start: u64) -> Result<Sink, Stop> {
        let hasher = match start {
            0 => Hasher::default(),
            _ => self.hash_present(start).await?,
        };
        let path = self.partial.clone();
        blocking(move || {
            let opened = OpenOptions::new()
                .create(true)
                .truncate(start == 0)
                .append(start > 0)
                .write(true)
                .open(&path);
            let file = opened.map_err(|error| Error::store("write", path, error))?;
            Ok(Sink {
                file,
                hasher,
                written: start,
            })
        })
        .await
    }

    async fn hash_present(&self, start: u64) -> Result<Hasher, Stop> {
        match hash_file(&self.partial, start, self.cancel, |_| {}).await {
            Ok((hasher, read)) if read == start => Ok(hasher),
            Ok(_) => Err(SourceError::Changed {
                path: self.partial.clone(),
            }
            .into()),
            Err(Stopped::Cancelled) => Err(Error::Cancelled.into()),
            Err(Stopped::Read(error)) => Err(Error::store("read", &self.partial, error).into()),
        }
    }

    async fn drain(&self, mut sink: Sink, body: Body, meter: &mut Meter<'_>) -> Result<Sink, Stop> {
        let mut stream = body.response.bytes_stream();
        let mut pace = Pace::new(self.settings);
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let ended = self.gather(&mut stream, &mut batch, &mut pace).await;
            let received = sink.written.saturating_add(batch.len() as u64);
            let ended = ended.map_err(|stop| self.cut(stop, received, body.total));
            let count = batch.len() as u64;
            if sink.written.saturating_add(count) > self.settings.max_bytes {
                return Err(self.too_large()?.into());
            }
            // Even when the stream broke, what came before is kept: the next try goes on from there.
            sink = self.append(sink, batch).await?;
            meter.at(sink.written);
            if body.total.is_some_and(|total| sink.written > total) {
                self.discard()?;
                let problem = "more bytes than announced".to_owned();
                return Err(SourceError::Transport {
                    url: shown(&self.url),
                    problem,
                }
                .into());
            }
            if ended? {
                return Ok(sink);
            }
        }
    }

    /// A connection that broke inside an announced body is a body that ended too early.
    fn cut(&self, stop: Stop, received: u64, total: Option<u64>) -> Stop {
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

    /// Fills a batch; true at the end of the body.
    async fn gather(
        &self,
        stream: &mut (impl Stream<Item = reqwest::Result<Bytes>> + Unpin),
        batch: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<bool, Stop> {
        while batch.len() < BATCH {
            match self.in_time(stream.next()).await? {
                None => return Ok(true),
                Some(Err(error)) => return Err(self.transport(error).into()),
                Some(Ok(chunk)) => {
                    batch.extend_from_slice(&chunk);
                    pace.moved(chunk.len() as u64, &self.url)?;
                }
            }
        }
        Ok(false)
    }

    async fn append(&self, mut sink: Sink, batch: Vec<u8>) -> Result<Sink, Stop> {
        let (path, note) = (self.partial.clone(), self.note());
        blocking(move || {
            if let Err(error) = sink.file.write_all(&batch) {
                return Err(given_up(&path, &note, Error::store("write", &path, error)));
            }
            sink.hasher.update(&batch);
            sink.written += batch.len() as u64;
            Ok(sink)
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let after = self.settings.read_timeout;
        match self
            .unless_cancelled(tokio::time::timeout(after, work))
            .await?
        {
            Ok(done) => Ok(done),
            Err(_) => Err(SourceError::Silent {
                url: shown(&self.url),
                after,
            }
            .into()),
        }
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::Cancelled.into()),
            done = work => Ok(done),
        }
    }

    fn transport(&self, error: reqwest::Error) -> SourceError {
        let error = error.without_url();
        let mut problem = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            problem = format!("{problem}: {next}");
            cause = next.source();
        }
        SourceError::Transport {
            url: shown(&self.url),
            problem,
        }
    }
}

/// Removes a partial file and what is noted of it.
pub(crate) fn discard(partial: &Path) -> Result<(), Error> {
    remove(partial)?;
    remove(&partial.with_extension("json"))
}

/// A full disk is not helped by keeping the file that filled it.
fn given_up(path: &Path, note: &Path, error: Error) -> Error {
    if matches!(error, Error::DiskFull { .. }) {
        // The full disk is the error to tell.
        let _ = remove(path);
        let _ = remove(note);
    }
    error
}

/// Watches for a server that sends just enough never to be silent.
struct Pace {
    minimum: u64,
    window: Duration,
    since: Instant,
    moved: u64,
}

impl Pace {
    fn new(settings: &Settings) -> Self {
        // Twice the silence limit, so that one long pause alone is judged by that limit.
        let window = settings.read_timeout * 2;
        Self {
            minimum: settings.min_bytes_per_second,
            window,
            since: Instant::now(),
            moved: 0,
        }
    }

    fn moved(&mut self, count: u64, url: &Url) -> Result<(), SourceError> {
        self.moved = self.moved.saturating_add(count);
        let elapsed = self.since.elapsed();
        if elapsed < self.window {
            return Ok(());
        }
        if self.moved < self.minimum.saturating_mul(elapsed.as_secs().max(1)) {
            return Err(SourceError::Slow {
                url: shown(url),
                limit: self.minimum,
            });
        }
        (self.since, self.moved) = (Instant::now(), 0);
        Ok(())
    }
}

/// True if a server says that there is nothing after the bytes that are present.
fn complete(response: &Response, present: u64) -> bool {
    let size = text(response.headers(), header::CONTENT_RANGE)
        .and_then(|range| range.strip_prefix("bytes */"));
    response.status() == StatusCode::RANGE_NOT_SATISFIABLE
        && size.and_then(|size| size.parse().ok()) == Some(present)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `bytes 5-9/10` as (5, Some(10)); `bytes 5-9/*` as (5, None).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text(headers, header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let from = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((from, None)),
        total => Some((from, Some(total.parse().ok()?))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Stop> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Stop::All),
        Err(gone) => {
            Err(Error::store("use", "the blocking pool", std::io::Error::other(gone)).into())
        }
    }
}
