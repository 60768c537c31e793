//! The mesh's own certificate authority: makes itself and signs requests of members. Pure but for
//! randomness: time and what is granted are arguments.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Account, validity};

/// Largest request that is read, in bytes; a real one has about 400.
pub const LARGEST_REQUEST: usize = 8 << 10;
/// Clocks may differ by this much: a certificate is valid from a little before it was made.
const BACKDATED: Duration = Duration::from_mins(5);

/// Why nothing was signed. Never holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Its key and certificate cannot be used.
    #[error("the authority is not usable: {0}")]
    Unusable(&'static str),
    /// The request is too large, not PEM, not PKCS #10, or not signed by its own key.
    #[error("this is not a certificate request: {0}")]
    Request(&'static str),
    /// Only ECDSA with P-256 or P-384 is signed.
    #[error("the key of the request is of a sort that is not signed; use ECDSA P-256")]
    Algorithm,
    /// A name that is granted cannot be written into a certificate.
    #[error("the name cannot be written into a certificate")]
    Name,
    /// The library could not sign.
    #[error("could not sign")]
    Sign,
}

impl AuthorityError {
    /// The reason in PascalCase.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unusable(_) => "AuthorityUnusable",
            Self::Request(_) => "InvalidRequest",
            Self::Algorithm => "KeyAlgorithm",
            Self::Name => "InvalidName",
            Self::Sign => "NotSigned",
        }
    }
}

/// What somebody has proven to be. The names in the request itself do not count.
#[derive(Debug, Clone)]
pub struct Grant<'a> {
    /// The account.
    pub account: &'a Account,
    /// Host names by which clients may know it.
    pub hosts: &'a [String],
    /// How long the certificate lives.
    pub lifetime: Duration,
}

/// An authority with its key.
pub struct Authority {
    certificate: String,
    expires: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate(now: SystemTime, lifetime: Duration) -> Result<Self, AuthorityError> {
        let sign = |_| AuthorityError::Sign;
        let key = KeyPair::generate().map_err(sign)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "inferencemesh.dev authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now - backdated(lifetime)).into();
        params.not_after = (now + lifetime).into();
        let certificate = params.self_signed(&key).map_err(sign)?.pem();
        Self::load(&certificate, &key.serialize_pem())
    }

    /// From PEM.
    ///
    /// # Errors
    /// If they are not a certificate of an authority and its key.
    pub fn load(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let unusable = AuthorityError::Unusable;
        let key = KeyPair::from_pem(key).map_err(|_| unusable("its key cannot be read"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| unusable("its certificate cannot be read"))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|_| unusable("its certificate cannot be read"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(unusable("its certificate is not for its key"));
        }
        if !parsed.is_ca() {
            return Err(unusable("its certificate is not that of an authority"));
        }
        let (_, expires) =
            validity(&der).map_err(|_| unusable("its certificate cannot be read"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|_| unusable("its certificate cannot be read"))?;
        Ok(Self {
            certificate: certificate.to_owned(),
            expires,
            issuer,
        })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, PEM: for the Secret that keeps it, and nothing else.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When it ends.
    pub const fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Signs a request (PEM) for what was proven, and gives the certificate as PEM. Whatever names and
    /// rights the request asks for are ignored.
    ///
    /// # Errors
    /// If the request is none, or not signed by the key that it is for.
    pub fn sign(
        &self,
        request: &str,
        grant: &Grant<'_>,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        if request.len() > LARGEST_REQUEST {
            return Err(AuthorityError::Request("it is too large"));
        }
        let asked = CertificateSigningRequestParams::from_pem(request)
            .map_err(|_| AuthorityError::Request("it cannot be read, or its signature is wrong"))?;
        let algorithm = asked.public_key.algorithm();
        if algorithm != &PKCS_ECDSA_P256_SHA256 && algorithm != &PKCS_ECDSA_P384_SHA384 {
            return Err(AuthorityError::Algorithm);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "inferencemesh.dev member");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = names(grant)?;
        params.not_before = (now - backdated(grant.lifetime)).into();
        // Nothing outlives what it rests on.
        params.not_after = (now + grant.lifetime).min(self.expires).into();
        let signed = params
            .signed_by(&asked.public_key, &self.issuer)
            .map_err(|_| AuthorityError::Sign)?;
        Ok(signed.pem())
    }
}

fn backdated(lifetime: Duration) -> Duration {
    BACKDATED.min(lifetime / 10)
}

fn names(grant: &Grant<'_>) -> Result<Vec<SanType>, AuthorityError> {
    let uri = grant.account.uri();
    let mut names = vec![SanType::URI(
        uri.try_into().map_err(|_| AuthorityError::Name)?,
    )];
    for host in grant.hosts {
        let host = host.as_str().try_into().map_err(|_| AuthorityError::Name)?;
        names.push(SanType::DnsName(host));
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
