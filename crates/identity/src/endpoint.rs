//! Clients of members: of the operator's signing endpoint, and of any member that is known by its account.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Account, Member, Trust, client_config};

/// Path of the endpoint.
pub const SIGN_PATH: &str = "/v1/certificates";
/// Longest time for all of it.
const LIMIT: Duration = Duration::from_secs(10);
/// Largest answer in bytes.
const LARGEST: usize = 64 << 10;

/// Why there is no certificate. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is not an https URL.
    #[error("the address of the signing endpoint is not usable: expected https://host:port")]
    Address,
    /// Nobody answers there.
    #[error("it cannot be reached: {0}")]
    Unreachable(std::io::ErrorKind),
    /// Who answers is not the member of this mesh that was asked.
    #[error("who answers is not who was asked, or TLS failed: {0}")]
    Tls(String),
    /// The answer did not come whole or not in time.
    #[error("it did not answer in time or in full")]
    Answer,
    /// It refused.
    #[error("it refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

/// Has a request (PEM) signed; gives the certificate as PEM.
///
/// # Errors
/// If the endpoint cannot be reached, cannot prove that it is the operator, or refuses.
pub async fn sign(
    url: &str,
    trust: &Arc<Trust>,
    token: &str,
    csr: String,
) -> Result<String, EndpointError> {
    tokio::time::timeout(LIMIT, ask(url, trust, token, csr))
        .await
        .unwrap_or(Err(EndpointError::Answer))
}

async fn ask(
    url: &str,
    trust: &Arc<Trust>,
    token: &str,
    csr: String,
) -> Result<String, EndpointError> {
    let uri: Uri = url.parse().map_err(|_| EndpointError::Address)?;
    let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(EndpointError::Address);
    };
    let port = uri.port_u16().unwrap_or(443);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| EndpointError::Address)?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let request = http::Request::post(SIGN_PATH)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/pkcs10")
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .body(Full::new(Bytes::from(csr)))
        .map_err(|_| EndpointError::Address)?;
    let config =
        client_config(None, trust, None).map_err(|error| EndpointError::Tls(error.to_string()))?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| EndpointError::Unreachable(error.kind()))?;
    let (status, body) = exchange(stream, (config, name), request, LARGEST).await?;
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        return Ok(text);
    }
    Err(EndpointError::Refused {
        status,
        message: words(&text),
    })
}

/// A member at an address, known by its account and not by a name of a host.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// Who it must prove to be.
    pub account: Account,
    /// Longest time for all of it.
    pub limit: Duration,
    /// Largest answer in bytes.
    pub largest: usize,
}

impl Peer {
    /// What it answers at `path`, asked by `member`.
    ///
    /// # Errors
    /// If it cannot be reached, cannot prove who it is, or refuses.
    pub async fn get(
        &self,
        path: &str,
        member: &Arc<Member>,
        trust: &Arc<Trust>,
    ) -> Result<Bytes, EndpointError> {
        let request = http::Request::get(path)
            .header(header::HOST, self.address.to_string())
            .body(Full::default())
            .map_err(|_| EndpointError::Address)?;
        let config = client_config(Some(member), trust, Some(self.account.clone()))
            .map_err(|error| EndpointError::Tls(error.to_string()))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let asking = async {
            let stream = TcpStream::connect(self.address)
                .await
                .map_err(|error| EndpointError::Unreachable(error.kind()))?;
            exchange(stream, (config, name), request, self.largest).await
        };
        let answered = tokio::time::timeout(self.limit, asking).await;
        let (status, body) = answered.unwrap_or(Err(EndpointError::Answer))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(EndpointError::Refused {
            status,
            message: words(&String::from_utf8_lossy(&body)),
        })
    }
}

/// One request on one connection.
async fn exchange(
    stream: TcpStream,
    (config, name): (ClientConfig, ServerName<'static>),
    request: http::Request<Full<Bytes>>,
    largest: usize,
) -> Result<(StatusCode, Bytes), EndpointError> {
    let (mut sender, connection) = opened(stream, (config, name)).await?;
    // The connection does its part while the question is asked, and ends when nothing is left to ask.
    let asking = async move { answer(&mut sender, request, largest).await };
    let (answered, _) = tokio::join!(asking, connection);
    answered
}

/// TLS, then HTTP: who sends, and what does its part for it while it is awaited.
pub(crate) async fn opened(
    stream: TcpStream,
    (config, name): (ClientConfig, ServerName<'static>),
) -> Result<
    (
        SendRequest<Full<Bytes>>,
        http1::Connection<TokioIo<TlsStream<TcpStream>>, Full<Bytes>>,
    ),
    EndpointError,
> {
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| EndpointError::Tls(error.to_string()))?;
    let opened = http1::handshake(TokioIo::new(stream)).await;
    opened.map_err(|_| EndpointError::Answer)
}

/// One question, and its answer of at most `largest` bytes.
pub(crate) async fn answer(
    sender: &mut SendRequest<Full<Bytes>>,
    request: http::Request<Full<Bytes>>,
    largest: usize,
) -> Result<(StatusCode, Bytes), EndpointError> {
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|_| EndpointError::Answer)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), largest).collect().await;
    let body = body.map_err(|_| EndpointError::Answer)?.to_bytes();
    Ok((status, body))
}

/// As much of somebody's words as a log line may hold.
pub(crate) fn words(text: &str) -> String {
    text.trim().chars().take(200).collect()
}
