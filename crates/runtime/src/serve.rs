//! Serving HTTP/1.1, plain or over TLS, with limits that hold before any handler runs: a handshake and a
//! head must come within a time, and a peer that stops reading loses its connection. At the end running
//! answers get some grace.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
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
    let door = Door {
        tls: None,
        router,
        limits,
    };
    run(listener, door, shutdown).await
}

/// The same over TLS; requests carry a [`PeerCertificate`] if the peer has shown one.
pub async fn serve_tls(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    limits: Limits,
    shutdown: &Shutdown,
) -> bool {
    let door = Door {
        tls: Some(TlsAcceptor::from(Arc::new(tls))),
        router,
        limits,
    };
    run(listener, door, shutdown).await
}

#[derive(Clone)]
struct Door {
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
}

async fn run(listener: TcpListener, door: Door, shutdown: &Shutdown) -> bool {
    let graceful = GracefulShutdown::new();
    while let Some(accepted) = shutdown.token.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                prepare(&stream, door.limits);
                let (door, watcher) = (door.clone(), graceful.watcher());
                let ended = shutdown.token.clone();
                shutdown.spawn(async move { door.open(stream, watcher, &ended).await });
            }
            Err(error) => {
                // Out of file descriptors, mostly: others must end first.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tokio::time::timeout(door.limits.grace, graceful.shutdown())
        .await
        .is_ok()
}

impl Door {
    /// One connection, from its first byte to its last.
    async fn open(
        self,
        stream: TcpStream,
        watcher: Watcher,
        ended: &tokio_util::sync::CancellationToken,
    ) {
        let Some(acceptor) = &self.tls else {
            return self.speak(TokioIo::new(stream), None, watcher).await;
        };
        let shaking = tokio::time::timeout(self.limits.head, acceptor.accept(stream));
        match ended.run_until_cancelled(shaking).await {
            Some(Ok(Ok(stream))) => {
                let shown = stream.get_ref().1.peer_certificates();
                let shown = shown.and_then(|all| all.first().cloned());
                let peer = shown.map(PeerCertificate);
                self.speak(TokioIo::new(stream), peer, watcher).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%error, "a handshake failed"),
            Some(Err(_)) => tracing::debug!("a handshake took too long"),
            None => {}
        }
    }

    async fn speak<S>(&self, stream: S, peer: Option<PeerCertificate>, watcher: Watcher)
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = tower::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let answered = router.clone().oneshot(request);
            async move { answered.await.map_err(|never: Infallible| never) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .serve_connection(stream, TowerToHyperService::new(service));
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended");
        }
    }
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
    use std::time::Duration;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Limits, serve};
    use crate::Shutdown;

    async fn answer_to(request: &[u8], limits: Limits) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", get(|| async { "hello" }));
        let shutdown = Shutdown::new();
        let server = {
            let shutdown = shutdown.clone();
            async move { serve(listener, router, limits, &shutdown).await }
        };
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
}
