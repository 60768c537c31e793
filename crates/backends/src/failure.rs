//! What went wrong, read off the client's errors, the status and the body, into the rows of the
//! table of semantics section 5.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use http::HeaderMap;
use mesh_protocol::openai::read::{ReadError, UpstreamError};
use reqwest::Response;
use rustls::CertificateError;
use tokio::time::timeout;

use crate::address::Refused;
use crate::scrub::Scrubber;
use crate::wording;
use crate::{AttemptError, ConnectCause, ProxyCause, TlsCause};

/// Most of an error body that is read, in bytes.
const BODY_LIMIT: usize = 64 << 10;
/// Longest wait for an error body; the status alone says enough to go on.
const BODY_TIME: Duration = Duration::from_secs(2);
/// Longest rest that an upstream can ask for: a hostile or broken one must not rest for years.
const LONGEST_REST: Duration = Duration::from_hours(1);

/// A request that got no response headers. `proxied`: by way of a proxy.
pub(crate) fn unsent(error: &reqwest::Error, proxied: bool) -> AttemptError {
    let mut cause = if error.is_connect() && error.is_timeout() {
        ConnectCause::TimedOut
    } else if error.is_dns() {
        ConnectCause::Name
    } else if error.is_connect() {
        ConnectCause::Other
    } else {
        ConnectCause::Closed
    };
    let mut at_proxy = None;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return (*refused).into();
        }
        if let Some(cause) = tls_cause(inner) {
            return AttemptError::Tls(cause);
        }
        at_proxy = at_proxy.or_else(|| proxy_cause(inner));
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            cause = io_cause(inner.kind()).unwrap_or(cause);
        }
        source = inner.source();
    }
    // A question to the proxy that has no answer in time has no words of its own.
    if proxied && error.is_connect() && cause == ConnectCause::TimedOut {
        at_proxy = at_proxy.or(Some(ProxyCause::TimedOut));
    }
    at_proxy.map_or(AttemptError::Connect(cause), AttemptError::Proxy)
}

/// I/O errors wrap each other without naming what they wrap as their source, so they are opened.
fn tls_cause(error: &(dyn StdError + 'static)) -> Option<TlsCause> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => tls_cause(wrapped),
        None => error.downcast_ref().map(|error| match error {
            rustls::Error::InvalidCertificate(error) => of_certificate(error),
            _ => TlsCause::Handshake,
        }),
    }
}

const fn of_certificate(error: &CertificateError) -> TlsCause {
    match error {
        // Another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsCause::Authority,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsCause::Name
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsCause::Time,
        _ => TlsCause::Handshake,
    }
}

