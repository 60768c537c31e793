//! One peer of the mesh over TLS, with kept connections: the gateway, or a floor. It must prove who it is
//! before a byte of a request is written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_identity::{Account, Trust, client_config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// Longest time until a peer has proven who it is.
const CONNECT: Duration = Duration::from_secs(3);
/// Connections that wait for their next request end before the peer ends them.
const IDLE: Duration = Duration::from_secs(20);
/// Most connections that wait.
const KEPT: usize = 16;
/// A peer that is gone without a word is noticed after this.
const UNREAD: Duration = Duration::from_secs(20);
/// How often a silent peer is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Why a peer gave no answer. Holds nothing of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody answers, or it does not prove who it is.
    #[error("it cannot be reached, or does not prove who it is")]
    Connect,
    /// The connection ended before the answer began.
    #[error("the connection ended before the answer began")]
    Cut,
    /// Nothing came in time.
    #[error("no answer began in time")]
    Timeout,
    /// Somebody between us and it says that it is not there.
    #[error("it is not there")]
    Absent,
}

impl Failure {
    /// The word of the label `outcome`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Cut => "cut",
            Self::Timeout => "timeout",
            Self::Absent => "absent",
        }
    }
}

/// The address is not of the form `https://host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected https://host:port")]
pub struct NotAnAddress;

/// A peer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peer {
    client: Client<Dial, Full<Bytes>>,
    authority: Authority,
}

impl Peer {
    /// The peer at `address`; with `account` it must be that one, else the one of that host name.
    ///
    /// # Errors
    /// If the address is none, or TLS cannot be prepared.
    pub(crate) fn new(
        address: &Uri,
        account: Option<Account>,
        trust: &Arc<Trust>,
    ) -> Result<Self, NotAnAddress> {
        let (Some("https"), Some(authority)) = (address.scheme_str(), address.authority()) else {
            return Err(NotAnAddress);
        };
        let config = client_config(None, trust, account).map_err(|_| NotAnAddress)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| NotAnAddress)?;
        let dial = Dial {
            host: host.into(),
            port: authority.port_u16().unwrap_or(443),
            name,
            tls: TlsConnector::from(Arc::new(config)),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT)
            .build(dial);
        Ok(Self {
            client,
            authority: authority.clone(),
        })
    }

    /// Sends a request; gives the answer once its head is there.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let path = request.uri().path_and_query().cloned();
        let uri = Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(self.authority.clone())
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build();
        *request.uri_mut() = uri.map_err(|_| Failure::Connect)?;
        match tokio::time::timeout(limit, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_connect() => {
                tracing::debug!(peer = %self.authority, cause = %Causes(&error), "could not connect");
                Err(Failure::Connect)
            }
            Ok(Err(_)) => Err(Failure::Cut),
            Err(_) => Err(Failure::Timeout),
        }
    }
}

/// An error with what caused it.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// Makes connections to one address.
#[derive(Clone)]
struct Dial {
    host: Arc<str>,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Dial {
    async fn open(self) -> io::Result<Wire> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        prepare(&stream);
        let stream = self.tls.connect(self.name, stream).await?;
        Ok(Wire(TokioIo::new(stream)))
    }
}

fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let alive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    if let Err(error) = socket.set_tcp_keepalive(&alive) {
        tracing::debug!(%error, "could not set SO_KEEPALIVE");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_user_timeout(Some(UNREAD)) {
        tracing::debug!(%error, "could not set TCP_USER_TIMEOUT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = UNREAD;
}

impl Service<Uri> for Dial {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let open = tokio::time::timeout(CONNECT, self.clone().open());
        Box::pin(async move {
            open.await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

/// A connection.
struct Wire(TokioIo<TlsStream<TcpStream>>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }
}
