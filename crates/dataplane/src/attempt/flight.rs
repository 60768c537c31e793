//! The bookkeeping of one attempt that was sent: health, metrics, its place at the backend. Ends in
//! exactly one way: it succeeded, failed, or was dropped because the caller left.

use std::sync::Arc;

use mesh_backends::AttemptError;
use mesh_core::{Backend, Degradation, Price, PrivacyLevel, SovereigntyClass};
use mesh_protocol::{Event, Usage};
use mesh_routing::Admitted;
use mesh_routing::health::{Event as HealthEvent, Permit};
use tokio::time::Instant;

use super::failure::Cause;
use crate::health::{Health, event_of};
use crate::limit::Slot;
use crate::record::Trace;
use crate::{Dataplane, Metrics};

/// One attempt on its way.
pub(crate) struct Flight {
    health: Arc<Health>,
    metrics: Metrics,
    backend: Arc<Backend>,
    model: String,
    price: Option<Price>,
    class: SovereigntyClass,
    level: PrivacyLevel,
    /// Absent for a floor that is asked whatever its health says, and once it is given back.
    permit: Option<Permit>,
    /// Held until the end.
    _slot: Slot,
    /// Where a policy asks for a record: whose end is to be written.
    trace: Option<Trace>,
    started: Instant,
    begun: bool,
    settled: bool,
}

impl Flight {
    pub(super) fn new(
        plane: &Dataplane,
        admitted: &Admitted,
        permit: Option<Permit>,
        slot: Slot,
    ) -> Self {
        let model = admitted.model();
        Self {
            health: Arc::clone(plane.health()),
            metrics: plane.metrics().clone(),
            backend: Arc::clone(admitted.backend()),
            model: model.name.clone(),
            price: model.price.clone(),
            class: admitted.class(),
            level: admitted.level(),
            permit,
            _slot: slot,
            trace: None,
            started: Instant::now(),
            begun: false,
            settled: false,
        }
    }

    /// Its end will be written, also if the caller leaves before it is sent.
    pub(super) fn record(&mut self, trace: Trace) -> &Trace {
        self.trace.insert(trace)
    }

    /// Its record is written, and it is sent now: what came before is not the backend's time.
    pub(super) fn recorded(&mut self) {
        self.started = Instant::now();
    }

    /// It is not sent after all.
    pub(super) fn withdraw(&mut self, cause: &Cause) {
        self.settled = true;
        self.end(cause.outcome(), HealthEvent::Neutral);
    }

    /// Notes that the first token is there.
    pub(super) fn begin(&mut self) {
        self.begun = true;
        let after = self.started.elapsed();
        self.metrics.first_token(self.class, after);
        if let Some(permit) = self.permit {
            let event = HealthEvent::FirstToken(after);
            let health = &self.health;
            health.note(&self.backend.id, &self.model, permit, event);
        }
    }

    /// Notes an event of the answer.
    pub(crate) fn note(&mut self, event: &Event) {
        if let Event::Usage(usage) = event {
            self.used(usage);
            if let Some(trace) = &mut self.trace {
                trace.used(usage);
            }
        }
    }

    /// Notes that the answer is complete.
    pub(crate) fn succeed(&mut self) {
        self.settle("ok", HealthEvent::Success);
    }

    /// Notes why it failed.
    pub(crate) fn fail(&mut self, error: &AttemptError) {
        self.settle(error.outcome(), event_of(error, self.begun));
    }

    /// The same, as the cause for the plan.
    pub(super) fn failed(&mut self, error: AttemptError) -> Cause {
        self.fail(&error);
        Cause::Attempt {
            error,
            begun: self.begun,
        }
    }

    /// Notes what the answer was less than asked.
    pub(crate) fn degraded(&self, reasons: &[Degradation]) {
        for reason in reasons {
            self.metrics.degraded(*reason);
        }
    }

    fn used(&self, usage: &Usage) {
        let id = &self.backend.id;
        self.metrics.used(id, self.class, self.level, usage);
        if let Some(price) = &self.price {
            self.metrics.spent(id, &price.currency, cost(price, usage));
        }
    }

    fn settle(&mut self, outcome: &'static str, event: HealthEvent) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.metrics
            .attempted(&self.backend.id, self.class, outcome);
        self.end(outcome, event);
    }

    fn end(&mut self, outcome: &'static str, event: HealthEvent) {
        if let Some(trace) = self.trace.take() {
            trace.ended(outcome);
        }
        if let Some(permit) = self.permit.take() {
            self.health
                .note(&self.backend.id, &self.model, permit, event);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.settle("canceled", HealthEvent::Neutral);
    }
}

/// By the declared price per million tokens.
fn cost(price: &Price, usage: &Usage) -> f64 {
    // What does not fit 32 bits is no count of tokens.
    let million = |tokens: u64| f64::from(u32::try_from(tokens).unwrap_or(0)) / 1e6;
    million(usage.prompt_tokens) * price.input_per_million
        + million(usage.completion_tokens) * price.output_per_million
}