/// The client's type for a failed CONNECT cannot be named, so it is known by its words.
fn proxy_cause(error: &(dyn StdError + 'static)) -> Option<ProxyCause> {
    let words = error.to_string();
    match words.strip_prefix("tunnel error: ")? {
        "unsuccessful" => Some(ProxyCause::Refused),
        "proxy authorization required" => Some(ProxyCause::Unauthorized),
        _ => Some(ProxyCause::Unreachable),
    }
}

fn io_cause(kind: io::ErrorKind) -> Option<ConnectCause> {
    match kind {
        io::ErrorKind::ConnectionRefused => Some(ConnectCause::Refused),
        io::ErrorKind::TimedOut => Some(ConnectCause::TimedOut),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(ConnectCause::Closed),
        _ => None,
    }
}

/// A response that is not a success.
pub(crate) async fn refused(response: Response, scrubber: &Scrubber) -> AttemptError {
    let status = response.status().as_u16();
    match status {
        300..=399 => AttemptError::Redirect { status },
        401..=404 => AttemptError::Rejected { status },
        429 => AttemptError::RateLimited {
            retry_after: retry_after(response.headers()),
        },
        400 | 413 | 422 => {
            let said = UpstreamError::read(&error_body(response).await);
            fault(status, &said, scrubber)
        }
        // Older llama.cpp calls a prompt that is too long a failure of its own.
        500 if wording::context(&UpstreamError::read(&error_body(response).await)) => {
            AttemptError::Unsupported {
                code: wording::CONTEXT,
            }
        }
        _ => AttemptError::Status { status },
    }
}

/// A 400, 413 or 422: too much for this backend, our own fault, or the caller's.
fn fault(status: u16, said: &UpstreamError, scrubber: &Scrubber) -> AttemptError {
    if let Some(status) = wording::ours(said) {
        return AttemptError::Rejected { status };
    }
    if let Some(code) = wording::unsupported(said) {
        return AttemptError::Unsupported { code };
    }
    AttemptError::CallerFault {
        status,
        body: scrubber.object(said),
    }
}

/// An answer that cannot be used. `answering` = a first token was seen, so nothing but a cut can be
/// told any more.
pub(crate) fn unreadable(error: ReadError, answering: bool, scrubber: &Scrubber) -> AttemptError {
    match error {
        ReadError::Invalid(what) => AttemptError::InvalidBody { what },
        ReadError::Cut => AttemptError::Cut,
        ReadError::Upstream(_) if answering => AttemptError::Cut,
        ReadError::Upstream(said) => reported(&said, scrubber),
    }
}

/// An error that came with a 200.
fn reported(said: &UpstreamError, scrubber: &Scrubber) -> AttemptError {
    if let Some(status) = wording::ours(said) {
        return AttemptError::Rejected { status };
    }
    if let Some(code) = wording::unsupported(said) {
        return AttemptError::Unsupported { code };
    }
    match said.status {
        Some(429) => AttemptError::RateLimited { retry_after: None },
        Some(status @ 401..=404) => AttemptError::Rejected { status },
        Some(status @ (400 | 413 | 422)) => AttemptError::CallerFault {
            status,
            body: scrubber.object(said),
        },
        _ => AttemptError::ErrorEvent,
    }
}

/// The beginning of an error body, as far as it comes in time.
async fn error_body(response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    let read = async {
        while let Some(Ok(piece)) = pieces.next().await {
            let room = BODY_LIMIT - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() == BODY_LIMIT {
                break;
            }
        }
    };
    // A body that is late or cut is read as far as it came.
    let _in_time = timeout(BODY_TIME, read).await.is_ok();
    body
}

/// How long to wait: `retry-after-ms`, else `retry-after` in seconds or as a date (RFC 9110).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str| {
        text.parse::<f64>()
            .ok()
            .and_then(|number| Duration::try_from_secs_f64(number).ok())
    };
    let milliseconds = text("retry-after-ms")
        .and_then(seconds)
        .map(|wait| wait / 1000);
    milliseconds
        .or_else(|| {
            let value = text("retry-after")?;
            seconds(value).or_else(|| until(value, text("date")))
        })
        .map(|wait| wait.min(LONGEST_REST))
}

/// Time until an HTTP date, by the upstream's own clock if it tells.
fn until(date: &str, now: Option<&str>) -> Option<Duration> {
    let read = |text: &str| {
        jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(text)
            .ok()
    };
    let end = read(date)?;
    let now = now.and_then(read).unwrap_or_else(jiff::Timestamp::now);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::retry_after;

    fn wait(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    value.parse().expect("a value"),
                )
            })
            .collect();
        retry_after(&headers)
    }

    #[test]
    fn the_rest_an_upstream_asks_for_is_read_in_all_its_forms_and_bounded() {
        let date = "Wed, 21 Oct 2026 07:28:00 GMT";
        for (headers, expected) in [
            (&[][..], None),
            (&[("retry-after", "7")][..], Some(7_000)),
            (&[("retry-after", "0.5")], Some(500)),
            (
                &[("retry-after", "9"), ("retry-after-ms", "250")],
                Some(250),
            ),
            (
                &[
                    ("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"),
                    ("date", date),
                ],
                Some(30_000),
            ),
            (
                &[
                    ("retry-after", date),
                    ("date", "Wed, 21 Oct 2026 07:29:00 GMT"),
                ],
                Some(0),
            ),
            (&[("retry-after", "99999999999")], Some(3_600_000)),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "soon")], None),
        ] {
            assert_eq!(
                wait(headers),
                expected.map(Duration::from_millis),
                "{headers:?}"
            );
        }
    }
}
