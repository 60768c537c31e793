//! Client of a running mesh's own endpoints (`/mesh/v1/…`), for the command line. Sends nothing
//! anywhere else: redirects are off, proxies of the environment are ignored.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use mesh_core::Sensitive;
use reqwest::{Client, RequestBuilder, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

/// A running mesh.
#[derive(Debug)]
pub struct Control {
    base: Url,
    key: Option<Sensitive<String>>,
    client: Client,
}

/// What came back, be it an answer or a refusal.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Value,
}

impl Reply {
    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why the running mesh did not answer as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not a URL.
    #[error("`{url}` is not an address: use for example http://127.0.0.1:8080")]
    Address {
        /// As given.
        url: String,
    },
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Client,
    /// What was given to trust holds no certificate.
    #[error("the file of certificate authorities holds none, or is not PEM")]
    Authorities,
    /// Nobody answers there.
    #[error(
        "no mesh answers at {base}: start one with `mesh up DIR`, or name another with --url or MESH_URL"
    )]
    Unreachable {
        /// The address.
        base: Url,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// It answered with an error.
    #[error("the mesh at {base} refused ({status}): {message}")]
    Refused {
        /// The address.
        base: Url,
        /// HTTP status.
        status: StatusCode,
        /// Its message.
        message: String,
    },
    /// It answered something else than JSON.
    #[error("what answers at {base} is not a mesh")]
    NotAMesh {
        /// The address.
        base: Url,
    },
}

impl Error {
    /// Name of the cause.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Address { .. } => "Address",
            Self::Client => "Client",
            Self::Authorities => "Authorities",
            Self::Unreachable { .. } => "Unreachable",
            Self::Refused { .. } => "Refused",
            Self::NotAMesh { .. } => "NotAMesh",
        }
    }
}

impl Control {
    /// A client of the mesh at `url`, with its API key if it asks for one.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn new(url: &str, key: Option<Sensitive<String>>) -> Result<Self, Error> {
        Self::trusting(url, key, "")
    }

    /// The same that trusts further certificate authorities: PEM, or empty.
    ///
    /// # Errors
    /// If the address is not one, or the authorities are none.
    pub fn trusting(
        url: &str,
        key: Option<Sensitive<String>>,
        authorities: &str,
    ) -> Result<Self, Error> {
        let wrong = || Error::Address {
            url: url.to_owned(),
        };
        let base = Url::parse(url).map_err(|_| wrong())?;
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let roots = roots(authorities)?;
        let tls = crate::tls::config(&roots).map_err(|_| Error::Client)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_mins(1))
            .build()
            .map_err(|_| Error::Client)?;
        Ok(Self { base, key, client })
    }

    /// The address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// `GET path`.
    ///
    /// # Errors
    /// If it is not reachable, refuses, or is not a mesh.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        let url = self.join(path)?;
        self.send(self.client.get(url)).await
    }

    /// `POST path` with a JSON body and further headers.
    ///
    /// # Errors
    /// If it is not reachable, refuses, or is not a mesh.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<Value, Error> {
        self.send(self.posting(path, body, headers)?).await
    }

    /// The same, where a refusal is no fault.
    ///
    /// # Errors
    /// If it is not reachable, or is not a mesh.
    pub async fn exchange(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Error> {
        self.reply(self.posting(path, body, headers)?).await
    }

    fn posting(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<RequestBuilder, Error> {
        let mut request = self
            .client
            .post(self.join(path)?)
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.body(body.to_string()))
    }

    fn join(&self, path: &str) -> Result<Url, Error> {
        self.base.join(path).map_err(|_| Error::Address {
            url: self.base.to_string(),
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, Error> {
        let reply = self.reply(request).await?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        let message = reply.body.pointer("/error/message").and_then(Value::as_str);
        Err(Error::Refused {
            base: self.base.clone(),
            status: reply.status,
            message: message.unwrap_or("no reason given").to_owned(),
        })
    }

    async fn reply(&self, request: RequestBuilder) -> Result<Reply, Error> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        };
        let unreachable = |source: reqwest::Error| Error::Unreachable {
            base: self.base.clone(),
            source: source.without_url(),
        };
        let answer = request.send().await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let body = serde_json::from_slice(&bytes).map_err(|_| Error::NotAMesh {
            base: self.base.clone(),
        })?;
        Ok(Reply {
            status,
            headers,
            body,
        })
    }
}

fn roots(authorities: &str) -> Result<Vec<Vec<u8>>, Error> {
    if authorities.is_empty() {
        return Ok(Vec::new());
    }
    let certificates = CertificateDer::pem_slice_iter(authorities.as_bytes())
        .map(|one| one.map(|certificate| certificate.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::Authorities)?;
    if certificates.is_empty() {
        return Err(Error::Authorities);
    }
    Ok(certificates)
}
