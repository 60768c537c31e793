//! The operator's own numbers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    kind: String,
    outcome: &'static str,
}

/// Counters; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    writes: Family<Kind, Counter>,
    reconciles: Family<Outcome, Counter>,
    passes: Counter,
    leader: Gauge,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "api_writes",
            "Objects and statuses written, by kind",
            self.writes.clone(),
        );
        registry.register(
            "reconciles",
            "Objects looked at, by kind and outcome",
            self.reconciles.clone(),
        );
        registry.register("passes", "Passes over everything", self.passes.clone());
        registry.register("leader", "1 if this replica leads", self.leader.clone());
    }

    pub(crate) fn wrote(&self, kind: &str) {
        self.writes
            .get_or_create(&Kind {
                kind: kind.to_owned(),
            })
            .inc();
    }

    pub(crate) fn reconciled(&self, kind: &str, good: bool) {
        let outcome = if good { "ok" } else { "error" };
        self.reconciles
            .get_or_create(&Outcome {
                kind: kind.to_owned(),
                outcome,
            })
            .inc();
    }

    pub(crate) fn passed(&self) {
        self.passes.inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}
