//! Where callers and the engine thread meet: the queue of waiting requests, and what is published
//! about the engine.
//!
//! The lock is held for moments only, never while the model computes.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "estimates of seconds, clamped before they are cut"
)]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use mesh_core::LatencyClass;
use tokio::sync::mpsc::UnboundedSender;

use crate::cache::Key;
use crate::request::{Failure, GenEvent};
use crate::sample::Sampling;

/// A request, encoded and checked.
pub(crate) struct Job {
    pub prompt: Vec<u32>,
    /// Names of the full blocks of the prompt that may be reused.
    pub chain: Vec<Key>,
    /// Start of the chain of names.
    pub root: Key,
    pub sampling: Sampling,
    pub max_tokens: usize,
    /// Place of the adapter in the engine's list.
    pub adapter: Option<usize>,
    pub stop: Vec<String>,
    pub choices: u32,
    pub echo: bool,
    pub logprobs: Option<usize>,
    pub latency: LatencyClass,
    pub sole: bool,
    pub arrived: Instant,
    pub events: UnboundedSender<GenEvent>,
}

impl Job {
    /// Whether log probabilities of the prompt are wanted: then all of it must be computed.
    pub(crate) const fn scores_prompt(&self) -> bool {
        self.echo && self.logprobs.is_some()
    }

    /// Most tokens that will be computed.
    const fn tokens(&self) -> usize {
        self.prompt.len() + self.choices as usize * self.max_tokens
    }

    const fn rank(&self) -> (bool, LatencyClass) {
        (!self.sole, self.latency)
    }
}

/// All logits of a text, for comparison with a reference.
pub(crate) struct Evaluation {
    pub tokens: Vec<u32>,
    pub adapter: Option<usize>,
    pub reply: mpsc::Sender<Vec<Vec<f32>>>,
}

/// How fast the engine is and how much it has to do, as last measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Seconds per prompt token.
    pub prompt: f64,
    /// Seconds per step of generation, for all running choices together.
    pub step: f64,
    /// Seconds until the running requests are done, if they use all they may.
    pub running: f64,
}

impl Load {
    /// Before the first measurement: a slow machine.
    pub(crate) const UNKNOWN: Self = Self {
        prompt: 0.01,
        step: 0.05,
        running: 0.0,
    };

    /// Seconds for a prompt and the steps of its answer.
    pub(crate) fn seconds(&self, prompt: usize, steps: usize) -> f64 {
        self.prompt * prompt as f64 + self.step * steps as f64
    }
}

/// Numbers that anybody may read at any time.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub running: AtomicUsize,
    pub waiting: AtomicUsize,
    pub blocks_used: AtomicUsize,
    pub prefix_hit_tokens: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub generation_tokens: AtomicU64,
    /// Choices being computed with each adapter.
    pub adapters: Vec<AtomicUsize>,
}

/// What both sides share.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub gauges: Gauges,
    max_queue: usize,
}

struct State {
    waiting: Vec<Job>,
    evaluations: Vec<Evaluation>,
    /// Set once: nothing new; running requests may go on until then.
    closing: Option<Instant>,
    /// The engine thread is gone.
    dead: bool,
    load: Load,
    #[cfg(test)]
    fail: bool,
}

/// What the engine thread has to do besides its running requests.
pub(crate) struct Orders {
    pub closing: Option<Instant>,
    pub evaluations: Vec<Evaluation>,
}

/// Why a job was not queued.
pub(crate) enum Rejected {
    Full { retry_after: Duration },
    Stopped,
}

