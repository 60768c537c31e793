//! How many retries a backend may get: a token bucket. Every first attempt puts a little in, every
//! retry takes one out, so retries stay a small share of the traffic and an outage elsewhere does
//! not become a flood here.

use std::time::Duration;

use super::Tick;

/// What one first attempt adds: retries may be a fifth of the traffic.
const PER_REQUEST: f64 = 0.2;
/// What a second adds, so that a quiet backend can be retried too.
const PER_SECOND: f64 = 10.0;
/// Most that is kept.
const CAPACITY: f64 = 100.0;

/// Retry budget of one backend; starts full.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    tokens: f64,
    filled: Tick,
}

impl RetryBudget {
    /// A full budget at `now`.
    pub const fn new(now: Tick) -> Self {
        Self {
            tokens: CAPACITY,
            filled: now,
        }
    }

    /// Notes a first attempt.
    pub fn deposit(&mut self, now: Tick) {
        self.fill(now);
        self.tokens = (self.tokens + PER_REQUEST).min(CAPACITY);
    }

    /// Takes leave for one retry or failover to this backend. False: the budget is spent.
    pub fn withdraw(&mut self, now: Tick) -> bool {
        self.fill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Time until one retry is affordable without further traffic.
    pub fn wait(&self) -> Duration {
        Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / PER_SECOND)
    }

    fn fill(&mut self, now: Tick) {
        let passed = now.since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(CAPACITY);
        self.filled = self.filled.max(now);
    }
}
