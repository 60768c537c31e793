//! An API server's part in who is who: signs ServiceAccount tokens and publishes its keys.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::json;

/// Who issues the tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// The key of an API server.
pub struct Accounts {
    key: EncodingKey,
    /// Its public half (RFC 7517).
    pub keys: String,
}

impl Default for Accounts {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts")
    }
}

impl Accounts {
    /// A new key.
    ///
    /// # Panics
    /// Without randomness.
    #[expect(clippy::expect_used, reason = "a test that has no randomness ends")]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let point = key.der_bytes();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "alg": "ES256",
            "x": part(1..33), "y": part(33..65)}]});
        Self {
            key: EncodingKey::from_ec_der(&key.serialize_der()),
            keys: keys.to_string(),
        }
    }

    /// A token of a ServiceAccount for ten minutes.
    ///
    /// # Panics
    /// If the key cannot sign.
    #[expect(clippy::expect_used, reason = "a test that cannot sign ends")]
    pub fn token(&self, namespace: &str, name: &str, audience: &str) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": [audience], "exp": now + 600, "nbf": now - 5, "iat": now - 5,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "1"}},
        });
        let header = Header {
            kid: Some(String::from("one")),
            ..Header::new(Algorithm::ES256)
        };
        encode(&header, &claims, &self.key).expect("a token")
    }
}
