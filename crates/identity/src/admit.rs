//! Who may use a model server: gateways by their certificate, applications by the token of their
//! ServiceAccount where the model serves their namespace. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use crate::{Account, Trust, account_of, validity};

/// Why somebody is not served. Says nothing about what was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither a certificate nor a token was shown.
    #[error(
        "show the certificate of a gateway, or a ServiceAccount token of audience inferencemesh.dev"
    )]
    Nobody,
    /// The certificate is not a gateway's, or has ended.
    #[error("only gateways are served by certificate")]
    NotAGateway,
    /// The token does not hold.
    #[error("the token is not valid here")]
    Token,
    /// The model is of another namespace.
    #[error("this model serves its own namespace only")]
    Namespace,
}

impl Refusal {
    /// The reason in PascalCase.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Nobody => "NoIdentity",
            Self::NotAGateway => "NotAGateway",
            Self::Token => "TokenInvalid",
            Self::Namespace => "OtherNamespace",
        }
    }
}

/// The rule of one model server.
#[derive(Debug, Clone)]
pub struct Admission {
    /// What is taken as proof.
    pub trust: Arc<Trust>,
    /// The account of the gateways; its namespace is the mesh's own, whose models serve everybody.
    pub gateway: Account,
    /// Namespace of the model.
    pub namespace: String,
}

impl Admission {
    /// Says who it is, or why that one is not served. `certificate`: what the handshake has verified.
    ///
    /// # Errors
    /// If nothing shown is enough.
    pub fn admit(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        bearer: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Account, Refusal> {
        if let Some(certificate) = certificate {
            // A connection may live longer than the certificate that it began with.
            let lives = validity(certificate).is_ok_and(|(_, until)| now < until);
            if let Some(account) = account_of(certificate)
                && lives
                && account == self.gateway
            {
                return Ok(account);
            }
            if bearer.is_none() {
                return Err(Refusal::NotAGateway);
            }
        }
        let token = bearer.ok_or(Refusal::Nobody)?;
        let found = self.trust.verify_token(token);
        let account = found.map_err(|_| Refusal::Token)?.account();
        let everybody = self.namespace == self.gateway.namespace;
        if everybody || account.namespace == self.namespace {
            Ok(account)
        } else {
            Err(Refusal::Namespace)
        }
    }
}
