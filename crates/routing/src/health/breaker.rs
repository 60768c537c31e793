//! The breaker of one backend and model.

use std::time::Duration;

use super::{
    Admission, CONSECUTIVE_FAILURES, Event, FIRST_MARKED, FIRST_OPEN, FIRST_RATE_LIMITED,
    LONGEST_MARKED, LONGEST_OPEN, LONGEST_RETRY_AFTER, OpenCause, TRIAL_LEASE, Tick, Transition,
    WINDOW, WINDOW_CALLS,
};

/// Weight of a new sample in the moving average: about the last ten calls count.
const EWMA_WEIGHT: f64 = 0.2;
/// Parts of the sliding window.
const BUCKETS: usize = 10;
/// Doublings after which an open time stops growing anyway.
const MOST_DOUBLINGS: u32 = 16;

/// Leave to make one call. Comes from [`Health::start`] and goes back with every event of that
/// call, so that a late answer from before an outage neither closes nor opens anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    epoch: u64,
    trial: bool,
}

impl Permit {
    /// True if this is the trial call of a half-open breaker.
    pub const fn trial(self) -> bool {
        self.trial
    }
}

/// Health of one backend and model. Starts closed: a new backend is believed.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Counts openings and closings; a permit of an older epoch is stale.
    epoch: u64,
    state: State,
    /// Times opened since it was last closed.
    streak: u32,
    /// Calls since it was last closed.
    window: Window,
    time_to_first_token: Option<f64>,
}

#[derive(Debug, Clone)]
enum State {
    Closed {
        consecutive: u32,
    },
    Open {
        until: Tick,
        cause: OpenCause,
        /// When the youngest trial call began. An older one may still close the breaker.
        trial: Option<Tick>,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { consecutive: 0 }
    }
}

impl Health {
    /// Whether a call may be made at `now`. Changes nothing.
    pub fn admits(&self, now: Tick) -> Admission {
        match &self.state {
            State::Closed { .. } => Admission::Yes,
            State::Open { until, cause, .. } if now < *until => Admission::No {
                retry_in: until.since(now),
                cause: *cause,
            },
            State::Open { cause, trial, .. } => match trial {
                Some(begun) if now.since(*begun) < TRIAL_LEASE => Admission::No {
                    retry_in: TRIAL_LEASE.saturating_sub(now.since(*begun)),
                    cause: *cause,
                },
                _ => Admission::Probe,
            },
        }
    }

    /// Takes leave for one call at `now`; `None` if none may be made. With `last_resort` a breaker
    /// that failures opened is passed as a trial call: nothing else is left to ask.
    pub fn start(&mut self, now: Tick, last_resort: bool) -> Option<Permit> {
        let admission = self.admits(now);
        let forced = last_resort
            && matches!(
                admission,
                Admission::No {
                    cause: OpenCause::Failures,
                    ..
                }
            );
        if !admission.available() && !forced {
            return None;
        }
        let trial = match &mut self.state {
            State::Closed { .. } => false,
            State::Open { trial, .. } => {
                *trial = Some(now);
                true
            }
        };
        Some(Permit {
            epoch: self.epoch,
            trial,
        })
    }

    /// Notes what became of a call that `permit` allowed.
    pub fn on(&mut self, permit: Permit, event: Event, now: Tick) -> Transition {
        if let Event::FirstToken(after) = event {
            self.sample(after);
            return Transition::Same;
        }
        if permit.epoch != self.epoch {
            return self.on_stale(event, now);
        }
        match event {
            Event::FirstToken(_) => Transition::Same,
            Event::Success => self.succeeded(now),
            Event::Failure | Event::Interrupted => self.failed(now),
            Event::RateLimited(after) => self.rate_limited(after, now),
            Event::Marked(status) => self.open(
                grown(FIRST_MARKED, LONGEST_MARKED, self.streak),
                OpenCause::Marked(status),
                now,
            ),
            Event::Neutral => {
                self.release();
                Transition::Same
            }
        }
    }

