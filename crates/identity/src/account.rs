//! Names of members: ServiceAccounts, written as SPIFFE IDs (SPIFFE-ID standard, section 2).

use std::fmt;
use std::str::FromStr;

/// Whose names these are.
pub const TRUST_DOMAIN: &str = "inferencemesh.dev";
/// Longest part of a name; Kubernetes allows no longer one.
const LONGEST: usize = 253;

/// A ServiceAccount, wherever it was proven.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The text names no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected namespace/name of a ServiceAccount")]
pub struct NotAnAccount;

impl Account {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// As certificates have it: `spiffe://inferencemesh.dev/ns/<namespace>/sa/<name>`.
    pub fn uri(&self) -> String {
        format!(
            "spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}",
            self.namespace, self.name
        )
    }

    /// Reads what [`uri`](Self::uri) writes, and nothing else.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(TRUST_DOMAIN)?;
        let mut parts = path.strip_prefix("/ns/")?.split('/');
        let (namespace, sa, name) = (parts.next()?, parts.next()?, parts.next()?);
        (sa == "sa" && parts.next().is_none() && valid(namespace) && valid(name))
            .then(|| Self::new(namespace, name))
    }
}

/// A name as Kubernetes allows it (RFC 1123), so that no other spelling can mean the same.
fn valid(part: &str) -> bool {
    (1..=LONGEST).contains(&part.len())
        && part
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        match text.split_once('/') {
            Some((namespace, name)) if valid(namespace) && valid(name) => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(NotAnAccount),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn a_name_comes_back_from_its_uri_and_no_other_spelling_is_taken_for_it() {
        let account = Account::new("mesh-system", "floor-worker");
        assert_eq!(
            account.uri(),
            "spiffe://inferencemesh.dev/ns/mesh-system/sa/floor-worker"
        );
        assert_eq!(Account::from_uri(&account.uri()), Some(account));
        for wrong in [
            "",
            "spiffe://inferencemesh.dev",
            "spiffe://inferencemesh.dev.evil/ns/a/sa/b",
            "spiffe://evil/ns/a/sa/b",
            "https://inferencemesh.dev/ns/a/sa/b",
            "spiffe://inferencemesh.dev/ns/a/sa/b/c",
            "spiffe://inferencemesh.dev/ns/a/sa/",
            "spiffe://inferencemesh.dev/ns//sa/b",
            "spiffe://inferencemesh.dev/ns/A/sa/b",
            "spiffe://inferencemesh.dev/ns/a%2fb/sa/b",
            "SPIFFE://inferencemesh.dev/ns/a/sa/b",
        ] {
            assert_eq!(Account::from_uri(wrong), None, "{wrong}");
        }
        assert!("a/b".parse::<Account>().is_ok());
        for wrong in ["a", "a/", "/b", "a/b/c", "A/b"] {
            assert!(wrong.parse::<Account>().is_err(), "{wrong}");
        }
    }
}
