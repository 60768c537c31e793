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

/// Classes in the order of their sovereignty, worst first, for rules that compare them.
const CLASSES: &str = "['CloudRetained','CloudForeign','CloudDomestic','OpenSwarm','TrustedSwarm','RentedHardware','OwnHardware']";

/// `minimumClass`: `above` never asks for less than `below`, where both are given.
pub(crate) fn no_less(above: &str, below: &str) -> String {
    format!(
        "!has(self.{above}) || !has(self.{below}) || {CLASSES}.indexOf(self.{above}) >= {CLASSES}.indexOf(self.{below})"
    )
}
