//! Serving HTTP/1.1, plain or over TLS, with limits that hold before any handler runs: a handshake and a
//! head must come within a time, and a peer that stops reading loses its connection. At the end running
//! answers get some grace, and whoever keeps a connection is told to leave it before it is closed: a request
//! that meets a closing connection fails, and a POST is not sent again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::Shutdown;

/// How long a connection of the last moment is waited for to say what it wants.
const LAST: Duration = Duration::from_secs(1);

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest time for a request's head, also while a connection waits for its next request.
    pub head: Duration,
    /// Longest time for which a peer may leave what was sent unread.
    pub unread: Duration,
    /// How long running answers may go on after the end began.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            unread: Duration::from_mins(2),
            grace: Duration::from_secs(10),
        }
    }
}

/// The certificate that the peer of a connection has shown and the handshake has verified; beside every
/// request of that connection.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub CertificateDer<'static>);

/// Serves `router` until the shutdown begins, then waits for running answers. True if all of them
/// ended by themselves.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: &Shutdown,
) -> bool {
    run(listener, Door::new(None, router, limits, shutdown)).await
}

/// The same over TLS; requests carry a [`PeerCertificate`] if the peer has shown one.
pub async fn serve_tls(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    limits: Limits,
    shutdown: &Shutdown,
) -> bool {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    run(
        listener,
        Door::new(Some(acceptor), router, limits, shutdown),
    )
    .await
}

/// How long a connection goes on.
enum Stay {
    /// For one request after the next, until it is told that the end began.
    Watched(Watcher),
    /// For one request: it came at the last moment. Held so that it is waited for.
    Once(Watcher),
}

impl Stay {
    fn once(self) -> Self {
        let (Self::Watched(watcher) | Self::Once(watcher)) = self;
        Self::Once(watcher)
    }
}

#[derive(Clone)]
struct Door {
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
}

