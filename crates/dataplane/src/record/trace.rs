//! The records of one request and of each of its attempts.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mesh_core::{DecisionId, Snapshot};
use mesh_ledger::{Ended, Event, NotDurable, Sending, Tokens};
use mesh_protocol::Usage;
use mesh_routing::Admitted;
use tokio::time::Instant;

use super::Recorder;
use crate::Job;

/// What was written of one request so far.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// Its decision is written, or waits to be.
    decided: AtomicBool,
    /// Its record could not be written: it is not waited for again.
    failed: AtomicBool,
    attempts: AtomicU32,
}

/// One attempt whose end is to be written.
pub(crate) struct Trace {
    recorder: Recorder,
    sending: Sending,
    tokens: Option<Tokens>,
    started: Instant,
}

impl Trail {
    /// True if it was tried to write the record of this request, and failed.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn decide(&self) -> bool {
        !self.decided.load(Ordering::Relaxed)
    }
}

impl Recorder {
    /// The record of an attempt, which is not written yet.
    pub(crate) fn trace(&self, job: &Job, trail: &Trail, admitted: &Admitted) -> Trace {
        Trace {
            recorder: self.clone(),
            sending: Sending {
                decision: job.decided.decision.decision.clone(),
                attempt: trail.attempts.fetch_add(1, Ordering::Relaxed) + 1,
                backend: admitted.backend().id.to_string(),
                model: admitted.model().name.clone(),
                class: admitted.class(),
                bytes: job.bytes,
                level: admitted.level(),
            },
            tokens: None,
            started: Instant::now(),
        }
    }

    /// Writes what is about to be done, before it is done.
    ///
    /// # Errors
    /// If it is not known to be on disk, and this is not the floor, whose record is written later then.
    pub(crate) async fn before(
        &self,
        job: &Job,
        (trail, trace): (&Trail, &Trace),
        snapshot: &Snapshot,
        floor: bool,
    ) -> Result<(), NotDurable> {
        let decided = || trail.decide().then(|| self.decided(job, snapshot));
        let all = || {
            let sending = self.entry(Event::Sending(trace.sending.clone()));
            decided().into_iter().chain([sending]).collect()
        };
        let failed = if trail.failed() || !self.durable() {
            NotDurable::Unreachable(String::from("it was not asked"))
        } else {
            match self.write(all()).await {
                Ok(()) => {
                    trail.decided.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => error,
            }
        };
        trail.failed.store(true, Ordering::Relaxed);
        if floor {
            self.later(all());
        } else {
            self.later(decided().into_iter().collect());
        }
        trail.decided.store(true, Ordering::Relaxed);
        if floor { Ok(()) } else { Err(failed) }
    }

    /// Nothing of it was sent, or nothing that was written before: its decision is written all the same.
    pub(crate) fn unsent(&self, job: &Job, trail: &Trail, snapshot: &Snapshot) {
        if job.policy.durable(job.decided.decision.privacy) && trail.decide() {
            self.later(vec![self.decided(job, snapshot)]);
            trail.decided.store(true, Ordering::Relaxed);
        }
    }
}

impl Trace {
    /// Its backend has counted.
    pub(crate) fn used(&mut self, usage: &Usage) {
        self.tokens = Some(Tokens {
            input: usage.prompt_tokens,
            output: usage.completion_tokens,
        });
    }

    /// It has ended; nobody waits for that to be written.
    pub(crate) fn ended(self, outcome: &'static str) {
        let time = self.started.elapsed().as_millis();
        let ended = Ended {
            decision: DecisionId(self.sending.decision.0),
            attempt: self.sending.attempt,
            backend: self.sending.backend,
            outcome: outcome.to_owned(),
            tokens: self.tokens,
            milliseconds: u64::try_from(time).unwrap_or(u64::MAX),
        };
        let recorder = &self.recorder;
        recorder.later(vec![recorder.entry(Event::Ended(ended))]);
    }
}