    /// Moving average of the time to the first token; `None` before the first sample.
    pub fn time_to_first_token(&self) -> Option<Duration> {
        self.time_to_first_token
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// Why it is open, if it is.
    pub fn cause(&self) -> Option<OpenCause> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open { cause, .. } => Some(*cause),
        }
    }

    /// A call from before the last change: it cannot close or open anything, except that a 429
    /// prolongs the rest of a breaker that is open.
    fn on_stale(&mut self, event: Event, now: Tick) -> Transition {
        let (Event::RateLimited(Some(after)), State::Open { until, cause, .. }) =
            (event, &mut self.state)
        else {
            return Transition::Same;
        };
        let wanted = now.after(after.min(LONGEST_RETRY_AFTER));
        if wanted <= *until {
            return Transition::Same;
        }
        (*until, *cause) = (wanted, OpenCause::RateLimited);
        Transition::Opened {
            rest: wanted.since(now),
            cause: OpenCause::RateLimited,
        }
    }

    fn succeeded(&mut self, now: Tick) -> Transition {
        match &mut self.state {
            State::Closed { consecutive } => {
                *consecutive = 0;
                self.window.note(now, false);
                Transition::Same
            }
            State::Open { .. } => {
                self.epoch += 1;
                self.streak = 0;
                self.window = Window::default();
                self.state = State::default();
                Transition::Closed
            }
        }
    }

    fn failed(&mut self, now: Tick) -> Transition {
        if let State::Closed { consecutive } = &mut self.state {
            *consecutive = consecutive.saturating_add(1);
            self.window.note(now, true);
            if *consecutive < CONSECUTIVE_FAILURES && !self.window.mostly_failures(now) {
                return Transition::Same;
            }
        }
        self.open(
            grown(FIRST_OPEN, LONGEST_OPEN, self.streak),
            OpenCause::Failures,
            now,
        )
    }

    fn rate_limited(&mut self, after: Option<Duration>, now: Tick) -> Transition {
        let rest = after.map_or_else(
            || grown(FIRST_RATE_LIMITED, LONGEST_OPEN, self.streak),
            |told| told.min(LONGEST_RETRY_AFTER),
        );
        self.open(rest, OpenCause::RateLimited, now)
    }

    fn open(&mut self, rest: Duration, cause: OpenCause, now: Tick) -> Transition {
        self.epoch += 1;
        self.streak = self.streak.saturating_add(1);
        self.state = State::Open {
            until: now.after(rest),
            cause,
            trial: None,
        };
        Transition::Opened { rest, cause }
    }

    /// A trial call that said nothing gives its place to the next.
    fn release(&mut self) {
        if let State::Open { trial, .. } = &mut self.state {
            *trial = None;
        }
    }

    fn sample(&mut self, after: Duration) {
        let seconds = after.as_secs_f64();
        self.time_to_first_token = Some(match self.time_to_first_token {
            None => seconds,
            Some(average) => average + EWMA_WEIGHT * (seconds - average),
        });
    }
}

/// `first`, doubled `times`, at most `longest`.
fn grown(first: Duration, longest: Duration, times: u32) -> Duration {
    first
        .saturating_mul(1 << times.min(MOST_DOUBLINGS))
        .min(longest)
}

/// Calls and failures of the last [`WINDOW`], in parts that are forgotten one by one.
#[derive(Debug, Clone, Default)]
struct Window {
    buckets: [Bucket; BUCKETS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which part of time this is, counted from the start.
    part: u128,
    calls: u32,
    failures: u32,
}

impl Window {
    fn note(&mut self, now: Tick, failure: bool) {
        let part = part_of(now);
        let index = usize::try_from(part % BUCKETS as u128).unwrap_or(0);
        let bucket = &mut self.buckets[index];
        if bucket.part != part {
            *bucket = Bucket {
                part,
                ..Bucket::default()
            };
        }
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(u32::from(failure));
    }

    /// True if enough calls were made and at least half of them failed.
    fn mostly_failures(&self, now: Tick) -> bool {
        let newest = part_of(now);
        let (calls, failures) = self
            .buckets
            .iter()
            .filter(|bucket| bucket.part + BUCKETS as u128 > newest)
            .fold((0_u64, 0_u64), |(calls, failures), bucket| {
                (
                    calls + u64::from(bucket.calls),
                    failures + u64::from(bucket.failures),
                )
            });
        calls >= u64::from(WINDOW_CALLS) && failures * 2 >= calls
    }
}

fn part_of(now: Tick) -> u128 {
    now.0.as_nanos() / (WINDOW.as_nanos() / BUCKETS as u128)
}