async fn run(listener: TcpListener, door: Door) -> bool {
    let graceful = GracefulShutdown::new();
    let ended = door.shutdown.token.clone();
    while let Some(accepted) = ended.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => door.open(stream, Stay::Watched(graceful.watcher())),
            Err(error) => {
                // Out of file descriptors, mostly: others must end first.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Who has connected already and was not accepted yet would be reset.
    let accept = || tokio::task::unconstrained(listener.accept());
    while let Some(Ok((stream, _))) = accept().now_or_never() {
        door.open(stream, Stay::Once(graceful.watcher()));
    }
    drop(listener);
    tokio::time::timeout(door.limits.grace, graceful.shutdown())
        .await
        .is_ok()
}

impl Door {
    fn new(tls: Option<TlsAcceptor>, router: Router, limits: Limits, shutdown: &Shutdown) -> Self {
        Self {
            tls,
            router,
            limits,
            shutdown: shutdown.clone(),
        }
    }

    /// Serves one connection in the background.
    fn open(&self, stream: TcpStream, stay: Stay) {
        prepare(&stream, self.limits);
        let door = self.clone();
        self.shutdown
            .spawn(async move { door.admit(stream, stay).await });
    }

    /// One connection, from its first byte to its last.
    async fn admit(self, stream: TcpStream, stay: Stay) {
        let Some(acceptor) = &self.tls else {
            return self.speak(TokioIo::new(stream), None, stay).await;
        };
        let mut shaking = acceptor.accept(stream);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.head(&stay), &mut shaking) => shaken,
            // Who is at it when the end begins may say what it wants.
            () = self.shutdown.token.cancelled() => tokio::time::timeout(LAST, shaking).await,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let stay = if self.shutdown.token.is_cancelled() {
                    stay.once()
                } else {
                    stay
                };
                let shown = stream.get_ref().1.peer_certificates();
                let shown = shown.and_then(|all| all.first().cloned());
                let peer = shown.map(PeerCertificate);
                self.speak(TokioIo::new(stream), peer, stay).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        }
    }

    /// How long a handshake and a head may take.
    fn head(&self, stay: &Stay) -> Duration {
        match stay {
            Stay::Watched(_) => self.limits.head,
            Stay::Once(_) => self.limits.head.min(LAST),
        }
    }

    async fn speak<S>(&self, stream: S, peer: Option<PeerCertificate>, stay: Stay)
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (router, shutdown) = (self.router.clone(), self.shutdown.clone());
        let service = tower::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let (answered, shutdown) = (router.clone().oneshot(request), shutdown.clone());
            async move {
                let answered = answered.await;
                answered
                    .map(|answer| parting(answer, &shutdown))
                    .map_err(|never: Infallible| never)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(matches!(stay, Stay::Watched(_)))
            .header_read_timeout(self.head(&stay))
            .serve_connection(stream, TowerToHyperService::new(service));
        let ended = match stay {
            Stay::Watched(watcher) => watcher.watch(connection).await,
            Stay::Once(watcher) => {
                let ended = connection.await;
                drop(watcher);
                ended
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// Tells the peer to leave this connection with this answer, once nothing more should be sent here.
fn parting(mut answer: Response, shutdown: &Shutdown) -> Response {
    if shutdown.draining() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

/// No waiting for more to send (a token must not wait for the next), and an end to unread data.
fn prepare(stream: &TcpStream, limits: Limits) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limits.unread)) {
        tracing::debug!(%error, "could not set TCP_USER_TIMEOUT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits.unread;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Limits, serve};
    use crate::Shutdown;

    async fn start(
        limits: Limits,
        shutdown: &Shutdown,
    ) -> (SocketAddr, impl Future<Output = bool>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", get(|| async { "hello" }));
        let shutdown = shutdown.clone();
        let server = async move { serve(listener, router, limits, &shutdown).await };
        (address, server)
    }

    async fn answer_to(request: &[u8], limits: Limits) -> String {
        let shutdown = Shutdown::new();
        let (address, server) = start(limits, &shutdown).await;
        let client = async {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(request).await.expect("sent");
            let mut text = String::new();
            stream
                .read_to_string(&mut text)
                .await
                .expect("read to the end");
            shutdown.token.cancel();
            text
        };
        tokio::join!(server, client).1
    }

    #[tokio::test]
    async fn a_request_is_answered_and_half_a_head_is_not_waited_for() {
        let limits = Limits {
            head: Duration::from_millis(200),
            ..Limits::default()
        };
        let whole = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert!(answer_to(whole, limits).await.ends_with("hello"));
        let half = answer_to(b"GET / HTTP/1.1\r\nhost:", limits).await;
        assert!(!half.contains("hello"), "{half}");
    }

    /// Sends a request over a connection that stays, and reads the answer.
    async fn ask(stream: &mut TcpStream) -> String {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let (mut text, mut buffer) = (String::new(), [0; 1024]);
        while !text.ends_with("hello") {
            let read = stream.read(&mut buffer).await.expect("an answer");
            assert_ne!(read, 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        }
        text.to_lowercase()
    }

    #[tokio::test]
    async fn who_keeps_a_connection_is_told_to_leave_before_the_end() {
        let shutdown = Shutdown::new();
        let (address, server) = start(Limits::default(), &shutdown).await;
        let client = async {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let before = ask(&mut stream).await;
            assert!(!before.contains("connection: close"), "{before}");
            let drained = shutdown.clone();
            let draining = async move { drained.drain(Duration::from_mins(1)).await };
            let asked = async {
                shutdown.until_draining().await;
                let last = ask(&mut stream).await;
                assert!(last.contains("connection: close"), "{last}");
                assert_eq!(stream.read(&mut [0; 8]).await.expect("an end"), 0);
                // Others are still answered until the end itself.
                let mut other = TcpStream::connect(address).await.expect("a connection");
                ask(&mut other).await;
                shutdown.token.cancel();
            };
            tokio::join!(draining, asked);
        };
        assert!(tokio::join!(server, client).0, "nothing was cut");
    }

    #[tokio::test]
    async fn who_connects_at_the_last_moment_is_answered_once() {
        let shutdown = Shutdown::new();
        let (address, server) = start(Limits::default(), &shutdown).await;
        // The end begins before anything was accepted.
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        shutdown.token.cancel();
        let client = async {
            let answer = ask(&mut stream).await;
            assert!(answer.contains("connection: close"), "{answer}");
            assert_eq!(stream.read(&mut [0; 8]).await.expect("an end"), 0);
        };
        assert!(tokio::join!(server, client).0, "nothing was cut");
    }
}
