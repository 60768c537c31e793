//! The data plane as one value: what it is made of, and what binaries ask of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use mesh_backends::Backends;
use mesh_core::Caller;
use mesh_door::{Memory, Places};
use mesh_ledger::Ledger;
use mesh_protocol::Surface;
use prometheus_client::registry::Registry;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Callers;
use crate::clock::Clock;
use crate::decide::{Decider, Job, Question};
use crate::drill::{self, Drills};
use crate::handler::backend;
use crate::health::Health;
use crate::limit::Limits;
use crate::metrics::Gauges;
use crate::record::{Recorder, asking};
use crate::{ApiKeys, Error, Hints, Metrics, SnapshotStore, probe, push, record, stack};

/// From this size on reading and classifying a body takes more than 500 microseconds and leaves the
/// threads that serve connections.
const LARGE_BODY: usize = 32 * 1024;

/// Start-up settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Namespace of the mesh itself, and of callers on one machine.
    pub mesh_namespace: String,
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// Memory for all request bodies that are being read or decided, in bytes; one more is refused.
    pub body_memory: usize,
    /// Longest time a request body may take.
    pub body_timeout: Duration,
    /// Deepest nesting of a request body.
    pub json_depth: usize,
    /// Requests at once, streams included; one more is refused.
    pub max_concurrent: usize,
    /// Values of `Host` that are served besides loopback names: `name` or `name:port`.
    pub hosts: Vec<String>,
    /// Keys that callers need; `None` = everybody is the subject `local`. A listener outside
    /// loopback must have them: [`Config::check`].
    pub api_keys: Option<ApiKeys>,
    /// Tells who is calling, in place of `api_keys`; nobody is served without an answer of it.
    pub callers: Option<Arc<dyn Callers>>,
    /// The listener is bound to loopback only.
    pub loopback: bool,
    /// Largest answer collected for a caller who did not ask for a stream, in bytes.
    pub answer_limit: usize,
    /// How often backends with an open breaker are asked whether they are back.
    pub probe_interval: Duration,
    /// Within which time a floor that is to be drilled is asked first.
    pub drill_within: Duration,
    /// Name of this process in records.
    pub gateway: String,
    /// Longest time for which a request waits for its record to be on disk.
    pub record_wait: Duration,
    /// Memory for records that nobody waits for, in bytes; what finds no room is lost, and counted.
    pub record_memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mesh_namespace: String::from("default"),
            body_limit: 8 << 20,
            body_memory: 256 << 20,
            body_timeout: Duration::from_secs(30),
            json_depth: 64,
            max_concurrent: 1024,
            hosts: Vec::new(),
            api_keys: None,
            callers: None,
            loopback: true,
            answer_limit: 64 << 20,
            probe_interval: Duration::from_secs(5),
            drill_within: Duration::from_secs(30),
            gateway: String::from("mesh"),
            record_wait: Duration::from_millis(500),
            record_memory: 16 << 20,
        }
    }
}

/// Why the settings cannot be served with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Everybody in the network could ask.
    #[error("a listener outside loopback needs --api-keys FILE")]
    KeysNeeded,
}

impl ConfigError {
    /// The reason in PascalCase.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::KeysNeeded => "ApiKeysNeeded",
        }
    }
}

impl Config {
    /// Refuses settings that would let anybody in.
    ///
    /// # Errors
    /// [`ConfigError::KeysNeeded`] without keys outside loopback.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.loopback && self.api_keys.is_none() && self.callers.is_none() {
            return Err(ConfigError::KeysNeeded);
        }
        Ok(())
    }
}

/// What a data plane is made of.
pub struct Parts {
    /// Start-up settings.
    pub config: Config,
    /// Everything declared; swapped by a source.
    pub snapshots: SnapshotStore,
    /// Clients and local models.
    pub backends: Arc<Backends>,
    /// Keeps what was decided where a policy asks (`audit.durableFrom`); without one such requests go to the floor
    /// only.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// Counters; see [`Dataplane::register`].
    pub metrics: Metrics,
    /// Background work is spawned here.
    pub tracker: TaskTracker,
    /// Ends the background work.
    pub shutdown: CancellationToken,
    /// Tells the date.
    pub clock: Clock,
}

/// The data plane. Cheap to clone.
#[derive(Clone)]
pub struct Dataplane {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    decider: Decider,
    backends: Arc<Backends>,
    health: Arc<Health>,
    drills: Arc<Drills>,
    recorder: Recorder,
    limits: Limits,
    places: Places,
    memory: Memory,
    metrics: Metrics,
    snapshots: SnapshotStore,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    clock: Clock,
}

