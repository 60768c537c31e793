//! The health of all backends, shared by everything that decides, attempts, probes and shows. The
//! lock is held for single questions and notes, never across an await.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mesh_backends::{AttemptError, Backends, HealthEffect, ProxyCause};
use mesh_core::{Backend, BackendId, Peer, Place, Snapshot};
use mesh_routing::health::{
    Admission, Event, HealthAt, HealthBook, HealthStatus, HealthView, OpenCause, Permit, Tick,
    Transition,
};
use tokio::time::Instant;

/// When to ask again for a model of this process that is not loaded.
const NOT_READY_RETRY: Duration = Duration::from_secs(5);

/// The book of health with its clock, and what is known of the models of this process.
pub(crate) struct Health {
    book: RwLock<HealthBook>,
    probes: RwLock<HashMap<BackendId, Probed>>,
    origin: Instant,
    backends: Arc<Backends>,
}

/// What active probes found out about a backend that rests after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probed {
    /// It could not be reached.
    Down,
    /// It could not, and now it can: it gets its trial call before its time. A backend that could
    /// be reached all along and still failed does not.
    Back,
    /// Its proxy refused our password.
    Refused,
}

impl Health {
    pub(crate) fn new(backends: Arc<Backends>) -> Self {
        Self {
            book: RwLock::default(),
            probes: RwLock::default(),
            origin: Instant::now(),
            backends,
        }
    }

    fn now(&self) -> Tick {
        Tick(self.origin.elapsed())
    }

    /// Gives `read` a view for deciding from `snapshot`; `durable`: what is decided can be written down.
    pub(crate) fn view<T>(
        &self,
        snapshot: &Snapshot,
        durable: bool,
        read: impl FnOnce(&dyn HealthView) -> T,
    ) -> T {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let probes = self.probes.read().unwrap_or_else(PoisonError::into_inner);
        read(&View {
            at: book.at(self.now()),
            probes: &probes,
            backends: &self.backends,
            snapshot,
            durable,
        })
    }

    /// Takes leave for one call. A failover needs some of the backend's retry budget, unless
    /// `unbudgeted`.
    pub(crate) fn start(
        &self,
        backend: &BackendId,
        model: &str,
        kind: Start,
    ) -> Result<Permit, NoLeave> {
        let now = self.now();
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        match kind.attempt {
            AttemptKind::First => book.deposit(backend, now),
            AttemptKind::Failover => {
                if !book.withdraw(backend, now) && kind.others_left {
                    return Err(NoLeave::RetryBudget);
                }
            }
        }
        if let Some(permit) = book.start(backend, model, now, kind.last_resort) {
            return Ok(permit);
        }
        let cause = book.at(now).status(backend, model).cause;
        if !self.take_back(backend) {
            return Err(NoLeave::Resting(cause));
        }
        book.start(backend, model, now, true)
            .ok_or(NoLeave::Resting(cause))
    }

    /// Notes what an active probe found.
    pub(crate) fn probed(&self, backend: &BackendId, reachable: bool) {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        if !reachable {
            probes.insert(backend.clone(), Probed::Down);
        } else if let Some(probed) = probes.get_mut(backend) {
            *probed = Probed::Back;
        }
    }

    /// Notes that the proxy refused our password to a probe: there is none until a call has told more.
    pub(crate) fn probe_refused(&self, backend: &BackendId) {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        probes.insert(backend.clone(), Probed::Refused);
    }

    /// True if a probe must not ask again.
    pub(crate) fn left_alone(&self, backend: &BackendId) -> bool {
        let probes = self.probes.read().unwrap_or_else(PoisonError::into_inner);
        probes.get(backend) == Some(&Probed::Refused)
    }

    fn told_more(&self, backend: &BackendId) {
        if self.left_alone(backend) {
            let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
            probes.remove(backend);
        }
    }

    /// True once for a backend that came back.
    fn take_back(&self, backend: &BackendId) -> bool {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        let back = probes.get(backend) == Some(&Probed::Back);
        if back {
            probes.remove(backend);
        }
        back
    }

    /// Notes what became of a call.
    pub(crate) fn note(&self, backend: &BackendId, model: &str, permit: Permit, event: Event) {
        let now = self.now();
        let transition = {
            let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
            book.on(backend, model, permit, event, now)
        };
        if transition != Transition::Same {
            self.told_more(backend);
        }
        match transition {
            Transition::Same => {}
            Transition::Opened { rest, cause } => tracing::warn!(
                %backend,
                reason = cause.reason(),
                rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
                "backend rests"
            ),
            Transition::Closed => tracing::info!(%backend, "backend answers again"),
        }
    }

