//! Certificates as this mesh has them (RFC 5280): one URI as the name, keys made where they are used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::Account;

/// Why a key or certificate cannot be used. Never holds one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The key could not be made.
    #[error("could not make a key")]
    Key,
    /// It is not PEM, or not a certificate.
    #[error("this is not a certificate in PEM")]
    Form,
    /// It is not for this key.
    #[error("the certificate is not for this key")]
    Mismatch,
    /// It does not name an account of the mesh.
    #[error("the certificate names no account of the mesh")]
    Name,
}

/// A key and the request for a certificate for it.
pub struct Request {
    /// The key, PEM. It leaves the process only into the pod's own folder.
    pub(crate) key: String,
    /// The request (PKCS #10), PEM.
    pub csr: String,
}

impl Request {
    /// Makes a key (ECDSA P-256). The request asks for no name: whoever signs knows from the token.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new() -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(|_| CertificateError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params
            .serialize_request(&key)
            .and_then(|csr| csr.pem())
            .map_err(|_| CertificateError::Key)?;
        Ok(Self {
            key: key.serialize_pem(),
            csr,
        })
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

/// The account that a certificate is for. None unless it has exactly one URI and that is one of ours: a
/// certificate with two names could be read in two ways.
pub fn account_of(certificate: &CertificateDer<'_>) -> Option<Account> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = parsed.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next()?;
    uris.next()
        .is_none()
        .then(|| Account::from_uri(uri))
        .flatten()
}

/// From when to when a certificate is valid.
///
/// # Errors
/// If it is not one.
pub fn validity(
    certificate: &CertificateDer<'_>,
) -> Result<(SystemTime, SystemTime), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::Form)?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).map_err(|_| CertificateError::Form)?;
        Ok(UNIX_EPOCH + Duration::from_secs(seconds))
    };
    let validity = parsed.validity();
    Ok((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}
