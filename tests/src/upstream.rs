//! A scripted model server for tests and the bench: speaks OpenAI's API on a loopback port, does
//! what it is told (answers, fails, hangs, cuts, lies), and keeps every byte it was sent, so that a
//! test can assert what did *not* arrive.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
//!
//! let cloud = ScriptedUpstream::start().await?;
//! cloud.set(Answer::text("all is well"));
//! cloud.then(Behavior::status(503)); // the next request only
//! assert!(!cloud.saw("4111 1111 1111 1111"));
//! # Ok(())
//! # }
//! ```

mod answer;
mod behavior;
mod connection;
mod record;
mod reply;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use answer::Answer;
pub use behavior::Behavior;
pub use record::Received;

use connection::{Connections, Peer};
use record::Record;

/// A scripted model server. Stops, and cuts its connections, when dropped.
#[derive(Debug)]
pub struct ScriptedUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    server: TaskTracker,
}

/// What the handlers share with the test.
#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    record: Record,
    /// Requests whose caller left before the answer was complete.
    left: watch::Sender<usize>,
    /// Requests that arrived.
    arrived: watch::Sender<usize>,
}

#[derive(Debug)]
struct Script {
    always: Behavior,
    next: VecDeque<Behavior>,
    probe: Behavior,
}

impl ScriptedUpstream {
    /// Starts one that answers every request with a few words.
    ///
    /// # Errors
    /// If no loopback port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with_record(Record::new(true)).await
    }

    /// Starts one that keeps nothing of what it is sent, for measurements.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn unrecorded() -> anyhow::Result<Self> {
        Self::with_record(Record::new(false)).await
    }

    async fn with_record(record: Record) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("could not open a loopback port")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Mutex::new(Script {
                always: Behavior::Answer(Answer::text("all is well")),
                next: VecDeque::new(),
                probe: Behavior::Answer(Answer::text("")),
            }),
            record,
            left: watch::Sender::new(0),
            arrived: watch::Sender::new(0),
        });
        let stop = CancellationToken::new();
        let connections = Connections::new(listener, shared.record.clone(), stop.clone());
        let app = Router::new()
            .fallback(handle)
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<Peer>();
        let server = stop.clone().run_until_cancelled_owned(async move {
            // Ends only by being cancelled.
            axum::serve(connections, app).await.is_ok()
        });
        let tracker = TaskTracker::new();
        tracker.spawn(server);
        tracker.close();
        Ok(Self {
            address,
            shared,
            stop,
            server: tracker,
        })
    }

    /// Its address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base, as a backend declares it: `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it does from now on, whenever nothing else is told.
    pub fn set(&self, behavior: impl Into<Behavior>) {
        self.script().always = behavior.into();
    }

    /// What it does with the next request for which nothing is told yet; may be called several times.
    pub fn then(&self, behavior: impl Into<Behavior>) {
        self.script().next.push_back(behavior.into());
    }

    /// What it does when asked for its models; by default it lists them, whatever else it does.
    pub fn set_probe(&self, behavior: impl Into<Behavior>) {
        self.script().probe = behavior.into();
    }

    /// Everything it was asked, in order of arrival; empty if it keeps nothing.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.record.requests()
    }

    /// How often it was asked, lists of models included.
    pub fn count(&self) -> usize {
        *self.shared.arrived.borrow()
    }

    /// Connections that were opened to it.
    pub fn connections(&self) -> usize {
        self.shared.record.connections()
    }

    /// True if `text` occurs anywhere in the bytes it was sent: lines, headers, bodies.
    pub fn saw(&self, text: &str) -> bool {
        self.shared.record.saw(text)
    }

    /// All bytes it was sent, one piece per connection.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.shared.record.bytes()
    }

    /// Waits until `count` requests have arrived.
    pub async fn asked(&self, count: usize) {
        reach(&self.shared.arrived, count).await;
    }

    /// Waits until `count` callers have left before their answer was complete.
    pub async fn disconnected(&self, count: usize) {
        reach(&self.shared.left, count).await;
    }

    /// Goes away like a killed process: connections break, and once this returns new ones are
    /// refused.
    pub async fn kill(&self) {
        self.stop.cancel();
        self.server.wait().await;
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script()
    }
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn behavior(&self, probe: bool) -> Behavior {
        let mut script = self.script();
        if probe {
            return script.probe.clone();
        }
        let next = script.next.pop_front();
        next.unwrap_or_else(|| script.always.clone())
    }
}

/// Counts a caller who leaves: dropped with the handler or the answer before it is disarmed.
#[derive(Debug)]
struct Waiting {
    shared: Arc<Shared>,
    armed: bool,
}

impl Waiting {
    const fn done(&mut self) {
        self.armed = false;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.armed {
            self.shared.left.send_modify(|left| *left += 1);
        }
    }
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let waiting = Waiting {
        shared: Arc::clone(&shared),
        armed: true,
    };
    let received = Received::read(request).await;
    let behavior = shared.behavior(received.path.ends_with("/models"));
    shared.record.keep(&received);
    shared.arrived.send_modify(|count| *count += 1);
    reply::respond(behavior, &received, &peer, waiting).await
}

async fn reach(counter: &watch::Sender<usize>, count: usize) {
    // The sender lives in `self`, so the wait cannot fail.
    let _reached = counter
        .subscribe()
        .wait_for(|reached| *reached >= count)
        .await
        .is_ok();
}