    /// What is known of one model of a backend, for showing.
    pub(crate) fn status(&self, backend: &BackendId, model: &str) -> HealthStatus {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        book.at(self.now()).status(backend, model)
    }

    /// Why a backend cannot be asked, whatever became of earlier calls: a model of this process that is not loaded,
    /// pods that are not there, another mesh.
    pub(crate) fn not_ready(&self, backend: &Backend) -> Option<String> {
        match backend.place {
            Place::InProcess { .. } => self.backends.local_ready(&backend.id).err(),
            Place::Pods(ref pods) if pods.pods.is_empty() => {
                Some(String::from("none of its pods is ready"))
            }
            Place::Peer(_) => Some(Peer::UNSERVED.to_owned()),
            Place::Pods(_) | Place::External(_) | Place::Cloud(_) => None,
        }
    }

    /// Family that the file of a model of this process states, once it is loaded.
    pub(crate) fn local_family(&self, backend: &Backend) -> Option<String> {
        match backend.place {
            Place::InProcess { .. } => self.backends.local_family(&backend.id),
            Place::Pods(_) | Place::External(_) | Place::Cloud(_) | Place::Peer(_) => None,
        }
    }

    /// True if some model of the backend can be asked now.
    pub(crate) fn up(&self, backend: &Backend) -> bool {
        self.not_ready(backend).is_none()
            && backend
                .models
                .iter()
                .any(|model| self.status(&backend.id, &model.name).admission.available())
    }

    /// What keeps the floor from answering; `None` if it is ready.
    pub(crate) fn floor_missing(&self, snapshot: &Snapshot) -> Option<String> {
        let floors = floors(snapshot);
        if floors.is_empty() {
            return Some(String::from("no policy names a floor that is declared"));
        }
        floors
            .into_iter()
            .find_map(|floor| Some(format!("floor {}: {}", floor.id, self.not_ready(floor)?)))
    }

    /// How many places can answer as a floor now: pods, models of this process, servers outside.
    pub(crate) fn floor_endpoints(&self, snapshot: &Snapshot) -> usize {
        let places = |floor: &Arc<Backend>| match &floor.place {
            Place::Pods(pods) => pods.pods.len(),
            Place::InProcess { .. } | Place::External(_) | Place::Cloud(_) | Place::Peer(_) => {
                usize::from(self.up(floor))
            }
        };
        floors(snapshot).into_iter().map(places).sum()
    }

    /// Forgets what `snapshot` no longer declares.
    pub(crate) fn retain(&self, snapshot: &Snapshot) {
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        book.retain(snapshot);
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        probes.retain(|id, _| snapshot.backend(id).is_some());
    }
}

/// Backends that a policy names as its floor, each once.
fn floors(snapshot: &Snapshot) -> Vec<&Arc<Backend>> {
    let names = |backend: &Backend| {
        let mut named = snapshot.policies.iter().filter_map(|policy| {
            let (namespace, name) = &policy.floor.as_ref()?.backend;
            Some((namespace, name))
        });
        named
            .any(|(namespace, name)| backend.id.namespace == *namespace && backend.id.name == *name)
    };
    snapshot
        .backends
        .iter()
        .filter(|backend| names(backend))
        .collect()
}

/// How an attempt asks for leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) attempt: AttemptKind,
    /// Another backend besides the floor is still to come in the plan. Only then may a spent retry
    /// budget skip this one: it saves load, it must not cost an answer.
    pub(crate) others_left: bool,
    /// Nothing else is left: a breaker opened by failures is tried anyway.
    pub(crate) last_resort: bool,
}

/// First of its request, or after another one failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptKind {
    First,
    Failover,
}

/// Why an attempt is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoLeave {
    /// Its breaker is open.
    Resting(Option<OpenCause>),
    /// Too many retries went there.
    RetryBudget,
}

/// What a failed attempt says about its backend. `begun`: tokens had come.
pub(crate) fn event_of(error: &AttemptError, begun: bool) -> Event {
    match error {
        AttemptError::Rejected { status } => return Event::Marked(*status),
        // A wrong password was said, and saying it again may lock an account.
        AttemptError::Proxy(ProxyCause::Unauthorized) => return Event::Marked(407),
        _ => {}
    }
    match error.health() {
        HealthEffect::None => Event::Neutral,
        HealthEffect::Failure if begun => Event::Interrupted,
        // Other marks are faults of our configuration: nothing was sent, asking again
        // costs nothing, and an edit mends them at once.
        HealthEffect::Failure | HealthEffect::Marked(_) => Event::Failure,
        HealthEffect::RateLimited(after) => Event::RateLimited(after),
    }
}