impl Dataplane {
    /// Puts the parts together and starts the background work (probes of backends that rest,
    /// drills of floors, and forgetting the health of what is no longer declared) on the given tracker; needs a runtime.
    ///
    /// # Errors
    /// If [`Config::check`] refuses.
    pub fn new(parts: Parts) -> Result<Self, ConfigError> {
        parts.config.check()?;
        let health = Arc::new(Health::new(Arc::clone(&parts.backends)));
        let settings = record::Settings {
            gateway: parts.config.gateway.clone(),
            wait: parts.config.record_wait,
            memory: parts.config.record_memory,
        };
        let recorder = Recorder::new(parts.ledger, settings, Arc::clone(&parts.clock));
        let decider = Decider::running(
            parts.snapshots.clone(),
            (Arc::clone(&health), recorder.clone()),
            parts.config.json_depth,
            parts.metrics.clone(),
            Arc::clone(&parts.clock),
        );
        let plane = Self {
            shared: Arc::new(Shared {
                places: Places::new(parts.config.max_concurrent),
                memory: Memory::new(parts.config.body_memory),
                config: parts.config,
                decider,
                backends: parts.backends,
                health,
                drills: Arc::default(),
                recorder,
                limits: Limits::default(),
                metrics: parts.metrics,
                snapshots: parts.snapshots,
                tracker: parts.tracker,
                shutdown: parts.shutdown.clone(),
                clock: parts.clock,
            }),
        };
        // The first request should not pay for building the detectors.
        plane.shared.tracker.spawn_blocking(mesh_classify::warm_up);
        let (background, shutdown) = (plane.clone(), parts.shutdown);
        plane.shared.tracker.spawn(async move {
            shutdown.run_until_cancelled(probe::run(background)).await;
        });
        let (background, shutdown) = (plane.clone(), plane.ending().clone());
        plane.shared.tracker.spawn(async move {
            shutdown.run_until_cancelled(drill::run(background)).await;
        });
        // Not until the shutdown, which answers that are still running outlive: see `end_records`.
        if let Some(records) = plane.recorder().writing() {
            plane.shared.tracker.spawn(records);
        }
        Ok(plane)
    }

    /// Waits at most `limit` until the records of what has ended are written, then writes no more. For the end, when
    /// no answer runs any more.
    pub async fn end_records(&self, limit: Duration) {
        self.shared.recorder.end(limit).await;
    }

    /// The HTTP interface of the API port.
    pub fn router(&self) -> Router {
        stack::router(self.clone())
    }

    /// The same and what sidecars are told, for the port at which callers show tokens of a cluster.
    pub fn router_of_cluster(&self) -> Router {
        stack::router(self.clone()).merge(push::router(self.clone()))
    }

    /// Enters counters and gauges into `registry`, whose prefix should be the binary's
    /// (`mesh_gateway`).
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
        registry.register_collector(Box::new(Gauges {
            snapshots: self.shared.snapshots.clone(),
            health: Arc::clone(&self.shared.health),
            drills: Arc::clone(&self.shared.drills),
            recorder: self.shared.recorder.clone(),
            clock: Arc::clone(&self.shared.clock),
        }));
    }

    /// What keeps the mesh from answering, a line each; empty if it is ready. For `/readyz`.
    pub fn missing(&self) -> Vec<String> {
        let snapshot = self.shared.snapshots.current();
        if snapshot.backends.is_empty() {
            return vec![String::from("no backend is declared")];
        }
        // A mesh without a floor answers as long as anybody does.
        let someone = snapshot
            .backends
            .iter()
            .any(|backend| self.shared.health.up(backend));
        match self.shared.health.floor_missing(&snapshot) {
            Some(missing) if !someone => vec![missing],
            _ => Vec::new(),
        }
    }

    /// True while a policy asks for records and the ledger that is there does not take them: what it asks them of would go to the
    /// floor.
    pub fn unrecorded(&self) -> bool {
        self.shared.recorder.reaching() && asking(&self.shared.snapshots.current()).next().is_some()
    }

    /// How every backend does, as far as this process has seen. For the operator, which may know all of them.
    pub fn standings(&self) -> mesh_crds::Standings {
        backend::standings(self)
    }

    /// Decides one request: the same code path for serving and explaining.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if a header or the body is not understood.
    pub async fn decide(
        &self,
        surface: Surface,
        body: Bytes,
        headers: &HeaderMap,
        caller: Caller,
    ) -> Result<Job, Error> {
        let question = Question {
            surface,
            hints: Hints::read(headers)?,
            body,
            caller,
        };
        if question.body.len() <= LARGE_BODY {
            return self.shared.decider.decide(question);
        }
        let decider = self.shared.decider.clone();
        let answer = self.blocking(move || decider.decide(question)).await;
        answer.unwrap_or(Err(Error::Internal))
    }

    /// Runs `work` outside the threads that serve connections; an error if it panics.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let span = tracing::Span::current();
        let work = move || span.in_scope(work);
        self.shared.tracker.spawn_blocking(work).await
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(crate) fn snapshots(&self) -> &SnapshotStore {
        &self.shared.snapshots
    }

    pub(crate) fn backends(&self) -> &Arc<Backends> {
        &self.shared.backends
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.shared.health
    }

    pub(crate) fn drills(&self) -> &Drills {
        &self.shared.drills
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(crate) fn places(&self) -> Places {
        self.shared.places.clone()
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.shared.shutdown
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.shared.clock)()
    }
}
