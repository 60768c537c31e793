//! The certificate of this process: who it is, replaced while connections live.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, client::ResolvesClientCert};
use tokio::sync::watch;

use crate::{Account, CertificateError, account_of, validity};

/// What is in use.
#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    account: Account,
    from: SystemTime,
    until: SystemTime,
}

/// This process as a member of the mesh; nobody as long as it has no certificate.
#[derive(Debug)]
pub struct Member {
    current: ArcSwapOption<Current>,
    changed: watch::Sender<u64>,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            changed: watch::channel(0).0,
        }
    }
}

impl Member {
    /// Nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a certificate (PEM) and its key (PEM) into use from the next handshake on.
    ///
    /// # Errors
    /// If they cannot be used together; then the old ones stay.
    pub fn install(&self, chain: &str, key: &str) -> Result<(), CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::Form)?;
        let leaf = chain.first().ok_or(CertificateError::Form)?;
        let (from, until) = validity(leaf)?;
        let account = account_of(leaf).ok_or(CertificateError::Name)?;
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateError::Key)?;
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|_| CertificateError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified
            .keys_match()
            .map_err(|_| CertificateError::Mismatch)?;
        self.current.store(Some(Arc::new(Current {
            key: Arc::new(certified),
            account,
            from,
            until,
        })));
        self.changed.send_modify(|number| *number += 1);
        Ok(())
    }

    /// Tells of every new certificate.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Who this process is.
    pub fn account(&self) -> Option<Account> {
        let current = self.current.load();
        current.as_ref().map(|current| current.account.clone())
    }

    /// Certificates as they are shown to peers.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let current = self.current.load();
        current
            .as_ref()
            .map(|current| current.key.cert.clone())
            .unwrap_or_default()
    }

    /// Time left until the certificate ends; zero without one.
    pub fn left(&self, now: SystemTime) -> Duration {
        let current = self.current.load();
        current
            .as_ref()
            .and_then(|current| current.until.duration_since(now).ok())
            .unwrap_or_default()
    }

    /// Time left until the certificate ends, zero once it has; none as long as there was none. For whoever watches: what
    /// has ended must not look like what was never there.
    pub fn ends_in(&self, now: SystemTime) -> Option<Duration> {
        self.account().map(|_| self.left(now))
    }

    /// Whether it has a certificate that is valid now; else why not, in words.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self, now: SystemTime) -> Result<(), &'static str> {
        match self.current.load().as_ref() {
            None => Err("the operator has not signed its certificate yet"),
            Some(current) if now >= current.until => Err("its certificate has ended"),
            Some(_) => Ok(()),
        }
    }

    /// Time until two thirds of the certificate's life are over; zero without one.
    pub fn renew_in(&self, now: SystemTime) -> Duration {
        let current = self.current.load();
        let Some(current) = current.as_ref() else {
            return Duration::ZERO;
        };
        let life = current
            .until
            .duration_since(current.from)
            .unwrap_or_default();
        let due = current.from + life * 2 / 3;
        due.duration_since(now).unwrap_or_default()
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        current.as_ref().map(|current| Arc::clone(&current.key))
    }
}

impl ResolvesServerCert for Member {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for Member {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        self.key().is_some()
    }
}
