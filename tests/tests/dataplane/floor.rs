//! A floor that is played: it answers, hangs or is busy as told, and remembers what it was asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use mesh_backends::{AttemptError, LocalModel, Outbound, Started};
use mesh_core::{LatencyClass, PrivacyLevel};
use mesh_protocol::{Event, FinishReason, Usage};
use serde_json::Value;

/// What a played floor does.
#[derive(Debug, Clone, Default)]
pub(crate) enum Play {
    /// Answers with a few words.
    #[default]
    Answer,
    /// Answers, after leaving out old turns, with a loop.
    Loop,
    /// Its queue is full.
    Busy,
    /// Accepts and never says anything.
    Hang,
}

/// A floor without a model. Its answer tells nothing of what it was asked.
#[derive(Default)]
pub(crate) struct PlayedFloor {
    play: Mutex<Play>,
    calls: AtomicUsize,
    running: Arc<AtomicUsize>,
    seen: Mutex<Vec<String>>,
    last: Mutex<Option<Asked>>,
}

/// What goes with a request: its level, how long the caller can wait, and whether nobody else could answer.
pub(crate) type Asked = (PrivacyLevel, LatencyClass, bool);

/// What the floor says.
pub(crate) const FLOOR_SAYS: &str = "the floor answers";

impl PlayedFloor {
    pub(crate) fn set(&self, play: Play) {
        *self.play.lock().expect("a lock") = play;
    }

    /// How often it was asked.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Answers that are neither ended nor dropped.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// What went with the last request.
    pub(crate) fn last(&self) -> Option<Asked> {
        *self.last.lock().expect("a lock")
    }

    /// True if `text` was in a request.
    pub(crate) fn saw(&self, text: &str) -> bool {
        let seen = self.seen.lock().expect("a lock");
        seen.iter().any(|body| body.contains(text))
    }
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl LocalModel for PlayedFloor {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn family(&self) -> Option<String> {
        Some(String::from("llama"))
    }

    fn start(&self, outbound: Outbound) -> BoxFuture<'_, Result<Started, AttemptError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let body = Value::Object(outbound.request.body.clone()).to_string();
        self.seen.lock().expect("a lock").push(body);
        let asked = (outbound.level, outbound.latency, outbound.sole);
        *self.last.lock().expect("a lock") = Some(asked);
        let play = self.play.lock().expect("a lock").clone();
        if matches!(play, Play::Busy) {
            let retry_after = Duration::from_secs(7);
            return async move { Err(AttemptError::Busy { retry_after }) }.boxed();
        }
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(Arc::clone(&self.running));
        let looping = matches!(play, Play::Loop);
        let events = match play {
            Play::Hang => stream::pending().boxed(),
            Play::Answer | Play::Loop | Play::Busy => stream::iter(words(looping)).boxed(),
        };
        let events = events.map(move |event| {
            let _held = &running;
            Ok(event)
        });
        let started = Started {
            events: events.boxed(),
            context_trimmed: looping,
            system_fingerprint: Some(String::from("fp_floor")),
            headers: Vec::new(),
        };
        async move { Ok(started) }.boxed()
    }
}

fn words(repetition: bool) -> Vec<Event> {
    let mut events: Vec<Event> = FLOOR_SAYS
        .split_inclusive(' ')
        .map(|word| Event::Text {
            choice: 0,
            text: word.to_owned(),
            logprobs: None,
        })
        .collect();
    events.push(Event::Finish {
        choice: 0,
        reason: if repetition {
            FinishReason::Length
        } else {
            FinishReason::Stop
        },
        repetition,
    });
    events.push(Event::Usage(Usage {
        prompt_tokens: 5,
        completion_tokens: 3,
        total_tokens: 8,
        ..Usage::default()
    }));
    events
}
