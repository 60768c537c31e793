//! How far a file is: bytes, rate and time left, told at most ten times a second. Refuses to guess a
//! rate before it has seen a quarter of a second.

use std::time::Duration;

use tokio::time::Instant;

/// What is being done to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// They are brought here, over the network or from a mounted volume.
    Downloading,
    /// They are read from disk and hashed.
    Verifying,
}

/// One report. The last one of a phase has `bytes_done` at the file's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The artifact's path.
    pub artifact: String,
    /// The source, as a person would name it.
    pub source: String,
    /// What is being done.
    pub phase: Phase,
    /// Bytes present, including those of an earlier, resumed download.
    pub bytes_done: u64,
    /// Size of the whole file, if the source said.
    pub bytes_total: Option<u64>,
    /// Mean rate since the phase began (resumed bytes not counted); 0 while unknown.
    pub bytes_per_second: u64,
    /// Time left at that rate.
    pub eta: Option<Duration>,
}

/// Hears the reports. Called from async code: it must not block.
pub(crate) type Listener<'a> = &'a (dyn Fn(&Progress) + Send + Sync);

const EVERY: Duration = Duration::from_millis(100);
const SETTLED: Duration = Duration::from_millis(250);

/// Turns byte counts into reports.
pub(crate) struct Meter<'a> {
    listener: Listener<'a>,
    report: Progress,
    resumed: u64,
    since: Instant,
    told: Option<Instant>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(listener: Listener<'a>, artifact: &str, source: &str, phase: Phase) -> Self {
        let report = Progress {
            artifact: artifact.to_owned(),
            source: source.to_owned(),
            phase,
            bytes_done: 0,
            bytes_total: None,
            bytes_per_second: 0,
            eta: None,
        };
        Self {
            listener,
            report,
            resumed: 0,
            since: Instant::now(),
            told: None,
        }
    }

    /// Starts counting at `done` bytes of `total`.
    pub(crate) fn start(&mut self, done: u64, total: Option<u64>) {
        self.resumed = done;
        self.since = Instant::now();
        self.report.bytes_done = done;
        self.report.bytes_total = total;
        self.tell();
        // So that the first bytes are told too.
        self.told = None;
    }

    /// Takes note of `done` bytes.
    pub(crate) fn at(&mut self, done: u64) {
        self.report.bytes_done = done;
        let complete = self.report.bytes_total == Some(done);
        if complete || self.told.is_none_or(|told| told.elapsed() >= EVERY) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let elapsed = self.since.elapsed();
        let moved = self.report.bytes_done.saturating_sub(self.resumed);
        if elapsed >= SETTLED {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            self.report.bytes_per_second = moved.saturating_mul(1000) / millis;
        }
        let left = self
            .report
            .bytes_total
            .map(|total| total.saturating_sub(self.report.bytes_done));
        self.report.eta = match (left, self.report.bytes_per_second) {
            (Some(left), rate @ 1..) => Some(Duration::from_secs(left / rate)),
            _ => None,
        };
        self.told = Some(Instant::now());
        (self.listener)(&self.report);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_and_time_left_do_not_count_resumed_bytes() {
        let heard = Mutex::new(Vec::new());
        let listener = |report: &Progress| heard.lock().unwrap().push(report.clone());
        let mut meter = Meter::new(&listener, "m.gguf", "http x", Phase::Downloading);
        meter.start(1_000, Some(4_000));
        tokio::time::advance(Duration::from_secs(1)).await;
        meter.at(2_000);
        meter.at(2_001);
        meter.at(4_000);
        let heard = heard.into_inner().unwrap();
        assert_eq!(heard.len(), 3, "the report within 100 ms is left out");
        assert_eq!((heard[0].bytes_per_second, heard[0].eta), (0, None));
        assert_eq!(
            (heard[1].bytes_per_second, heard[1].eta),
            (1_000, Some(Duration::from_secs(2)))
        );
        assert_eq!(heard[2].bytes_done, 4_000);
    }
}
