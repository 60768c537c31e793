//! What a member takes as proof: the authorities of its mesh and the keys of its API server, from a folder
//! that Kubernetes keeps up to date. A change that cannot be read leaves what was known.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};

use crate::{AUDIENCE, TokenVerifier, validity};

/// Names of the files, which are also the entries of the ConfigMap `mesh-trust`.
#[derive(Debug, Clone, Copy)]
pub struct TrustFiles;

impl TrustFiles {
    /// Certificates of authorities, PEM, one or more.
    pub const AUTHORITIES: &'static str = "ca.crt";
    /// Keys of the API server (RFC 7517).
    pub const KEYS: &'static str = "jwks.json";
    /// Who issues its tokens.
    pub const ISSUER: &'static str = "issuer";
    /// Floors, as sidecars reach them: JSON of `mesh_core::pushed::Floors`.
    pub const FLOOR: &'static str = "floor";
}

/// How often the folder is looked at; the kubelet itself takes up to a minute.
const LOOK: Duration = Duration::from_secs(5);
/// The same while nothing is known.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read.
    #[error("could not read {file}: {cause}")]
    File {
        /// Its name.
        file: &'static str,
        /// Sort of the failure.
        cause: std::io::ErrorKind,
    },
    /// A file is larger than any that we write.
    #[error("{file} is too large")]
    Large {
        /// Its name.
        file: &'static str,
    },
    /// There is no certificate in it that can be used.
    #[error("ca.crt holds no usable certificate")]
    Authorities,
    /// The keys cannot be used.
    #[error("jwks.json cannot be used")]
    Keys(#[source] crate::Error),
}

/// What was read.
pub(crate) struct Known {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    pub(crate) tokens: TokenVerifier,
    /// Each authority by itself and since when it is one; who signs is the first.
    each: Vec<(RootCertStore, SystemTime)>,
    text: [String; 3],
}

/// What is taken as proof; it changes under everybody who holds it.
#[derive(Default)]
pub struct Trust {
    known: ArcSwapOption<Known>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("known", &self.known.load().is_some())
            .finish()
    }
}

impl Trust {
    /// Nothing is trusted yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// True once there is something to verify with.
    pub fn ready(&self) -> bool {
        self.known.load().is_some()
    }

    pub(crate) fn known(&self) -> Option<Arc<Known>> {
        self.known.load_full()
    }

    /// The token's account, if the token is valid.
    ///
    /// # Errors
    /// If it is not, or nothing is known yet.
    pub fn verify_token(&self, token: &[u8]) -> Result<crate::ServiceAccount, crate::Error> {
        let known = self.known().ok_or(crate::Error::KeySet)?;
        known.tokens.verify(token)
    }

    /// Replaces what is trusted. True if that changed anything.
    ///
    /// # Errors
    /// If it cannot be used; then what was known stays.
    pub fn set(&self, authorities: &str, keys: &str, issuer: &str) -> Result<bool, TrustError> {
        let text = [authorities, keys, issuer].map(|text| text.trim().to_owned());
        if self.known().is_some_and(|known| known.text == text) {
            return Ok(false);
        }
        let unusable = |_| TrustError::Authorities;
        let (mut roots, mut each) = (RootCertStore::empty(), Vec::new());
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let certificate = certificate.map_err(|_| TrustError::Authorities)?;
            let (from, _) = validity(&certificate).map_err(|_| TrustError::Authorities)?;
            let mut alone = RootCertStore::empty();
            alone.add(certificate.clone()).map_err(unusable)?;
            each.push((alone, from));
            roots.add(certificate).map_err(unusable)?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider)
            .build()
            .map_err(|_| TrustError::Authorities)?;
        let tokens = TokenVerifier::new(keys, &text[2], AUDIENCE).map_err(TrustError::Keys)?;
        self.known.store(Some(Arc::new(Known {
            roots,
            clients,
            tokens,
            each,
            text,
        })));
        Ok(true)
    }

    /// Reads the folder. True if something changed.
    ///
    /// # Errors
    /// If it cannot be used; then what was known stays.
    pub async fn read(&self, folder: &Path) -> Result<bool, TrustError> {
        let (authorities, keys, issuer) = (
            read(folder, TrustFiles::AUTHORITIES).await?,
            read(folder, TrustFiles::KEYS).await?,
            read(folder, TrustFiles::ISSUER).await?,
        );
        self.set(&authorities, &keys, &issuer)
    }

    /// Follows the folder until dropped.
    pub async fn keep(&self, folder: PathBuf) {
        let mut said = String::new();
        loop {
            match self.read(&folder).await {
                Ok(true) => {
                    said.clear();
                    tracing::info!("what is trusted has changed");
                }
                Ok(false) => {}
                Err(error) => {
                    // Once, not for every look.
                    let words = error.to_string();
                    if said != words {
                        tracing::warn!(%error, folder = %folder.display(), "cannot read what to trust");
                        said = words;
                    }
                }
            }
            tokio::time::sleep(if self.ready() { LOOK } else { LOOK_AGAIN }).await;
        }
    }

    /// True if a certificate is signed by one of the authorities and valid now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        self.known()
            .is_some_and(|known| vouch(&known.roots, chain, now))
    }

    /// True if a certificate is signed by an authority that a newer one has taken the place of: it is still trusted,
    /// and will not be for long.
    pub fn superseded(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some(known) = self.known() else {
            return false;
        };
        let mut all = known.each.iter();
        let Some((_, newest)) = all.next().filter(|(first, _)| !vouch(first, chain, now)) else {
            return false;
        };
        // One that is trusted before it signs stands behind the one that still does, and is newer.
        all.find(|(other, _)| vouch(other, chain, now))
            .is_some_and(|(_, from)| from < newest)
    }
}

fn vouch(roots: &RootCertStore, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
    let Some((leaf, rest)) = chain.split_first() else {
        return false;
    };
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| {
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, rest, now, algorithms.all).is_ok()
    })
}

async fn read(folder: &Path, file: &'static str) -> Result<String, TrustError> {
    let failed = |error: std::io::Error| TrustError::File {
        file,
        cause: error.kind(),
    };
    let path = folder.join(file);
    if tokio::fs::metadata(&path).await.map_err(failed)?.len() > LARGEST {
        return Err(TrustError::Large { file });
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}
