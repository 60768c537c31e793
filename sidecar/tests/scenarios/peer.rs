//! A peer of the mesh that does what it is told and keeps what it was sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_core::pushed::{BEAT, Line, PATH};
use mesh_identity::{Member, server_config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Arrived {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Pieces of an answer's body, as the test gives them; the body ends when the test lets go of the sender.
pub(crate) type Pieces = mpsc::UnboundedSender<Bytes>;

/// What it does with one request.
pub(crate) enum Act {
    /// Answers.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Answers with a body of which the test sends the pieces.
    Stream(mpsc::UnboundedReceiver<Bytes>),
    /// Ends the connection without an answer.
    Hangup,
    /// Says nothing.
    Silence,
}

impl Act {
    pub(crate) fn json(status: u16, text: &str) -> Self {
        let kind = ("content-type", String::from("application/json"));
        Self::Answer(status, vec![kind], text.to_owned())
    }

    pub(crate) fn stream() -> (Pieces, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self::Stream(receiver))
    }
}

#[derive(Default)]
struct Script {
    acts: VecDeque<Act>,
    arrived: Vec<Arrived>,
    forgets: bool,
    /// Takes what comes and answers nothing.
    hangs: bool,
    /// Lines for those who ask for a snapshot; none: there is no such path.
    lines: Option<String>,
}

struct Shared {
    script: Mutex<Script>,
    told: watch::Sender<u64>,
    left: watch::Sender<usize>,
    came: watch::Sender<usize>,
}

/// A peer. Gone, with its connections, when dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Counts who left before the end.
struct Leaving(Arc<Shared>, bool);

impl Leaving {
    fn stayed(&mut self) {
        self.1 = true;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.1 {
            self.0.left.send_modify(|count| *count += 1);
        }
    }
}

impl Peer {
    pub(crate) async fn start(member: &Arc<Member>) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), member).await
    }

    pub(crate) async fn at(address: SocketAddr, member: &Arc<Member>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let config = server_config(member, None).expect("TLS");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            told: watch::Sender::new(0),
            left: watch::Sender::new(0),
            came: watch::Sender::new(0),
        });
        let peer = Self {
            address,
            shared,
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
        };
        let (shared, stop, tracker) = (
            Arc::clone(&peer.shared),
            peer.stop.clone(),
            peer.tracker.clone(),
        );
        peer.tracker.spawn(async move {
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else { continue };
                // As every listener of the mesh: a piece must not wait for the next.
                stream.set_nodelay(true).expect("no delay");
                let serving = serve(acceptor.clone(), stream, Arc::clone(&shared));
                tracker.spawn(stop.clone().run_until_cancelled_owned(serving));
            }
        });
        peer
    }

    /// What it does with the next request for which nothing is told yet.
    pub(crate) fn then(&self, act: Act) {
        self.script().acts.push_back(act);
    }

    /// From now on whoever asks is told these lines, and whoever was told is told them too.
    pub(crate) fn push(&self, lines: &str) {
        self.script().lines = Some(lines.to_owned());
        self.shared.told.send_modify(|number| *number += 1);
    }

    /// From now on it takes what comes and answers nothing, or answers again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.script().hangs = hangs;
    }

    /// Keeps nothing of what arrives from now on.
    pub(crate) fn forget(&self) {
        self.script().forgets = true;
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.script().arrived.clone()
    }

    pub(crate) async fn wait_for(&self, count: usize) {
        let mut came = self.shared.came.subscribe();
        limited(came.wait_for(|number| *number >= count))
            .await
            .expect("alive");
    }

    pub(crate) async fn wait_for_leaving(&self) {
        let mut left = self.shared.left.subscribe();
        limited(left.wait_for(|number| *number > 0))
            .await
            .expect("alive");
    }

    /// Gone at once, with every connection; gives what arrived.
    pub(crate) async fn kill(self) -> Vec<Arrived> {
        self.stop.cancel();
        self.tracker.close();
        limited(self.tracker.wait()).await;
        self.arrived()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().expect("no test panicked")
    }
}

/// A test that waits for ever says nothing.
pub(crate) async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work)
        .await
        .expect("within a minute")
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(|request| handle(Arc::clone(&shared), request));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    drop(serving.await);
}

async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let hangs = shared.script.lock().expect("no test panicked").hangs;
    if hangs {
        return std::future::pending().await;
    }
    if request.uri().path() == PATH {
        return Ok(told(&shared));
    }
    let (parts, body) = request.into_parts();
    let mut leaving = Leaving(Arc::clone(&shared), false);
    let body = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let act = {
        let mut script = shared.script.lock().expect("no test panicked");
        if !script.forgets {
            script.arrived.push(Arrived {
                path: parts.uri.to_string(),
                headers: parts.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            });
        }
        script.acts.pop_front()
    };
    shared.came.send_modify(|number| *number += 1);
    let answer = match act.unwrap_or_else(|| Act::json(200, "{\"all\":\"well\"}")) {
        Act::Answer(status, headers, text) => {
            leaving.stayed();
            let mut answer = Response::new(Body::from(text));
            *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
            for (name, value) in headers {
                answer
                    .headers_mut()
                    .insert(name, value.parse().expect("a header"));
            }
            answer
        }
        Act::Stream(pieces) => {
            let pieces = futures::stream::unfold(
                (pieces, leaving),
                |(mut pieces, mut leaving)| async move {
                    let Some(piece) = pieces.recv().await else {
                        leaving.stayed();
                        return None;
                    };
                    Some((Ok::<_, Infallible>(piece), (pieces, leaving)))
                },
            );
            let mut answer = Response::new(Body::from_stream(pieces));
            let kind = "text/event-stream".parse().expect("a header");
            answer.headers_mut().insert("content-type", kind);
            answer
        }
        Act::Hangup => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Act::Silence => std::future::pending().await,
    };
    Ok(answer)
}

fn told(shared: &Arc<Shared>) -> Response<Body> {
    let lines = || {
        shared
            .script
            .lock()
            .expect("no test panicked")
            .lines
            .clone()
    };
    if lines().is_none() {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return answer;
    }
    let (shared, mut changed) = (Arc::clone(shared), shared.told.subscribe());
    changed.mark_changed();
    let lines = futures::stream::unfold((shared, changed), |(shared, mut changed)| async move {
        // As a gateway does, whether there is news or not.
        match tokio::time::timeout(BEAT, changed.changed()).await {
            Ok(news) => news.ok()?,
            Err(_) => return Some((Ok(Bytes::from(Line::Alive.write())), (shared, changed))),
        }
        let lines = shared
            .script
            .lock()
            .expect("no test panicked")
            .lines
            .clone();
        Some((Ok::<_, Infallible>(Bytes::from(lines?)), (shared, changed)))
    });
    Response::new(Body::from_stream(lines))
}