struct View<'a> {
    at: HealthAt<'a>,
    probes: &'a HashMap<BackendId, Probed>,
    backends: &'a Backends,
    snapshot: &'a Snapshot,
    durable: bool,
}

impl HealthView for View<'_> {
    fn admission(&self, id: &BackendId, model: &str) -> Admission {
        let place = self.snapshot.backend(id).map(|backend| &backend.place);
        let missing = match place {
            Some(Place::InProcess { .. }) => self.backends.local_ready(id).is_err(),
            Some(Place::Pods(pods)) => pods.pods.is_empty(),
            Some(Place::Peer(_)) => true,
            Some(Place::External(_) | Place::Cloud(_)) | None => false,
        };
        if missing {
            return Admission::No {
                retry_in: NOT_READY_RETRY,
                cause: OpenCause::Failures,
            };
        }
        match self.at.admission(id, model) {
            Admission::No {
                cause: OpenCause::Failures,
                ..
            } if self.probes.get(id) == Some(&Probed::Back) => Admission::Probe,
            admission => admission,
        }
    }

    fn time_to_first_token(&self, id: &BackendId, model: &str) -> Option<Duration> {
        self.at.time_to_first_token(id, model)
    }

    fn durable(&self) -> bool {
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use mesh_backends::{AttemptError, Backends, ClientOptions, ConnectCause, ProxyCause};
    use mesh_core::BackendId;
    use mesh_routing::health::{Event, Permit};

    use super::{AttemptKind, Health, NoLeave, Start, event_of};

    fn health() -> Health {
        let backends = Backends::new(ClientOptions::default()).expect("clients");
        Health::new(Arc::new(backends))
    }

    fn cloud() -> BackendId {
        BackendId::home("default", "cloud")
    }

    fn start(health: &Health, attempt: AttemptKind, others_left: bool) -> Result<Permit, NoLeave> {
        let start = Start {
            attempt,
            others_left,
            last_resort: false,
        };
        health.start(&cloud(), "big", start)
    }

    fn break_it(health: &Health) {
        for _ in 0..5 {
            let permit = start(health, AttemptKind::First, false).expect("leave");
            health.note(&cloud(), "big", permit, Event::Failure);
        }
        assert!(start(health, AttemptKind::First, false).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_was_away_and_is_back_gets_one_trial_before_its_time() {
        let health = health();
        break_it(&health);
        health.probed(&cloud(), false);
        health.probed(&cloud(), true);
        let trial = start(&health, AttemptKind::First, false).expect("one trial");
        assert!(
            start(&health, AttemptKind::First, false).is_err(),
            "only one"
        );
        health.note(&cloud(), "big", trial, Event::Success);
        assert!(start(&health, AttemptKind::First, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_whose_password_was_refused_is_not_made_again_before_a_call_told_more() {
        let health = health();
        break_it(&health);
        assert!(!health.left_alone(&cloud()));
        health.probe_refused(&cloud());
        assert!(health.left_alone(&cloud()));
        assert!(start(&health, AttemptKind::First, false).is_err());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(health.left_alone(&cloud()));
        let trial = start(&health, AttemptKind::First, false).expect("a trial");
        health.note(&cloud(), "big", trial, Event::Failure);
        assert!(!health.left_alone(&cloud()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_could_be_reached_all_along_waits_its_time() {
        let health = health();
        break_it(&health);
        health.probed(&cloud(), true);
        assert!(start(&health, AttemptKind::First, false).is_err());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(start(&health, AttemptKind::First, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_retry_budget_skips_a_backend_only_while_others_are_left() {
        let health = health();
        let mut refused = 0;
        for _ in 0..200 {
            match start(&health, AttemptKind::Failover, true) {
                Ok(_) => {}
                Err(reason) => {
                    assert_eq!(reason, NoLeave::RetryBudget);
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 100);
        assert!(start(&health, AttemptKind::Failover, false).is_ok());
    }

    #[test]
    fn what_an_upstream_says_of_the_request_says_nothing_of_its_health() {
        let refused = AttemptError::Connect(ConnectCause::Refused);
        assert_eq!(event_of(&refused, false), Event::Failure);
        assert_eq!(event_of(&AttemptError::Cut, true), Event::Interrupted);
        let code = "context_length_exceeded";
        let unsupported = AttemptError::Unsupported { code };
        assert_eq!(event_of(&unsupported, false), Event::Neutral);
        let rejected = AttemptError::Rejected { status: 401 };
        assert_eq!(event_of(&rejected, false), Event::Marked(401));
        let proxy = |cause| event_of(&AttemptError::Proxy(cause), false);
        assert_eq!(proxy(ProxyCause::Unauthorized), Event::Marked(407));
        assert_eq!(proxy(ProxyCause::Refused), Event::Failure);
    }
}
