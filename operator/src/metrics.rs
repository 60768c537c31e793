//! The operator's own numbers (`docs/reference/metrics-operator.md`; the names are an API). Labels are
//! kinds, verbs and words of ours, and names of confined namespaces; no name of another object is one, so
//! their number is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    verb: &'static str,
    resource: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scope {
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Namespace {
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// How many objects of a kind have a condition in a status.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct Standing {
    pub(crate) kind: &'static str,
    pub(crate) condition: String,
    pub(crate) status: String,
}

/// Seconds, from a millisecond to a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 3.0, 11))
}

/// Counters; all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<Request, Counter>,
    writes: Family<Kind, Counter>,
    reconciles: Family<Outcome, Counter>,
    reconcile_seconds: Family<Kind, Histogram, fn() -> Histogram>,
    passes: Family<Scope, Counter>,
    pass_seconds: Family<Scope, Histogram, fn() -> Histogram>,
    latency: Histogram,
    conditions: Family<Standing, Gauge>,
    egress_proof_age: Family<Namespace, Gauge<f64, AtomicU64>>,
    egress_proof_interval: Family<Namespace, Gauge<f64, AtomicU64>>,
    egress_unenforced: Family<Reason, Gauge>,
    leader: Gauge,
    build: Family<Build, Gauge>,
    /// Those of the injection.
    pub(crate) inject: crate::inject::Metrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            writes: Family::default(),
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(seconds),
            passes: Family::default(),
            pass_seconds: Family::new_with_constructor(seconds),
            latency: seconds(),
            conditions: Family::default(),
            egress_proof_age: Family::default(),
            egress_proof_interval: Family::default(),
            egress_unenforced: Family::default(),
            leader: Gauge::default(),
            build: Family::default(),
            inject: crate::inject::Metrics::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "api_requests",
            "Requests to the API server, by verb, resource and code",
            self.requests.clone(),
        );
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
        registry.register(
            "reconcile_duration_seconds",
            "Time to make one object so, by kind",
            self.reconcile_seconds.clone(),
        );
        registry.register("passes", "Passes, by scope", self.passes.clone());
        registry.register(
            "pass_duration_seconds",
            "Time of one pass, by scope",
            self.pass_seconds.clone(),
        );
        registry.register(
            "change_latency_seconds",
            "Time from the first change that a pass looked at to its end",
            self.latency.clone(),
        );
        registry.register(
            "conditions",
            "Objects by kind, condition and its status",
            self.conditions.clone(),
        );
        registry.register(
            "egress_proof_age_seconds",
            "Seconds since canaries proved that a confined namespace is, or since it was confined",
            self.egress_proof_age.clone(),
        );
        registry.register(
            "egress_proof_interval_seconds",
            "Seconds between two canaries of a confined namespace",
            self.egress_proof_interval.clone(),
        );
        registry.register(
            "egress_unenforced",
            "Policies whose confinement is not enforced, by reason",
            self.egress_unenforced.clone(),
        );
        registry.register("leader", "1 if this replica leads", self.leader.clone());
        registry.register("build_info", "1; what runs", self.build.clone());
        self.inject.register(registry);
        self.no_errors_yet();
        let version = env!("CARGO_PKG_VERSION");
        self.build.get_or_create(&Build { version }).set(1);
    }

    /// A rise from nothing to one could not be told from no rise.
    fn no_errors_yet(&self) {
        for kind in ["ModelCache", "InferenceBackend", "SovereigntyPolicy"] {
            let (kind, outcome) = (kind.to_owned(), "error");
            drop(self.reconciles.get_or_create(&Outcome { kind, outcome }));
        }
    }

    pub(crate) fn requested(&self, verb: &'static str, resource: String, code: String) {
        let labels = Request {
            verb,
            resource,
            code,
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn wrote(&self, kind: &str) {
        self.writes
            .get_or_create(&Kind {
                kind: kind.to_owned(),
            })
            .inc();
    }

    pub(crate) fn reconciled(&self, kind: &str, good: bool, took: Duration) {
        let outcome = if good { "ok" } else { "error" };
        let kind = kind.to_owned();
        self.reconcile_seconds
            .get_or_create(&Kind { kind: kind.clone() })
            .observe(took.as_secs_f64());
        self.reconciles
            .get_or_create(&Outcome { kind, outcome })
            .inc();
    }

    /// One pass; `whole` if it looked at everything, `waited` since the first change that led to it.
    pub(crate) fn passed(&self, whole: bool, took: Duration, waited: Option<Duration>) {
        let scope = Scope {
            scope: if whole { "everything" } else { "changes" },
        };
        self.passes.get_or_create(&scope).inc();
        self.pass_seconds
            .get_or_create(&scope)
            .observe(took.as_secs_f64());
        if let Some(waited) = waited {
            self.latency.observe(waited.as_secs_f64());
        }
    }

    /// What objects say now; what none says any more goes.
    pub(crate) fn stand(&self, counted: BTreeMap<Standing, i64>) {
        self.conditions.clear();
        for (standing, number) in counted {
            self.conditions.get_or_create(&standing).set(number);
        }
    }

    /// Age of the last good proof of each confined namespace, and how often there should be one; a namespace that is
    /// confined no longer goes.
    pub(crate) fn proved(&self, ages: BTreeMap<String, f64>, interval: Duration) {
        self.egress_proof_age.clear();
        self.egress_proof_interval.clear();
        let interval = interval.as_secs_f64();
        for (namespace, age) in ages {
            let labels = Namespace { namespace };
            self.egress_proof_age.get_or_create(&labels).set(age);
            let every = self.egress_proof_interval.get_or_create(&labels);
            every.set(interval);
        }
    }

    /// Policies whose confinement is not enforced, by reason.
    pub(crate) fn unenforced(&self, counted: BTreeMap<String, i64>) {
        self.egress_unenforced.clear();
        for (reason, number) in counted {
            let labels = Reason { reason };
            self.egress_unenforced.get_or_create(&labels).set(number);
        }
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::{Metrics, Standing};

    const PAGE: &str = include_str!("../../docs/reference/metrics-operator.md");
    const PREFIX: &str = "mesh_operator_";

    type Shapes = BTreeMap<String, (String, BTreeSet<String>)>;

    /// Name, type and labels of every row of the page's table.
    fn promised() -> Shapes {
        let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let labels = cells[3].split(',').map(|one| one.trim().trim_matches('`'));
            let labels = labels.filter(|one| !one.is_empty()).map(str::to_owned);
            let name = cells[1].trim_matches('`').to_owned();
            (name, (cells[2].to_owned(), labels.collect()))
        })
        .collect()
    }

    fn labels(sample: &str) -> BTreeSet<String> {
        let inside = sample
            .split_once('{')
            .and_then(|(_, rest)| rest.rsplit_once('}'));
        let pairs = inside
            .map(|(inside, _)| inside.split("\","))
            .into_iter()
            .flatten();
        pairs
            .filter_map(|pair| pair.split_once("=\""))
            .map(|(name, _)| name.to_owned())
            .filter(|name| name != "le")
            .collect()
    }

    fn rendered(text: &str) -> Shapes {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types
            .map(|line| {
                let (full, kind) = line.split_once(' ').unwrap();
                let sample = text
                    .lines()
                    .find(|line| line.starts_with(full))
                    .unwrap_or_else(|| panic!("{full} was never counted"));
                let name = full.strip_prefix(PREFIX).unwrap();
                let total = if kind == "counter" { "_total" } else { "" };
                (format!("{name}{total}"), (kind.to_owned(), labels(sample)))
            })
            .collect()
    }

    #[test]
    fn what_is_rendered_is_what_the_page_promises() {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("mesh_operator");
        metrics.register(&mut registry);
        metrics.requested("list", String::from("pods"), String::from("200"));
        metrics.wrote("Deployment");
        metrics.reconciled("ModelCache", true, Duration::from_millis(3));
        metrics.passed(true, Duration::from_millis(3), Some(Duration::ZERO));
        let standing = Standing {
            kind: "ModelCache",
            condition: String::from("Ready"),
            status: String::from("True"),
        };
        metrics.stand(BTreeMap::from([(standing, 2)]));
        metrics.inject.answered("injected", "", false);
        let ages = BTreeMap::from([(String::from("team"), 2.5)]);
        metrics.proved(ages, Duration::from_mins(5));
        let reason = crate::confine::REASONS[0].to_owned();
        metrics.unenforced(BTreeMap::from([(reason, 0)]));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert_eq!(rendered(&text), promised(), "{text}");
    }

    #[test]
    fn a_condition_that_nobody_has_any_more_is_no_longer_shown() {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("mesh_operator");
        metrics.register(&mut registry);
        let standing = |status: &str| Standing {
            kind: "ModelCache",
            condition: String::from("Ready"),
            status: status.to_owned(),
        };
        metrics.stand(BTreeMap::from([(standing("True"), 2)]));
        metrics.stand(BTreeMap::from([(standing("False"), 1)]));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(!text.contains("status=\"True\"") && text.contains("status=\"False\"} 1"));
    }
}
