//! Health of everything, by backend and model. Plain `&mut` methods: whoever shares it locks it.

use std::collections::HashMap;
use std::time::Duration;

use mesh_core::{BackendId, Snapshot};

use super::{
    Admission, Event, Health, HealthView, OpenCause, Permit, RetryBudget, Tick, Transition,
};

/// Health and retry budgets of all backends. What was never called is well.
#[derive(Debug, Default)]
pub struct HealthBook {
    backends: HashMap<BackendId, Entry>,
}

#[derive(Debug)]
struct Entry {
    models: HashMap<String, Health>,
    budget: RetryBudget,
}

/// Health of one backend and model, for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthStatus {
    /// Somebody has called it since it was declared; else nothing is known of it.
    pub asked: bool,
    /// Whether it can be asked now.
    pub admission: Admission,
    /// Why its breaker is open, if it is.
    pub cause: Option<OpenCause>,
    /// Moving average of the time to the first token.
    pub time_to_first_token: Option<Duration>,
}

/// The book at one instant, for deciding.
#[derive(Debug, Clone, Copy)]
pub struct HealthAt<'a> {
    book: &'a HealthBook,
    now: Tick,
}

impl HealthBook {
    /// Takes leave for one call; see [`Health::start`].
    pub fn start(
        &mut self,
        backend: &BackendId,
        model: &str,
        now: Tick,
        last_resort: bool,
    ) -> Option<Permit> {
        self.health(backend, model, now).start(now, last_resort)
    }

    /// Notes what became of a call; see [`Health::on`].
    pub fn on(
        &mut self,
        backend: &BackendId,
        model: &str,
        permit: Permit,
        event: Event,
        now: Tick,
    ) -> Transition {
        self.health(backend, model, now).on(permit, event, now)
    }

    /// Notes that `backend` got a first attempt.
    pub fn deposit(&mut self, backend: &BackendId, now: Tick) {
        self.entry(backend, now).budget.deposit(now);
    }

    /// Takes leave for a retry or failover to `backend`; false if its budget is spent.
    pub fn withdraw(&mut self, backend: &BackendId, now: Tick) -> bool {
        self.entry(backend, now).budget.withdraw(now)
    }

    /// The book at the instant `now`.
    pub const fn at(&self, now: Tick) -> HealthAt<'_> {
        HealthAt { book: self, now }
    }

    /// Forgets backends and models that `snapshot` no longer declares.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        self.backends.retain(|id, entry| {
            let Some(backend) = snapshot.backend(id) else {
                return false;
            };
            entry
                .models
                .retain(|name, _| backend.models.iter().any(|model| model.name == *name));
            true
        });
    }

    fn entry(&mut self, backend: &BackendId, now: Tick) -> &mut Entry {
        self.backends
            .entry(backend.clone())
            .or_insert_with(|| Entry {
                models: HashMap::new(),
                budget: RetryBudget::new(now),
            })
    }

    fn health(&mut self, backend: &BackendId, model: &str, now: Tick) -> &mut Health {
        self.entry(backend, now)
            .models
            .entry(model.to_owned())
            .or_default()
    }
}

impl HealthAt<'_> {
    /// Health of one backend and model, for showing.
    pub fn status(&self, backend: &BackendId, model: &str) -> HealthStatus {
        let health = self.find(backend, model);
        HealthStatus {
            asked: health.is_some(),
            admission: self.admission(backend, model),
            cause: health.and_then(Health::cause),
            time_to_first_token: health.and_then(Health::time_to_first_token),
        }
    }

    fn find(&self, backend: &BackendId, model: &str) -> Option<&Health> {
        self.book.backends.get(backend)?.models.get(model)
    }
}

impl HealthView for HealthAt<'_> {
    fn admission(&self, backend: &BackendId, model: &str) -> Admission {
        self.find(backend, model)
            .map_or(Admission::Yes, |health| health.admits(self.now))
    }

    fn time_to_first_token(&self, backend: &BackendId, model: &str) -> Option<Duration> {
        self.find(backend, model)?.time_to_first_token()
    }
}
