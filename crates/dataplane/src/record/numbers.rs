//! What is counted of records; shown only while some policy asks for them.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::metrics::EventLabels;

/// Counters of records.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub(crate) entries: Family<EventLabels, Counter>,
    pub(crate) lost: Counter,
    pub(crate) wait: Histogram,
}

impl Default for Numbers {
    fn default() -> Self {
        let entries = Family::default();
        for event in ["decided", "sending", "ended", "lost"] {
            drop(entries.get_or_create(&EventLabels { event }));
        }
        Self {
            entries,
            lost: Counter::default(),
            // 0.1 ms to about 0.8 s.
            wait: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
        }
    }
}

impl Numbers {
    /// These are on disk.
    pub(super) fn written(&self, events: &[&'static str]) {
        for event in events {
            self.entries.get_or_create(&EventLabels { event }).inc();
        }
    }

    /// So many will never be.
    pub(super) fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }

    /// A request has waited.
    pub(super) fn waited(&self, time: Duration) {
        self.wait.observe(time.as_secs_f64());
    }
}