impl Shared {
    pub(crate) fn new(max_queue: usize, adapters: usize) -> Self {
        let state = State {
            waiting: Vec::new(),
            evaluations: Vec::new(),
            closing: None,
            dead: false,
            load: Load::UNKNOWN,
            #[cfg(test)]
            fail: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            gauges: Gauges {
                adapters: (0..adapters).map(|_| AtomicUsize::new(0)).collect(),
                ..Gauges::default()
            },
            max_queue,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in the state is half done when somebody panics: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job behind those of its rank.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Rejected> {
        let mut state = self.lock();
        if state.dead || state.closing.is_some() {
            return Err(Rejected::Stopped);
        }
        state.waiting.retain(|job| !job.events.is_closed());
        if state.waiting.len() >= self.max_queue {
            return Err(Rejected::Full {
                retry_after: state.retry_after(),
            });
        }
        let place = state
            .waiting
            .partition_point(|other| other.rank() <= job.rank());
        state.waiting.insert(place, job);
        self.gauges
            .waiting
            .store(state.waiting.len(), Ordering::Relaxed);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Queues an evaluation; false if the engine has stopped.
    pub(crate) fn evaluate(&self, evaluation: Evaluation) -> bool {
        let mut state = self.lock();
        if state.dead || state.closing.is_some() {
            return false;
        }
        state.evaluations.push(evaluation);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Takes nothing new from now on, and ends what still runs at `deadline`.
    pub(crate) fn close(&self, deadline: Instant) {
        let mut state = self.lock();
        let deadline = state
            .closing
            .map_or(deadline, |earlier| earlier.min(deadline));
        state.closing = Some(deadline);
        drop(state);
        self.changed.notify_one();
    }

    /// The engine thread is about to end: everybody who waits is told by the end of its stream.
    pub(crate) fn die(&self) {
        let mut state = self.lock();
        state.dead = true;
        state.waiting.clear();
        state.evaluations.clear();
        self.gauges.waiting.store(0, Ordering::Relaxed);
        self.gauges.running.store(0, Ordering::Relaxed);
        self.gauges.blocks_used.store(0, Ordering::Relaxed);
        for running in &self.gauges.adapters {
            running.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the engine thread is gone.
    pub(crate) fn dead(&self) -> bool {
        self.lock().dead
    }

    /// Requests that wait for each adapter.
    pub(crate) fn waiting_for_adapters(&self) -> Vec<usize> {
        let mut waiting = vec![0; self.gauges.adapters.len()];
        for adapter in self.lock().waiting.iter().filter_map(|job| job.adapter) {
            waiting[adapter] += 1;
        }
        waiting
    }

    /// Engine side: orders since the last step. Sleeps while there is nothing at all to do.
    pub(crate) fn orders(&self, idle: bool) -> Orders {
        let mut state = self.lock();
        while idle
            && state.waiting.is_empty()
            && state.evaluations.is_empty()
            && state.closing.is_none()
        {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closing.is_some() {
            for job in state.waiting.drain(..) {
                // Whoever no longer listens needs no answer.
                let _gone = job.events.send(GenEvent::Failed(Failure::Stopped));
            }
        }
        #[cfg(test)]
        assert!(!state.fail, "asked to fail");
        Orders {
            closing: state.closing,
            evaluations: std::mem::take(&mut state.evaluations),
        }
    }

    /// Engine side: fails those who waited longer than `longest`, then hands the first jobs to `admit`
    /// as long as it takes them. `admit` gives back what it cannot take.
    pub(crate) fn admit(&self, longest: Duration, mut admit: impl FnMut(Job) -> Option<Job>) {
        let mut state = self.lock();
        let retry_after = state.retry_after();
        state.waiting.retain(|job| {
            let late = job.arrived.elapsed() >= longest;
            if late {
                let _gone = job
                    .events
                    .send(GenEvent::Failed(Failure::Busy { retry_after }));
            }
            !late && !job.events.is_closed()
        });
        while !state.waiting.is_empty() {
            let job = state.waiting.remove(0);
            if let Some(job) = admit(job) {
                state.waiting.insert(0, job);
                break;
            }
        }
        self.gauges
            .waiting
            .store(state.waiting.len(), Ordering::Relaxed);
    }

    /// Engine side: what was measured.
    pub(crate) fn measured(&self, load: Load) {
        self.lock().load = load;
    }

    #[cfg(test)]
    pub(crate) fn fail(&self) {
        self.lock().fail = true;
        self.changed.notify_one();
    }
}

impl State {
    /// When the work before a new request is likely done: whole seconds, 1 to 120.
    fn retry_after(&self) -> Duration {
        let waiting: f64 = self
            .waiting
            .iter()
            .map(|job| {
                self.load
                    .seconds(job.prompt.len(), job.tokens() - job.prompt.len())
            })
            .sum();
        Duration::from_secs((self.load.running + waiting).ceil().clamp(1.0, 120.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Partition;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    fn job(number: u32, latency: LatencyClass, sole: bool) -> (Job, UnboundedReceiver<GenEvent>) {
        let (events, receiver) = unbounded_channel();
        let job = Job {
            prompt: vec![number],
            chain: Vec::new(),
            root: Key::root(&Partition::new("", ""), None),
            sampling: Sampling::default(),
            max_tokens: 1,
            adapter: None,
            stop: Vec::new(),
            choices: 1,
            echo: false,
            logprobs: None,
            latency,
            sole,
            arrived: Instant::now(),
            events,
        };
        (job, receiver)
    }

    fn order(shared: &Shared, takes: usize) -> Vec<u32> {
        let mut order = Vec::new();
        shared.admit(Duration::from_mins(1), |job| {
            if order.len() == takes {
                return Some(job);
            }
            order.push(job.prompt[0]);
            None
        });
        order
    }

    #[test]
    fn requests_without_an_alternative_go_first_then_by_latency_class_then_by_arrival() {
        use LatencyClass::{Batch, Interactive, Standard};
        let shared = Shared::new(9, 0);
        let asked = [
            (Batch, false),
            (Standard, false),
            (Interactive, false),
            (Batch, true),
            (Standard, false),
            (Interactive, true),
        ];
        let mut listening = Vec::new();
        for (number, (latency, sole)) in (0..).zip(asked) {
            let (job, receiver) = job(number, latency, sole);
            listening.push(receiver);
            assert!(shared.submit(job).is_ok());
        }
        assert_eq!(order(&shared, 4), [5, 3, 2, 1]);
        assert_eq!(order(&shared, 9), [4, 0]);
    }

    #[test]
    fn who_left_is_forgotten_and_makes_room() {
        let shared = Shared::new(1, 0);
        let (first, receiver) = job(1, LatencyClass::Standard, false);
        let (second, _listening) = job(2, LatencyClass::Standard, false);
        assert!(shared.submit(first).is_ok());
        drop(receiver);
        assert!(shared.submit(second).is_ok());
        assert_eq!(order(&shared, 9), [2]);
    }
}
