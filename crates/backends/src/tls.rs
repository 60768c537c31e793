//! TLS as a client: aws-lc-rs, the platform's certificate authorities and those of the settings, or none but those that an
//! organization declared.
//!
//! A machine without any authority (a minimal container) is no failure here: plain http works, and
//! https fails when it is used, with a TLS error.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::Error;

/// Settings for all clients.
pub(crate) fn config(extra_roots: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for (index, root) in extra_roots.iter().enumerate() {
        roots
            .add(CertificateDer::from(root.clone()))
            .map_err(|_| Error::Root { index })?;
    }
    let platform = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(platform.certs);
    if roots.is_empty() {
        tracing::warn!("no certificate authorities on this machine: https backends will fail");
    }
    trusting(roots)
}

/// The authorities of a text (PEM), all of which must be readable.
pub(crate) fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| Error::Authority("it is not PEM"))?;
        roots
            .add(certificate)
            .map_err(|_| Error::Authority("a certificate in it cannot be read"))?;
    }
    if roots.is_empty() {
        return Err(Error::Authority("it holds no certificate in PEM"));
    }
    Ok(roots)
}

/// Settings that trust these authorities and no others.
pub(crate) fn trusting(roots: impl Into<Arc<RootCertStore>>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls {
            cause: error.to_string(),
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
