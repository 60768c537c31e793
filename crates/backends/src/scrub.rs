//! What an upstream says about the caller's fault, made fit for the caller: our keys, the values of
//! declared headers and the addresses of our hosts are removed, and it is bounded. What remains may
//! quote the caller's own request, so it stays `Sensitive` until it reaches the caller.

use mesh_core::reason::Reason;
use mesh_core::{Endpoint, Sensitive};
use mesh_protocol::openai::error::ErrorBody;
use mesh_protocol::openai::read::UpstreamError;
use url::Url;

/// Longest message for the caller, in bytes.
const LONGEST: usize = 2048;
/// Stands where something was removed.
const REMOVED: &str = "[removed]";
/// Shorter things are too common to be told from words.
const SHORTEST_SECRET: usize = 4;

/// Knows what must not reach a caller.
pub(crate) struct Scrubber {
    /// Lower-case, longest first.
    secrets: Vec<Sensitive<String>>,
}

impl Scrubber {
    pub(crate) fn new(endpoint: &Endpoint, key: Option<&Sensitive<String>>) -> Self {
        let url = &endpoint.url;
        let mut secrets: Vec<String> = vec![
            url.as_str().trim_end_matches('/').to_owned(),
            url.origin().ascii_serialization(),
        ];
        secrets.extend(url.host_str().map(str::to_owned));
        secrets.extend(endpoint.resolved.iter().map(ToString::to_string));
        secrets.extend(endpoint.headers.iter().map(|(_, value)| value.clone()));
        secrets.extend(endpoint.organization.clone());
        secrets.extend(key.map(|key| key.expose().clone()));
        secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self {
            secrets: secrets
                .into_iter()
                .map(|secret| Sensitive::new(secret.to_ascii_lowercase()))
                .collect(),
        }
    }

    /// The error object for the caller.
    pub(crate) fn object(&self, said: &UpstreamError) -> Sensitive<Box<ErrorBody>> {
        let message = match self.text(&said.message) {
            empty if empty.is_empty() => String::from("the model server refused the request"),
            message => message,
        };
        let word = |word: &Option<String>| {
            word.as_deref()
                .filter(|word| is_word(word) && self.text(word) == *word)
                .map(str::to_owned)
        };
        let kind = word(&said.kind).unwrap_or_else(|| String::from("invalid_request_error"));
        let param = said.param.as_deref().map(|param| self.text(param));
        let code = word(&said.code);
        let code = code.as_deref().unwrap_or(Reason::UpstreamRejected.as_str());
        Sensitive::new(Box::new(ErrorBody::new(message, kind, param, code)))
    }

    /// A text without what must not be in it.
    fn text(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &self.secrets {
            clean = without(&clean, secret.expose());
        }
        let words: Vec<&str> = clean
            .split(' ')
            .scan(false, |after_bearer, word| {
                let told =
                    std::mem::replace(after_bearer, word.to_ascii_lowercase().ends_with("bearer"));
                Some(if told || is_secret(word) {
                    REMOVED
                } else {
                    word
                })
            })
            .collect();
        let clean = words.join(" ");
        clean[..clean.floor_char_boundary(LONGEST)].to_owned()
    }
}

/// `text` without any occurrence of `secret` (lower-case), whatever its case in the text.
fn without(text: &str, secret: &str) -> String {
    // ASCII lower case keeps every byte where it is.
    let lower = text.to_ascii_lowercase();
    let (mut clean, mut from) = (String::with_capacity(text.len()), 0);
    for (at, found) in lower.match_indices(secret) {
        clean.push_str(&text[from..at]);
        clean.push_str(REMOVED);
        from = at + found.len();
    }
    clean.push_str(&text[from..]);
    clean
}

/// Words that look like a key of somebody, or like an address inside a network.
fn is_secret(word: &str) -> bool {
    let key = word
        .split(|c: char| !(c.is_ascii_alphanumeric() || "-_*".contains(c)))
        .any(|part| part.starts_with("sk-") && part.len() > 8);
    key || word.find("://").is_some_and(|at| {
        let start = word[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric())
            .map_or(0, |before| before + 1);
        !public(&word[start..])
    })
}

/// True for an https address with a name that can be public (a link into documentation).
fn public(address: &str) -> bool {
    let Ok(url) = Url::parse(address) else {
        return false;
    };
    let inner = [
        "local",
        "localhost",
        "internal",
        "svc",
        "lan",
        "lab",
        "home",
        "corp",
    ];
    url.scheme() == "https"
        && url.port().is_none()
        && url.domain().is_some_and(|name| {
            name.rsplit_once('.')
                .is_some_and(|(_, last)| !inner.contains(&last))
        })
}

/// True for identifiers: what codes and types are made of.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use mesh_core::{Endpoint, Protocol, Sensitive};
    use mesh_protocol::openai::read::UpstreamError;

    use super::Scrubber;

    fn scrub(message: &str) -> String {
        let endpoint = Endpoint {
            url: "http://llama.lab:8080/v1/".parse().expect("a url"),
            protocol: Protocol::OpenAI,
            credentials: None,
            auth_header: None,
            headers: vec![(String::from("x-team"), String::from("blue-team-4711"))],
            organization: Some(String::from("org-canary")),
            insecure_plaintext: true,
            resolved: vec!["10.1.2.3".parse().expect("an address")],
            cluster_networks: std::sync::Arc::default(),
            authority: None,
            proxy: None,
        };
        let key = Sensitive::new(String::from("Key.Canary-1"));
        let said = UpstreamError {
            message: message.to_owned(),
            param: Some(message.to_owned()),
            kind: Some(String::from("key.canary-1")),
            code: Some(message.to_owned()),
            ..UpstreamError::default()
        };
        let body = Scrubber::new(&endpoint, Some(&key)).object(&said);
        assert_eq!(body.expose().error.kind, "invalid_request_error");
        serde_json::to_string(body.expose()).expect("JSON")
    }

    #[test]
    fn keys_headers_and_addresses_of_ours_never_reach_the_caller() {
        let text = scrub(
            "bad key KEY.CANARY-1 at http://llama.lab:8080/v1/chat (llama.lab, 10.1.2.3:8080) for \
             org-canary in blue-team-4711; Bearer abc.def (sk-proj-1234****9876) \
             see <http://10.9.9.9/x> or http://other.internal/y, docs at https://example.com/docs",
        );
        for secret in [
            "canary",
            "CANARY",
            "llama.lab",
            "10.1.2.3",
            "4711",
            "abc.def",
            "sk-proj",
            "10.9.9.9",
            "other.internal",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("https://example.com/docs"));
        assert!(text.contains("upstream_rejected"), "not a word: our code");
    }

    #[test]
    fn what_reaches_the_caller_is_bounded_and_never_empty() {
        assert!(scrub(&"€".repeat(5000)).len() < 6000);
        assert!(scrub("").contains("the model server refused the request"));
    }
}
