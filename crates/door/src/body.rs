//! Taking in a body: bounded in size, time and in what all bodies together hold.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, header};
use tokio::sync::OwnedSemaphorePermit;

use crate::{Error, Memory};

/// Limits of bodies.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Largest body in bytes.
    pub bytes: usize,
    /// Memory for all bodies.
    pub memory: &'a Memory,
    /// Longest time a body may take.
    pub within: Duration,
}

/// A body, and its part of the memory for all bodies, which it has as long as this is held.
#[derive(Debug)]
pub struct Taken {
    /// All of it. Never printed.
    pub bytes: Bytes,
    /// Its part of the memory.
    pub held: OwnedSemaphorePermit,
}

/// Takes in a whole body.
///
/// # Errors
/// If it is too large, too slow, cannot be read, or there is no memory left for it.
pub async fn take(headers: &HeaderMap, body: Body, limits: Limits<'_>) -> Result<Taken, Error> {
    let limit = limits.bytes;
    if announced(headers).is_some_and(|length| length > limit as u64) {
        return Err(Error::RequestTooLarge { limit });
    }
    let expected =
        announced(headers).map_or(limit, |length| usize::try_from(length).unwrap_or(limit));
    // Many large bodies at once must not take the machine's memory.
    let held = limits.memory.hold(expected)?;
    let bytes = collect(body, limit, limits.within).await?;
    Ok(Taken { bytes, held })
}

/// True for `application/json`, with or without parameters.
pub fn json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let text = value.to_str().unwrap_or_default();
    let kind = text.split_once(';').map_or(text, |(kind, _)| kind);
    kind.trim().eq_ignore_ascii_case("application/json")
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

async fn collect(body: Body, limit: usize, within: Duration) -> Result<Bytes, Error> {
    tokio::time::timeout(within, gather(body, limit))
        .await
        .unwrap_or(Err(Error::RequestTimeout { limit: within }))
}

async fn gather(body: Body, limit: usize) -> Result<Bytes, Error> {
    let mut frames = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut only: Option<Bytes> = None;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| Error::InvalidRequest {
            message: String::from("the request body could not be read"),
            param: None,
        })?;
        let so_far = whole.len() + only.as_ref().map_or(0, Bytes::len);
        if so_far + frame.len() > limit {
            return Err(Error::RequestTooLarge { limit });
        }
        // Most bodies are one frame: those are not copied.
        match only.take() {
            None if whole.is_empty() => only = Some(frame),
            first => {
                whole.extend_from_slice(&first.unwrap_or_default());
                whole.extend_from_slice(&frame);
            }
        }
    }
    Ok(only.unwrap_or_else(|| whole.freeze()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use axum::body::Body;
    use bytes::Bytes;
    use futures::stream;
    use http::{HeaderMap, HeaderValue, header};

    use super::{collect, json};
    use crate::Error;

    const SECOND: Duration = Duration::from_secs(1);

    fn frames(frames: &[&'static str]) -> Body {
        let frames: Vec<_> = frames
            .iter()
            .map(|frame| Ok::<_, Infallible>(Bytes::from_static(frame.as_bytes())))
            .collect();
        Body::from_stream(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_in_any_number_of_frames_comes_whole() {
        for (given, whole) in [
            (vec![], ""),
            (vec!["abc"], "abc"),
            (vec!["a", "b", "c"], "abc"),
        ] {
            let read = collect(frames(&given), 3, SECOND).await.expect("a body");
            assert_eq!(read, whole);
        }
        let error = collect(frames(&["ab", "cd"]), 3, SECOND).await;
        assert_eq!(error, Err(Error::RequestTooLarge { limit: 3 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let slow = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let error = collect(slow, 3, SECOND).await;
        assert_eq!(error, Err(Error::RequestTimeout { limit: SECOND }));
    }

    #[test]
    fn only_json_is_json() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            headers
        };
        for fine in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(json(&with(fine)), "{fine}");
        }
        for foreign in [
            "text/plain",
            "application/jsonp",
            "",
            "text/plain, application/json",
        ] {
            assert!(!json(&with(foreign)), "{foreign}");
        }
        assert!(!json(&HeaderMap::new()));
        let mut twice = with("application/json");
        twice.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert!(!json(&twice));
    }
}
