//! Who issues ServiceAccount tokens, and with which keys, as the API server says it (OpenID Connect
//! Discovery 1.0, section 3). Every ServiceAccount may ask.

use kube::Client;
use serde::Deserialize;

/// The issuer of a cluster's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// What tokens say in `iss`.
    pub name: String,
    /// Its keys (RFC 7517), as they came.
    pub keys: String,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer, or refused.
    #[error("could not ask the API server")]
    Ask(#[from] kube::Error),
    /// A fault of ours.
    #[error("could not make the request")]
    Request(#[from] http::Error),
    /// It answered something else.
    #[error("the API server does not say who issues its tokens")]
    Form(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

/// Asks the API server.
///
/// # Errors
/// If it does not answer with what is asked for.
pub async fn read(client: &Client) -> Result<Issuer, Error> {
    let get = |path: &str| http::Request::get(path).body(Vec::new());
    let discovery = client
        .request_text(get("/.well-known/openid-configuration")?)
        .await?;
    let Discovery { issuer: name } = serde_json::from_str(&discovery)?;
    let keys = client.request_text(get("/openid/v1/jwks")?).await?;
    Ok(Issuer { name, keys })
}
