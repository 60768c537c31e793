//! ServiceAccount tokens of Kubernetes: JSON Web Tokens (RFC 7519) signed by the API server, verified
//! with its public keys (RFC 7517), which every ServiceAccount may read at `/openid/v1/jwks`. No call is
//! needed, so identity survives an outage of the API server.

use std::collections::HashMap;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

/// Audience that tokens for the mesh carry.
pub const AUDIENCE: &str = "inferencemesh.dev";
/// Longest token in bytes; real ones have about a thousand.
const LONGEST: usize = 16 << 10;
/// Clocks may differ by this many seconds.
const LEEWAY: u64 = 60;

/// Who a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Namespace of the ServiceAccount.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod that the token is bound to, if it is.
    pub pod: Option<String>,
}

impl ServiceAccount {
    /// The account, whatever pod it was.
    pub fn account(&self) -> crate::Account {
        crate::Account::new(&self.namespace, &self.name)
    }
}

/// Why a token is not accepted. Never holds the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a token, or far too long for one.
    #[error("this is not a ServiceAccount token")]
    Form,
    /// Signed by a key that the API server does not list, or not signed.
    #[error("the token is signed by nobody we know")]
    Key,
    /// The signature, audience, issuer or time does not hold.
    #[error("the token is not valid here")]
    Invalid,
    /// It does not name a ServiceAccount.
    #[error("the token names no ServiceAccount")]
    Subject,
    /// The keys of the API server could not be read.
    #[error("the key set is not usable")]
    KeySet,
}

impl Error {
    /// The reason in PascalCase.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Form => "TokenForm",
            Self::Key => "TokenKey",
            Self::Invalid => "TokenInvalid",
            Self::Subject => "TokenSubject",
            Self::KeySet => "KeySet",
        }
    }
}

/// Verifies tokens of one API server.
#[derive(Clone)]
pub struct TokenVerifier {
    keys: HashMap<String, (DecodingKey, Algorithm)>,
    issuer: String,
    audience: String,
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("keys", &self.keys.len())
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl TokenVerifier {
    /// Reads the key set (JSON of `/openid/v1/jwks`); tokens must come from `issuer` and be meant for
    /// `audience`.
    ///
    /// # Errors
    /// [`Error::KeySet`] if there is no key that can be used.
    pub fn new(key_set: &str, issuer: &str, audience: &str) -> Result<Self, Error> {
        let set: JwkSet = serde_json::from_str(key_set).map_err(|_| Error::KeySet)?;
        let mut keys = HashMap::new();
        for key in &set.keys {
            // What a key is decides how it may be used, whatever a token says.
            let algorithm = match &key.algorithm {
                AlgorithmParameters::RSA(_) => Algorithm::RS256,
                AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                    EllipticCurve::P256 => Algorithm::ES256,
                    EllipticCurve::P384 => Algorithm::ES384,
                    _ => continue,
                },
                _ => continue,
            };
            let (Some(id), Ok(decoding)) = (&key.common.key_id, DecodingKey::from_jwk(key)) else {
                continue;
            };
            keys.insert(id.clone(), (decoding, algorithm));
        }
        if keys.is_empty() {
            return Err(Error::KeySet);
        }
        Ok(Self {
            keys,
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        })
    }

    /// Says whose token this is.
    ///
    /// # Errors
    /// If anything about it does not hold.
    pub fn verify(&self, token: &[u8]) -> Result<ServiceAccount, Error> {
        if token.len() > LONGEST {
            return Err(Error::Form);
        }
        let token = std::str::from_utf8(token).map_err(|_| Error::Form)?;
        let header = decode_header(token).map_err(|_| Error::Form)?;
        let id = header.kid.ok_or(Error::Key)?;
        let (key, algorithm) = self.keys.get(&id).ok_or(Error::Key)?;
        let mut validation = Validation::new(*algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Claims>(token, key, &validation)
            .map_err(|_| Error::Invalid)?
            .claims;
        let Kubernetes {
            namespace,
            serviceaccount,
            pod,
        } = claims.kubernetes;
        let expected = format!("system:serviceaccount:{namespace}:{}", serviceaccount.name);
        if claims.sub != expected {
            return Err(Error::Subject);
        }
        Ok(ServiceAccount {
            namespace,
            name: serviceaccount.name,
            pod: pod.map(|pod| pod.name),
        })
    }
}

#[cfg(test)]
mod tests;
