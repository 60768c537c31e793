//! The records of one request and of each of its attempts.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mesh_core::{DecisionId, Snapshot, Verdict};
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

/// When the record of an attempt must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// Before it is sent.
    First,
    /// Before, or if that cannot be, later: the floor.
    OrLater,
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

    /// Writes what is about to be done, before it is done. True if it is on disk; false: it will be.
    ///
    /// # Errors
    /// If it is not known to be on disk and must be.
    pub(crate) async fn before(
        &self,
        job: &Job,
        (trail, trace): (&Trail, &Trace),
        snapshot: &Snapshot,
        record: Record,
    ) -> Result<bool, NotDurable> {
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
                    return Ok(true);
                }
                Err(error) => error,
            }
        };
        trail.failed.store(true, Ordering::Relaxed);
        let (entries, answer) = match record {
            Record::OrLater => (all(), Ok(false)),
            Record::First => (decided().into_iter().collect(), Err(failed)),
        };
        self.later(entries);
        trail.decided.store(true, Ordering::Relaxed);
        answer
    }

    /// Nothing of it was sent, or nothing that was written before: its decision is written all the same. Not that of a
    /// request that nobody could serve by its caller's own fault: of those somebody could fill a disk with nothing.
    pub(crate) fn unsent(&self, job: &Job, trail: &Trail, snapshot: &Snapshot) {
        let decision = &job.decided.decision;
        let in_order = match decision.verdict {
            Verdict::Planned | Verdict::PolicyDenied { .. } | Verdict::NoBackend { .. } => true,
            Verdict::ModelNotFound { .. }
            | Verdict::ContextLengthExceeded { .. }
            | Verdict::UnsupportedParameter { .. } => false,
        };
        if in_order && job.policy.durable(decision.privacy) && trail.decide() {
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
