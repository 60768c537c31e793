//! Which headers go through. To the gateway only what is listed, so that no credential of the application
//! leaves by a name that nobody thought of; back to the application everything but what belongs to one
//! connection.

use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::PrivacyLevel;

/// What an application may say to the mesh.
const ASKED: [HeaderName; 7] = [
    ACCEPT,
    CONTENT_TYPE,
    USER_AGENT,
    HeaderName::from_static("mesh-task"),
    HeaderName::from_static("mesh-latency"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// What a floor may say to the application; the rest is said here.
const ANSWERED: [HeaderName; 2] = [CONTENT_TYPE, http::header::CACHE_CONTROL];

/// What belongs to one connection (RFC 9110, section 7.6.1).
const OF_CONNECTION: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers for a peer, with the pod's own credential.
pub(crate) fn asked(
    from: &HeaderMap,
    bearer: HeaderValue,
    level: Option<PrivacyLevel>,
) -> HeaderMap {
    let mut headers = listed(from, &ASKED);
    headers.insert(http::header::AUTHORIZATION, bearer);
    if let Some(level) = level {
        let word = HeaderValue::from_static(level.as_str());
        headers.insert(mesh_door::PRIVACY, word);
    }
    headers
}

/// Headers of a floor's answer.
pub(crate) fn answered(from: &HeaderMap) -> HeaderMap {
    listed(from, &ANSWERED)
}

fn listed(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(names.len() + 4);
    for name in names {
        for value in from.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// Leaves out what belongs to the connection with the peer.
pub(crate) fn passed_on(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use mesh_core::PrivacyLevel;

    use super::{asked, passed_on};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_of_the_application_stay_here_under_whatever_name() {
        let from = headers(&[
            ("authorization", "Bearer sk-canary"),
            ("api-key", "canary"),
            ("x-api-key", "canary"),
            ("x-goog-api-key", "canary"),
            ("cookie", "canary"),
            ("openai-organization", "canary"),
            ("x-some-secret", "canary"),
            ("mesh-privacy", "public"),
            ("mesh-task", "code"),
            ("content-type", "application/json"),
        ]);
        let to = asked(
            &from,
            HeaderValue::from_static("Bearer pod"),
            Some(PrivacyLevel::Internal),
        );
        let canary = |value: &HeaderValue| value.to_str().unwrap_or_default().contains("canary");
        assert!(!to.values().any(canary), "{to:?}");
        assert_eq!(to["authorization"], "Bearer pod");
        assert_eq!(to["mesh-privacy"], "internal");
        assert_eq!(to["mesh-task"], "code");
        assert_eq!(to.len(), 4);
    }

    #[test]
    fn what_belongs_to_a_connection_is_not_passed_on() {
        let mut from = headers(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("mesh-backend", "floor"),
        ]);
        passed_on(&mut from);
        let left: Vec<&HeaderName> = from.keys().collect();
        assert_eq!(left, ["mesh-backend"]);
    }
}
