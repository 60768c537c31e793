//! Headers, by exact allow-lists in both directions.
//!
//! Upstream: content type, accept, our key, what the backend's author declared, the organization,
//! our user agent (set by the client). Nothing of the caller can be among them, because nothing of
//! the caller is here. Back: two headers that help a person find a request at the provider.

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::{Endpoint, Sensitive};

use crate::AttemptError;

/// Headers that frame or steer the connection itself; an author cannot declare them.
const OURS: [&str; 12] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "accept",
    "accept-encoding",
];

/// What we ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Events.
    Stream,
    /// One JSON object.
    Json,
}

/// The headers of one request.
pub(crate) fn outgoing(
    endpoint: &Endpoint,
    key: Option<&Sensitive<String>>,
    accept: Accept,
) -> Result<HeaderMap, AttemptError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &endpoint.headers {
        let name = header_name(name)?;
        if OURS.contains(&name.as_str()) {
            return Err(AttemptError::Unusable(
                "it declares a header that only the client may set",
            ));
        }
        headers.insert(name, header_value(value)?);
    }
    if let Some(organization) = &endpoint.organization {
        headers.insert("openai-organization", header_value(organization)?);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let accepted = match accept {
        Accept::Stream => "text/event-stream",
        Accept::Json => "application/json",
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accepted));
    if let Some(key) = key {
        let (name, value) = match &endpoint.auth_header {
            Some(name) => (header_name(name)?, header_value(key.expose())?),
            None => (
                AUTHORIZATION,
                header_value(&format!("Bearer {}", key.expose()))?,
            ),
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

fn header_name(name: &str) -> Result<HeaderName, AttemptError> {
    name.parse()
        .map_err(|_| AttemptError::Unusable("it declares a header with an invalid name"))
}

/// Everything declared may be a secret, so the client prints none of it.
fn header_value(value: &str) -> Result<HeaderValue, AttemptError> {
    let mut value: HeaderValue = value
        .parse()
        .map_err(|_| AttemptError::Unusable("it declares a header with an invalid value"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Longest response header passed on, in bytes.
const LONGEST: usize = 256;

/// What may be passed on of an upstream's response headers. Its request id gets a name of its own,
/// since `x-request-id` is ours.
pub(crate) fn incoming(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    [
        ("openai-processing-ms", "openai-processing-ms"),
        ("x-request-id", "x-upstream-request-id"),
    ]
    .into_iter()
    .filter_map(|(theirs, ours)| {
        let value = headers.get(theirs)?;
        let plain = value.len() <= LONGEST && value.to_str().is_ok();
        plain.then(|| (HeaderName::from_static(ours), value.clone()))
    })
    .collect()
}
