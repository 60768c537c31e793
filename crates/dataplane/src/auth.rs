//! Who is calling. Without a key file every caller of the loopback listener is the subject `local`;
//! with one, a key is required for everything. Keys are never kept: the file holds their SHA-256,
//! and what a caller sends is hashed at once and compared in constant time.
//!
//! Format of the file, one entry per line: `<name> <sha256 of the key, hex>`; blank lines and lines
//! that begin with `#` are skipped. `printf %s "$KEY" | sha256sum` makes the second word.

use std::collections::HashSet;
use std::fmt;

use futures::future::BoxFuture;
use http::{HeaderMap, header};
use mesh_core::Caller;
use sha2::{Digest, Sha256};

/// Longest name of a key.
const MAX_NAME: usize = 64;

/// The keys that callers may use.
#[derive(Clone, Default)]
pub struct ApiKeys {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    hash: [u8; 32],
}

impl fmt::Debug for ApiKeys {
    /// Shows names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|entry| &entry.name))
            .finish()
    }
}

/// What is wrong with a key file. The line is named, its content is not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not two words.
    #[error("line {line}: expected `<name> <sha256 of the key in hex>`")]
    Form {
        /// Counted from 1.
        line: usize,
    },
    /// The name has other characters, or is too long.
    #[error("line {line}: a name has 1 to 64 letters, digits, `.`, `_` or `-`")]
    Name {
        /// Counted from 1.
        line: usize,
    },
    /// The hash is not one.
    #[error("line {line}: the second word must be the key's SHA-256, 64 hex digits")]
    Hash {
        /// Counted from 1.
        line: usize,
    },
    /// Two lines share a name or a key.
    #[error("line {line}: this name or key is listed twice")]
    Repeated {
        /// Counted from 1.
        line: usize,
    },
    /// Nobody could ever call.
    #[error("the file has no key")]
    Empty,
}

impl Error {
    /// The reason in PascalCase.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Form { .. } => "KeyFileForm",
            Self::Name { .. } => "KeyName",
            Self::Hash { .. } => "KeyHash",
            Self::Repeated { .. } => "KeyRepeated",
            Self::Empty => "KeyFileEmpty",
        }
    }
}

impl ApiKeys {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// If a line is not understood, repeats another, or if there is no key at all.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut entries = Vec::new();
        let mut seen_names = HashSet::new();
        let mut seen_hashes = HashSet::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let entry = entry(line, content)?;
            if !seen_names.insert(entry.name.clone()) || !seen_hashes.insert(entry.hash) {
                return Err(Error::Repeated { line });
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(Error::Empty);
        }
        Ok(Self { entries })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no key: then nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name of the key, if it is one of ours. Every entry is compared, whichever matches.
    pub fn name_of(&self, key: &[u8]) -> Option<&str> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let mut found = None;
        for entry in &self.entries {
            if same(&entry.hash, &hash) {
                found = Some(entry.name.as_str());
            }
        }
        found
    }
}

/// Tells who is calling, where API keys alone do not: a cluster.
pub trait Callers: fmt::Debug + Send + Sync {
    /// The caller that these credentials (the value after `Bearer `) belong to.
    /// Called on the threads that serve connections: must not block.
    ///
    /// # Errors
    /// If it is nobody we know, or somebody of whom not enough is known yet.
    fn caller(&self, bearer: &[u8]) -> Result<Caller, Unrecognized>;

    /// Whether these credentials still hold, asked of whoever can take them back. Asked for every request of a caller that
    /// [`caller`](Self::caller) knows; where nobody can take anything back, there is nothing to ask.
    fn confirm<'a>(
        &'a self,
        _caller: &'a Caller,
        _bearer: &'a [u8],
    ) -> Option<BoxFuture<'a, Result<(), Unrecognized>>> {
        None
    }

    /// The same, for a stream that only tells its caller something and is asked about all the time: it must not keep
    /// requests waiting.
    fn confirm_stream<'a>(
        &'a self,
        caller: &'a Caller,
        bearer: &'a [u8],
    ) -> Option<BoxFuture<'a, Result<(), Unrecognized>>> {
        self.confirm(caller, bearer)
    }
}

/// Who is calling, known and confirmed.
///
/// # Errors
/// As of [`Callers`].
pub(crate) async fn recognized(
    callers: &dyn Callers,
    bearer: &[u8],
) -> Result<Caller, Unrecognized> {
    let caller = callers.caller(bearer)?;
    if let Some(asking) = callers.confirm(&caller, bearer) {
        asking.await?;
    }
    Ok(caller)
}

