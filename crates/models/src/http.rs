//! Requests of one source: within time limits, given up when the caller leaves, redirects followed by
//! hand. Refuses to carry credentials to another origin.

use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::{Error, SourceError, Stop};
use crate::place::{redirect, shown};
use crate::resolve::Settings;

/// Whoever asks, with its limits.
#[derive(Clone)]
pub(crate) struct Asker<'a> {
    pub(crate) client: Client,
    pub(crate) settings: &'a Settings,
    pub(crate) cancel: &'a CancellationToken,
}

/// Where a request begins, and the credentials for that place alone.
#[derive(Clone)]
pub(crate) struct Start {
    pub(crate) url: Url,
    pub(crate) authorization: Option<HeaderValue>,
}

/// An answer, and where the redirects led.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) from: Start,
}

impl Asker<'_> {
    /// A GET; what it answers is the caller's to judge.
    pub(crate) async fn get(&self, start: &Start, headers: &HeaderMap) -> Result<Answer, Stop> {
        let mut from = start.clone();
        for _ in 0..=self.settings.max_redirects {
            let mut request = self.client.get(from.url.clone()).headers(headers.clone());
            if let Some(authorization) = &from.authorization {
                request = request.header(header::AUTHORIZATION, authorization.clone());
            }
            let response = self
                .in_time(&from.url, request.send())
                .await?
                .map_err(|error| transport(&start.url, error))?;
            if !is_redirect(response.status()) {
                return Ok(Answer { response, from });
            }
            let Some(location) = text(response.headers(), header::LOCATION) else {
                return Err(SourceError::Refused {
                    why: "redirect without a target".to_owned(),
                }
                .into());
            };
            let url = redirect(&from.url, location)?;
            // Once gone they stay gone, also if a later redirect leads back.
            let authorization = from
                .authorization
                .filter(|_| url.origin() == start.url.origin());
            from = Start { url, authorization };
        }
        Err(SourceError::Refused {
            why: format!("more than {} redirects", self.settings.max_redirects),
        }
        .into())
    }

    /// A small body, of at most `limit` bytes.
    pub(crate) async fn small(
        &self,
        response: Response,
        url: &Url,
        limit: u64,
    ) -> Result<Vec<u8>, Stop> {
        let mut stream = response.bytes_stream();
        let mut body = Vec::new();
        let mut pace = Pace::new(self.settings);
        while let Some(chunk) = self.in_time(url, stream.next()).await? {
            let chunk = chunk.map_err(|error| transport(url, error))?;
            body.extend_from_slice(&chunk);
            if body.len() as u64 > limit {
                return Err(SourceError::TooLarge { limit }.into());
            }
            pace.moved(chunk.len() as u64, url)?;
        }
        Ok(body)
    }

    pub(crate) async fn in_time<T>(
        &self,
        url: &Url,
        work: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        let after = self.settings.read_timeout;
        match self
            .unless_cancelled(tokio::time::timeout(after, work))
            .await?
        {
            Ok(done) => Ok(done),
            Err(_) => Err(SourceError::Silent {
                url: shown(url),
                after,
            }
            .into()),
        }
    }

    pub(crate) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::Cancelled.into()),
            done = work => Ok(done),
        }
    }
}

/// What a broken connection says, with its causes and without its URL.
pub(crate) fn transport(url: &Url, error: reqwest::Error) -> SourceError {
    let error = error.without_url();
    let mut problem = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        problem = format!("{problem}: {next}");
        cause = next.source();
    }
    SourceError::Transport {
        url: shown(url),
        problem,
    }
}

/// The statuses that are no file, as what they mean.
pub(crate) fn judge_status(url: &Url, status: StatusCode) -> Result<(), SourceError> {
    let url = shown(url);
    match status.as_u16() {
        200 | 206 => Ok(()),
        status @ (401 | 403) => Err(SourceError::Denied { url, status }),
        404 | 410 => Err(SourceError::NotFound { what: url }),
        status => Err(SourceError::Status { url, status }),
    }
}

/// Watches for a server that sends just enough never to be silent.
pub(crate) struct Pace {
    minimum: u64,
    window: Duration,
    since: Instant,
    moved: u64,
}

impl Pace {
    pub(crate) fn new(settings: &Settings) -> Self {
        // Twice the silence limit, so that one long pause alone is judged by that limit.
        let window = settings.read_timeout * 2;
        Self {
            minimum: settings.min_bytes_per_second,
            window,
            since: Instant::now(),
            moved: 0,
        }
    }

    pub(crate) fn moved(&mut self, count: u64, url: &Url) -> Result<(), SourceError> {
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

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `bytes 5-9/10` as (5, Some(10)); `bytes 5-9/*` as (5, None).
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text(headers, header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let from = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((from, None)),
        total => Some((from, Some(total.parse().ok()?))),
    }
}

/// A validator that promises equal bytes; a weak one (`W/`) does not.
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::ETAG).filter(|etag| etag.starts_with('"'))
}
