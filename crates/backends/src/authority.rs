//! By whose certificates a backend proves itself, where its author says so. Found at the moment they are used, as keys are; whoever
//! rotates them has new connections with the next request. A text is read once, however many requests and questions there are.
//!
//! What this refuses: to trust anybody where the declared authority cannot be read (the system's do not step in), an entry of a
//! cluster that is larger than any authority is, to keep anything of a text but the certificates.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use mesh_core::Authority;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};

use crate::{AttemptError, Error, credential, tls};

/// Certificates of authorities, found beforehand by whoever may read them: a request never waits for that. `None`: it was asked for
/// and is not there, or may not be read; absent: nobody could be asked yet.
pub type Authorities = HashMap<Authority, Option<Arc<Certificates>>>;

/// Largest file of certificates in bytes; a whole system's is about 250 KiB.
const LARGEST_FILE: u64 = 1 << 20;
/// Largest entry of a cluster in bytes, where anybody may make many.
const LARGEST_ENTRY: usize = 256 << 10;

/// What a text holds, or why it is no authority.
type Roots = Result<Arc<RootCertStore>, Error>;

/// The certificates of an authority. Two are the same if their texts are. The text is read once, and nothing else of it is kept.
pub struct Certificates {
    digest: [u8; 32],
    roots: LazyLock<Roots, Box<dyn FnOnce() -> Roots + Send>>,
}

impl Certificates {
    /// Of this text (PEM), which is not looked at before somebody wants to know.
    pub fn new(pem: String) -> Self {
        Self {
            digest: digest(&pem),
            roots: LazyLock::new(Box::new(move || tls::roots(&pem).map(Arc::new))),
        }
    }

    /// Of an entry of a cluster, which is looked at now.
    pub fn entry(pem: String) -> Self {
        let found = if pem.len() > LARGEST_ENTRY {
            Self {
                digest: digest(&pem),
                roots: LazyLock::new(Box::new(|| {
                    Err(Error::Authority("it is larger than 256 KiB"))
                })),
            }
        } else {
            Self::new(pem)
        };
        LazyLock::force(&found.roots);
        found
    }

    /// True if they were read from this very text.
    pub fn are_of(&self, pem: &str) -> bool {
        self.digest == digest(pem)
    }

    /// Whether they can be trusted.
    ///
    /// # Errors
    /// Why not.
    pub fn usable(&self) -> Result<(), Error> {
        self.roots.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Settings that trust these and no others. Sessions are resumed within one of them only.
    pub(crate) fn config(&self) -> Result<ClientConfig, Error> {
        tls::trusting(Arc::clone(self.roots.as_ref().map_err(Clone::clone)?))
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Certificates {}

impl Hash for Certificates {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// The certificates of an authority, as they were found.
pub(crate) fn certificates(
    authority: &Authority,
    authorities: &Authorities,
) -> Result<Arc<Certificates>, AttemptError> {
    let found = match authority {
        Authority::File(path) => {
            credential::read(path, LARGEST_FILE).map(|pem| Arc::new(Certificates::new(pem)))
        }
        Authority::Entry { .. } => match authorities.get(authority) {
            Some(Some(found)) => Ok(Arc::clone(found)),
            _ => Err(format!("{} could not be read", place(authority))),
        },
    };
    found.map_err(|what| AttemptError::Authority {
        what,
        missing: true,
    })
}

/// Whether an authority can be trusted; the error says why not. None if nobody could be asked for it yet.
pub(crate) fn verdict(
    authority: &Authority,
    authorities: &Authorities,
) -> Option<Result<(), AttemptError>> {
    let asked = matches!(authority, Authority::File(_)) || authorities.contains_key(authority);
    let usable = |found: Arc<Certificates>| {
        let usable = found.usable();
        usable.map_err(|problem| unusable(authority, &problem))
    };
    asked.then(|| certificates(authority, authorities).and_then(usable))
}

/// What was found there is no authority.
pub(crate) fn unusable(authority: &Authority, problem: &Error) -> AttemptError {
    AttemptError::Authority {
        what: format!("{}: {problem}", place(authority)),
        missing: false,
    }
}

fn place(authority: &Authority) -> String {
    match authority {
        Authority::File(path) => format!("file {}", path.display()),
        Authority::Entry {
            kept,
            namespace,
            name,
            key,
        } => format!("entry {key} of {} {namespace}/{name}", kept.kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{Authority, Kept};
    use mesh_testkit::front;

    use super::{Authorities, Certificates, LARGEST_ENTRY, certificates, verdict};
    use crate::AttemptError;

    fn entry() -> Authority {
        Authority::Entry {
            kept: Kept::ConfigMap,
            namespace: String::from("team"),
            name: String::from("ca"),
            key: String::from("ca.crt"),
        }
    }

    fn known(found: Option<Certificates>) -> Authorities {
        Authorities::from([(entry(), found.map(Arc::new))])
    }

    #[test]
    fn what_is_no_authority_is_named_by_its_place() {
        for nothing in [Authorities::new(), known(None)] {
            let missing = certificates(&entry(), &nothing).expect_err("it is not there");
            let words = missing.to_string();
            assert!(
                words.contains("entry ca.crt of ConfigMap team/ca"),
                "{words}"
            );
        }
        let broken = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n";
        for pem in ["", "canary", broken, key] {
            let found = Certificates::entry(pem.to_owned());
            assert!(!format!("{found:?}").contains("canary"));
            let error = verdict(&entry(), &known(Some(found)));
            let error = error.expect("it was asked for").expect_err(pem);
            assert!(
                matches!(error, AttemptError::Authority { missing: false, .. }),
                "{error:?}"
            );
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn what_nobody_could_ask_for_is_not_called_missing_and_yet_not_replaced() {
        assert_eq!(verdict(&entry(), &Authorities::new()), None);
        assert!(certificates(&entry(), &Authorities::new()).is_err());
        let gone = verdict(&entry(), &known(None)).expect("it was asked for");
        assert!(matches!(
            gone,
            Err(AttemptError::Authority { missing: true, .. })
        ));
    }

    #[test]
    fn an_entry_that_is_larger_than_an_authority_is_none_and_said_to_be_too_large() {
        let pem = front::Authority::new("mesh").pem();
        let filled = |size: usize| format!("{pem}{}", "#".repeat(size - pem.len()));
        let found = Certificates::entry(filled(LARGEST_ENTRY));
        assert_eq!(verdict(&entry(), &known(Some(found))), Some(Ok(())));
        let found = Certificates::entry(filled(LARGEST_ENTRY + 1));
        let said = verdict(&entry(), &known(Some(found))).expect("it was asked for");
        let said = said.expect_err("it is too large").to_string();
        assert!(said.contains("larger than 256 KiB"), "{said}");
    }

    #[test]
    fn what_was_read_is_handed_out_and_known_by_its_text() {
        let pem = front::Authority::new("mesh").pem();
        let all = known(Some(Certificates::entry(pem.clone())));
        let read = || certificates(&entry(), &all).expect("it is there");
        let found = read();
        assert!(Arc::ptr_eq(&found, &read()));
        assert!(found.are_of(&pem) && !found.are_of(&format!("{pem}\n")));
        assert_eq!(*found, Certificates::new(pem));
    }
}
