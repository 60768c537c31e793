//! One file from one source into a partial file: streamed, hashed on the way, resumed where it broke off.
//! Refuses encoded bodies, files above the limit, servers that trickle.

mod body;
mod sink;

use std::path::{Path, PathBuf};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, SourceError, Stop};
use crate::http::{Answer, Asker, content_range, judge_status, strong_etag, text};
use crate::place::shown;
use crate::progress::Meter;
use crate::room;
use crate::store::{remove, write_atomically};
use crate::target::Target;
use body::Body;

/// A try that moved this much renews the allowance of tries.
const HEADWAY: u64 = 8 * 1024 * 1024;

/// One download.
pub(crate) struct Fetch<'a> {
    pub(crate) asker: Asker<'a>,
    pub(crate) target: Target,
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

impl Fetch<'_> {
    /// Downloads, trying again where it broke off. Whatever was received stays in the partial file,
    /// except on a full disk.
    pub(crate) async fn run(&self, meter: &mut Meter<'_>) -> Result<Fetched, Stop> {
        let settings = self.asker.settings;
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
            if tries > settings.retries {
                return Err(error.into());
            }
            tracing::debug!(
                url = self.shown(),
                reason = error.reason(),
                tries,
                "download is tried again"
            );
            let pause = tokio::time::sleep(settings.retry_pause);
            self.asker.unless_cancelled(pause).await?;
        }
    }

    fn shown(&self) -> String {
        shown(self.target.url())
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
        let answer = self.request(present, validator.as_deref()).await?;
        if present > 0 && complete(&answer.response, present) {
            return Ok(Fetched {
                sha256: self.hash_present(present).await?.finish(),
                resumed: true,
            });
        }
        let body = self.judge(answer, present)?;
        let limit = self.asker.settings.max_bytes;
        if body.total.is_some_and(|total| total > limit) {
            return Err(self.too_large()?.into());
        }
        self.fits(body.total)?;
        self.write_note(body.response.headers())?;
        let (resumed, total) = (body.start > 0, body.total);
        let sink = self.open(body.start).await?;
        meter.start(sink.written, total);
        let drained = self.drain(sink, body, meter).await;
        let sink = drained.map_err(|stop| room::needed(stop, total))?;
        if let Some(announced) = total.filter(|total| *total != sink.written) {
            let received = sink.written;
            return Err(SourceError::Truncated {
                url: self.shown(),
                received,
                announced,
            }
            .into());
        }
        Ok(Fetched {
            sha256: self.finish(sink).await?,
            resumed,
        })
    }

    /// What is announced larger than what is free is not begun: it would fill the disk for everybody on it. What is
    /// there stays for the next source.
    fn fits(&self, total: Option<u64>) -> Result<(), SourceError> {
        total.map_or(Ok(()), |total| {
            room::fits(&self.partial, self.present(), total)
        })
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
            }) if url == self.shown() => (present, Some(etag)),
            _ => (0, None),
        }
    }

    fn write_note(&self, headers: &HeaderMap) -> Result<(), Error> {
        let note = self.note();
        let origin = Origin {
            url: self.shown(),
            etag: strong_etag(headers).map(str::to_owned),
        };
        let text = serde_json::to_vec(&origin)
            .map_err(|error| Error::store("write", &note, error.into()))?;
        write_atomically(&note, &text)
    }

    fn too_large(&self) -> Result<SourceError, Error> {
        self.discard()?;
        let limit = self.asker.settings.max_bytes;
        Ok(SourceError::TooLarge { limit })
    }

    async fn request(&self, present: u64, validator: Option<&str>) -> Result<Answer, Stop> {
        let start = self.target.start(&self.asker).await?;
        let range = (present > 0).then(|| format!("bytes={present}-"));
        let headers = asked(range.as_deref(), validator);
        self.asker.get(&start, &headers).await
    }

    /// Decides what an answer's body is.
    fn judge(&self, answer: Answer, present: u64) -> Result<Body, Stop> {
        let Answer { response, from } = answer;
        let (status, headers) = (response.status(), response.headers());
        let url = self.shown();
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            self.discard()?;
        }
        judge_status(self.target.url(), status)?;
        let partial = status == StatusCode::PARTIAL_CONTENT;
        let start = if partial { present } else { 0 };
        if text(headers, header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(SourceError::Refused {
                why: format!("{url} sends an encoded body"),
            }
            .into());
        }
        let length: Option<u64> =
            text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let total = if partial {
            content_range(headers)
                .filter(|(from, _)| *from == present)
                .map(|(_, total)| total)
        } else {
            Some(length)
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
        if !delimited && self.expected.is_none() {
            let why = format!(
                "{url} states no length and no sha256 is known, so a cut could not be noticed"
            );
            return Err(SourceError::Refused { why }.into());
        }
        let pieces = self.pieces(headers, partial, start, total);
        Ok(Body {
            response,
            from,
            start,
            total,
            pieces,
        })
    }
}

/// Headers of a request for (a part of) the file.
fn asked(range: Option<&str>, validator: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    let pairs = [(header::RANGE, range), (header::IF_RANGE, validator)];
    for (name, value) in pairs {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Removes a partial file and what is noted of it.
pub(crate) fn discard(partial: &Path) -> Result<(), Error> {
    remove(partial)?;
    remove(&partial.with_extension("json"))
}

/// True if a server says that there is nothing after the bytes that are present.
fn complete(response: &Response, present: u64) -> bool {
    let size = text(response.headers(), header::CONTENT_RANGE)
        .and_then(|range| range.strip_prefix("bytes */"));
    response.status() == StatusCode::RANGE_NOT_SATISFIABLE
        && size.and_then(|size| size.parse().ok()) == Some(present)
}