/// Why there is no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrecognized {
    /// Nobody we know.
    Nobody,
    /// Somebody, but which policies govern them cannot be told yet.
    NotYet,
    /// Somebody, but whether they still are cannot be asked now.
    Unconfirmed,
}

/// Finds out who sent a request with these headers; `None` if a key is required and the one that
/// came is missing, repeated or unknown.
pub(crate) fn caller(
    keys: Option<&ApiKeys>,
    headers: &HeaderMap,
    namespace: &str,
) -> Option<Caller> {
    let local = Caller::local(namespace);
    let Some(keys) = keys else {
        return Some(local);
    };
    let subject = keys.name_of(bearer(headers)?)?.to_owned();
    Some(Caller { subject, ..local })
}

/// The credentials of a request, if it has exactly one `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, key) = value
        .as_bytes()
        .split_at_checked("bearer ".len())
        .filter(|(_, key)| !key.is_empty())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| key.trim_ascii())
}

fn entry(line: usize, content: &str) -> Result<Entry, Error> {
    let mut words = content.split_whitespace();
    let (Some(name), Some(hash), None) = (words.next(), words.next(), words.next()) else {
        return Err(Error::Form { line });
    };
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() > MAX_NAME || !name.bytes().all(fine) {
        return Err(Error::Name { line });
    }
    let hash = unhex(hash).ok_or(Error::Hash { line })?;
    Ok(Entry {
        name: name.to_owned(),
        hash,
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

/// Compares without telling by its duration where the first difference is.
fn same(ours: &[u8; 32], theirs: &[u8; 32]) -> bool {
    let difference = ours
        .iter()
        .zip(theirs)
        .fold(0_u8, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    difference == 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::{ApiKeys, Error, caller};

    /// SHA-256 of `secret`, from `printf %s secret | sha256sum`.
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn keys() -> ApiKeys {
        ApiKeys::parse(&format!("# people\n\nalice {HASH}\n")).expect("a key file")
    }

    fn bearer(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(value).expect("a header");
        headers.append(header::AUTHORIZATION, value);
        headers
    }

    #[test]
    fn without_keys_any_or_no_bearer_is_the_subject_local() {
        for headers in [HeaderMap::new(), bearer("Bearer placeholder")] {
            let caller = caller(None, &headers, "default").expect("a caller");
            assert_eq!(
                (caller.tenant.as_str(), caller.subject.as_str()),
                ("default", "local")
            );
        }
    }

    #[test]
    fn with_keys_only_the_right_key_is_let_in_under_its_name() {
        let keys = keys();
        let right = caller(Some(&keys), &bearer("bearer secret"), "default");
        assert_eq!(right.expect("alice").subject, "alice");
        for wrong in [
            "Bearer wrong",
            "Bearer ",
            "Basic secret",
            "secret",
            "Bearer",
        ] {
            assert_eq!(
                caller(Some(&keys), &bearer(wrong), "default"),
                None,
                "{wrong}"
            );
        }
        assert_eq!(caller(Some(&keys), &HeaderMap::new(), "default"), None);
        let mut twice = bearer("Bearer secret");
        twice.append(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer wrong"),
        );
        assert_eq!(caller(Some(&keys), &twice, "default"), None);
    }

    #[test]
    fn a_broken_key_file_names_the_line_and_never_its_content() {
        for (text, error) in [
            (String::from("# nobody\n"), Error::Empty),
            (String::from("\nalice"), Error::Form { line: 2 }),
            (format!("alice {HASH} admin"), Error::Form { line: 1 }),
            (format!("al/ice {HASH}"), Error::Name { line: 1 }),
            (format!("alice {}", &HASH[1..]), Error::Hash { line: 1 }),
            (
                format!("alice {}", HASH.replace('2', "z")),
                Error::Hash { line: 1 },
            ),
            (
                format!("alice {HASH}\nbob {HASH}"),
                Error::Repeated { line: 2 },
            ),
        ] {
            let found = ApiKeys::parse(&text).expect_err("a fault");
            assert_eq!(found, error);
            assert!(!found.to_string().contains("alice"));
        }
        assert_eq!(format!("{:?}", keys()), r#"["alice"]"#);
    }
}
