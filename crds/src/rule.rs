//! CEL rules that several fields share, and the function that tells an API server's rule from a
//! hand-made check: there is none, both come from here.

/// An address that keeps its bytes private on the way: https, or http that never leaves the machine.
pub(crate) const HTTPS_OR_LOOPBACK: &str = "self.startsWith('https://') || self.matches('^http://(localhost|127[.][0-9.]+|\\\\[::1\\\\])(:[0-9]+)?(/|$)')";

/// What to do about [`HTTPS_OR_LOOPBACK`].
pub(crate) const HTTPS_OR_LOOPBACK_MESSAGE: &str = "use https; plain http is for loopback only";

/// The same for an address with `insecurePlaintext` beside it.
pub(crate) const ENDPOINT_PRIVATE: &str = "self.url.startsWith('https://') || (has(self.insecurePlaintext) && self.insecurePlaintext) || self.url.matches('^http://(localhost|127[.][0-9.]+|\\\\[::1\\\\])(:[0-9]+)?(/|$)')";

/// What to do about [`ENDPOINT_PRIVATE`].
pub(crate) const ENDPOINT_PRIVATE_MESSAGE: &str =
    "use https, or say `insecurePlaintext: true` beside the url if the network may read along";

/// An authority proves nothing where there is no TLS.
pub(crate) const AUTHORITY_NEEDS_TLS: &str = "!has(self.tls) || self.url.startsWith('https://')";

/// What to do about [`AUTHORITY_NEEDS_TLS`].
pub(crate) const AUTHORITY_NEEDS_TLS_MESSAGE: &str =
    "an authority is for https: use an https url, or remove tls";

/// What is not encrypted to the backend itself, a proxy reads.
pub(crate) const PROXY_NEEDS_TLS: &str = "!has(self.proxy) || self.url.startsWith('https://')";

/// What to do about [`PROXY_NEEDS_TLS`].
pub(crate) const PROXY_NEEDS_TLS_MESSAGE: &str =
    "the proxy would read along: use an https url, or remove proxy";

/// Rank of every class, for rules that compare them. A map and not a list: the API server estimates
/// the search of a list for a text without a maximum length beyond its budget.
const RANK: &str = "{'CloudRetained':0,'CloudForeign':1,'CloudDomestic':2,'OpenSwarm':3,'TrustedSwarm':4,'RentedHardware':5,'OwnHardware':6}";

/// `minimumClass`: `above` never asks for less than `below`, where both are given.
pub(crate) fn no_less(above: &str, below: &str) -> String {
    format!(
        "!has(self.{above}) || !has(self.{below}) || {RANK}[self.{above}] >= {RANK}[self.{below}]"
    )
}
