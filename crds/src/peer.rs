//! Another mesh: where its gateways listen, which key is its own, how far it is trusted. Refuses
//! addresses that could be read in two ways, and keys of any form but the one that is pinned.

use std::net::{Ipv4Addr, Ipv6Addr};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Host;

/// A host name whose last part begins with a letter (so that no resolver takes it for a number), an IPv4
/// address or an IPv6 address in brackets; then a port from 1 to 65535.
const ADDRESS_PATTERN: &str = r"^(([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?|[0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]{2,45}\]):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$";
/// The SubjectPublicKeyInfo of an Ed25519 or an ECDSA P-256 key (uncompressed), in base64: what comes before
/// the key is always the same, and the last letter has no bits to spare, so a key has one spelling.
const KEY_PATTERN: &str = r"^(MCowBQYDK2VwAyEA[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=|MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE[A-Za-z0-9+/]{85}[AQgw]==)$";

/// What the patterns ask for, in words: the end of the sentence "… is not".
pub(crate) const PATTERN_HELP: [(&str, &str); 2] = [
    (
        ADDRESS_PATTERN,
        "host:port: use for example mesh.partner.example:8444, 203.0.113.7:8444 or [2001:db8::7]:8444",
    ),
    (
        KEY_PATTERN,
        "a public key: use the base64 of an Ed25519 or P-256 key in DER, as `openssl pkey -pubin -in KEY.pem -outform DER | base64 -w0` prints it",
    ),
];

/// Another mesh. It is judged and shown; requests are not sent there in this release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Where its gateways listen: host and port.
    pub address: HostPort,
    /// Its public key, Ed25519 or ECDSA P-256: base64 of the DER SubjectPublicKeyInfo.
    pub identity: PublicKey,
    /// How far it is trusted.
    pub trust: Trust,
}

/// Host and port, for example `mesh.partner.example:8444`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = ADDRESS_PATTERN, "maxLength" = 259))]
pub struct HostPort(pub String);

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = KEY_PATTERN, "maxLength" = 124))]
pub struct PublicKey(pub String);

/// How far a peer is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Trust {
    /// Invited, with a pinned identity: class TrustedSwarm. In the namespace of the mesh only; elsewhere it counts as Open.
    Invited,
    /// Anybody: class OpenSwarm.
    Open,
}

/// The pattern is right, the meaning is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port: use for example mesh.partner.example:8444")]
pub struct NotAnAddress(String);

impl HostPort {
    /// Host, in lower case, and port.
    pub fn read(&self) -> Result<(Host, u16), NotAnAddress> {
        let wrong = || NotAnAddress(self.0.clone());
        let (host, port) = self.0.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let six = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Some(six) = six {
            let address: Ipv6Addr = six.parse().map_err(|_| wrong())?;
            return Ok((Host::Ipv6(address), port));
        }
        let last = host.rsplit('.').next().unwrap_or_default();
        if last.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Ok((Host::Domain(host.to_ascii_lowercase()), port));
        }
        let address: Ipv4Addr = host.parse().map_err(|_| wrong())?;
        Ok((Host::Ipv4(address), port))
    }
}
