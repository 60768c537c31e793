//! What canaries have proved of a confined namespace: read from their Jobs and pods, so that a new leader
//! knows what the last one did. Pure.
//!
//! A Job belongs to the NetworkPolicy that it proves: one of an earlier policy proves nothing, and goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use mesh_crds::label;

use super::pools::Pool;
use crate::backend::view;
use crate::canary::{Answer, Report, Target, Tried};

/// Annotation of a Job: which version of the NetworkPolicy it proves.
pub(super) const GENERATION: &str = "inferencemesh.dev/confine-generation";
/// Annotation of a Job: how many there were before it in its pool.
pub(super) const NUMBER: &str = "inferencemesh.dev/canary-number";
/// Seconds that a Job may take.
pub(super) const JOB_SECONDS: u64 = 120;
/// After that Kubernetes has forgotten it.
const LOST_SECONDS: i64 = 300;
/// A proof counts for so many intervals.
const INTERVALS: u32 = 3;
/// What went wrong is looked at again at least this soon.
const AGAIN: Duration = Duration::from_mins(1);

/// Everything that is looked at.
pub(crate) struct Seen<'a> {
    pub(crate) jobs: &'a [Arc<Job>],
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) pools: &'a BTreeSet<Pool>,
    pub(crate) interval: Duration,
    pub(crate) now: Timestamp,
}

/// What is known of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In every pool a canary did not get out and reached what it may.
    Proved,
    /// One got out: to what, and where it ran.
    Leaks(String),
    /// One did not reach what it may.
    Unreached(String),
    /// There is no proof, or an old one: why.
    None(String),
}

/// One namespace: what is proved, since when, and what has to be done.
pub(crate) struct Standing {
    pub(crate) verdict: Verdict,
    /// The last time that all pools had been proved good.
    pub(crate) proved: Option<Timestamp>,
    /// Pools in which a canary shall run now, with the number of the Job. Who has waited longest comes first.
    pub(super) due: Vec<(Pool, u64)>,
    /// The next time that one is due.
    pub(super) next: Option<Timestamp>,
    /// Jobs that say nothing any more.
    pub(super) old: Vec<Arc<Job>>,
    /// Canaries that run now.
    pub(super) running: usize,
}

/// One Job of a canary.
struct Run {
    job: Arc<Job>,
    number: u64,
    current: bool,
    state: State,
}

enum State {
    Running(Option<String>),
    /// When it said what, and where it ran.
    Said(Timestamp, Report, String),
    Failed(String),
}

/// What is known of the namespace of a NetworkPolicy of ours.
pub(crate) fn standing(policy: &NetworkPolicy, seen: &Seen<'_>) -> Standing {
    let mut all = Standing {
        verdict: Verdict::Proved,
        proved: Some(seen.now),
        due: Vec::new(),
        next: None,
        old: Vec::new(),
        running: 0,
    };
    let mut runs = runs(policy, seen);
    let mut waited = BTreeMap::new();
    for pool in seen.pools {
        let own = runs.remove(&pool.id()).unwrap_or_default();
        let newest = own.iter().filter_map(|run| run.job.creation_timestamp());
        waited.insert(pool.clone(), newest.max());
        all.add(pool, own, seen);
    }
    all.due.sort_by_key(|(pool, _)| waited.get(pool).cloned());
    // Of pools that are no more.
    let gone = runs.into_values().flatten().map(|run| run.job);
    all.old.extend(gone);
    if seen.pools.is_empty() {
        all.proved = None;
        all.verdict = Verdict::None(String::from("there is no node for a canary"));
    }
    all
}

fn runs(policy: &NetworkPolicy, seen: &Seen<'_>) -> BTreeMap<String, Vec<Run>> {
    let (uid, namespace) = (policy.uid().unwrap_or_default(), policy.namespace());
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for job in seen.jobs.iter().filter(|job| job.namespace() == namespace) {
        let owned = job.owner_references().iter().any(|owner| owner.uid == uid);
        let Some(pool) = job.labels().get(label::CANARY).filter(|_| owned) else {
            continue;
        };
        if job.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let number = |key: &str| {
            job.annotations()
                .get(key)
                .and_then(|text| text.parse().ok())
        };
        let run = Run {
            number: number(NUMBER).unwrap_or_default(),
            current: number(GENERATION) == policy.metadata.generation.map(i64::unsigned_abs),
            state: state(job, seen),
            job: Arc::clone(job),
        };
        runs.entry(pool.clone()).or_default().push(run);
    }
    for all in runs.values_mut() {
        all.sort_by_key(|run| run.number);
    }
    runs
}

impl Standing {
    fn add(&mut self, pool: &Pool, runs: Vec<Run>, seen: &Seen<'_>) {
        let said = runs
            .iter()
            .rposition(|run| matches!(run.state, State::Said(..)));
        let good = runs.iter().rposition(|run| match &run.state {
            State::Said(_, report, _) => report.leaks().chain(report.unreached()).next().is_none(),
            _ => false,
        });
        let running = runs
            .iter()
            .any(|run| matches!(run.state, State::Running(_)));
        self.running += usize::from(running);
        let proved = good.and_then(|at| runs[at].said());
        self.proved = self.proved.and_then(|all| proved.map(|this| all.min(this)));
        let verdict = verdict(pool, &runs, said, seen);
        let due = due(&runs, verdict == Verdict::Proved, seen.interval);
        match due {
            _ if running => {}
            Some(at) if at > seen.now => {
                self.next = Some(self.next.map_or(at, |next| next.min(at)));
            }
            _ => {
                let number = runs.last().map_or(0, |run| run.number).saturating_add(1);
                self.due.push((pool.clone(), number));
            }
        }
        if verdict.worse() > self.verdict.worse() {
            self.verdict = verdict;
        }
        let last = runs.len().saturating_sub(1);
        let old = runs.into_iter().enumerate().filter(|(at, run)| {
            let ended = !matches!(run.state, State::Running(_));
            ended && Some(*at) != said && Some(*at) != good && *at != last
        });
        self.old.extend(old.map(|(_, run)| run.job));
    }
}

impl Run {
    fn said(&self) -> Option<Timestamp> {
        match &self.state {
            State::Said(at, ..) => Some(*at),
            _ => None,
        }
    }
}

impl Verdict {
    /// Higher is worse.
    pub(super) const fn worse(&self) -> u8 {
        match self {
            Self::Proved => 0,
            Self::None(_) => 1,
            Self::Unreached(_) => 2,
            Self::Leaks(_) => 3,
        }
    }
}

/// When a canary shall run next; none = now.
fn due(runs: &[Run], good: bool, interval: Duration) -> Option<Timestamp> {
    let newest = runs.last().filter(|run| run.current)?;
    let ended_well = good && matches!(newest.state, State::Said(..));
    let wait = if ended_well {
        interval
    } else {
        interval.min(AGAIN)
    };
    newest.job.creation_timestamp()?.0.checked_add(wait).ok()
}

fn verdict(pool: &Pool, runs: &[Run], said: Option<usize>, seen: &Seen<'_>) -> Verdict {
    let trouble = || match runs.last().map(|run| &run.state) {
        None => String::from("no canary has run yet"),
        Some(State::Running(Some(trouble)) | State::Failed(trouble)) => trouble.clone(),
        Some(_) => String::from("a canary runs"),
    };
    let Some(State::Said(at, report, node)) = said.map(|at| &runs[at].state) else {
        return Verdict::None(format!("on {pool}: {}", trouble()));
    };
    let limit = seen.interval * INTERVALS + Duration::from_secs(JOB_SECONDS);
    let age = seen.now.duration_since(*at).unsigned_abs();
    if age > limit {
        // Not its age, which would be another text with every look.
        let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
        let old = format!("on {pool}: the last canary that said something ended at {at}");
        return Verdict::None(format!("{old}; {}", trouble()));
    }
    let names = |tried: &mut dyn Iterator<Item = &Tried>| {
        let all: Vec<String> = tried.map(told).collect();
        all.join(", ")
    };
    let (out, lost) = (names(&mut report.leaks()), names(&mut report.unreached()));
    if !out.is_empty() {
        return Verdict::Leaks(format!("a canary on {node} reached {out}"));
    }
    if !lost.is_empty() {
        return Verdict::Unreached(format!("a canary on {node} did not reach {lost}"));
    }
    Verdict::Proved
}

fn told(tried: &Tried) -> String {
    let how = match tried.answer {
        Answer::Open => return tried.name.clone(),
        Answer::Refused => "refused",
        Answer::Silent => "no answer",
        Answer::Unresolved => "its name is not resolved",
    };
    format!("{} ({how})", tried.name)
}

/// How a Job stands, by its own pods.
fn state(job: &Job, seen: &Seen<'_>) -> State {
    let uid = job.uid().unwrap_or_default();
    let own = |pod: &&Arc<Pod>| {
        pod.namespace() == job.namespace()
            && pod.owner_references().iter().any(|owner| owner.uid == uid)
    };
    let (forbidden, allowed) = targets(job);
    let mut trouble = None;
    for pod in seen.pods.iter().filter(own) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let node = node.map_or_else(|| String::from("no node"), |node| format!("node {node}"));
        let Some(ended) = ended(pod) else {
            let found = view(pod).trouble;
            trouble = found.map(|one| format!("{}: {}", one.reason, one.message));
            continue;
        };
        let text = ended.message.as_deref().unwrap_or_default();
        let at = ended.finished_at.as_ref().map(|time| time.0);
        if let (Some(report), Some(at)) = (Report::read(text, &forbidden, &allowed), at) {
            return State::Said(at, report, node);
        }
        return State::Failed(format!(
            "pod {} on {node} ended with {} and no report",
            pod.name_any(),
            ended.exit_code
        ));
    }
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let over = conditions
        .filter(|one| one.status == "True" && ["Failed", "Complete"].contains(&one.type_.as_str()))
        .find_map(|one| one.reason.clone().or_else(|| Some(one.type_.clone())));
    let begun = job.creation_timestamp().map(|time| time.0);
    let lost = begun.is_some_and(|begun| {
        let age = seen.now.duration_since(begun);
        age.as_secs() > LOST_SECONDS
    });
    match over.or_else(|| lost.then(|| String::from("nobody runs it"))) {
        Some(reason) => State::Failed(format!(
            "Job {} ended without a report: {reason}",
            job.name_any()
        )),
        None => State::Running(trouble),
    }
}

fn ended(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let own = statuses
        .iter()
        .find(|status| status.name == super::canaries::CONTAINER)?;
    own.state.as_ref()?.terminated.as_ref()
}

/// What the Job asked for.
fn targets(job: &Job) -> (Vec<Target>, Vec<Target>) {
    let spec = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let args = spec
        .and_then(|spec| spec.containers.first()?.args.clone())
        .unwrap_or_default();
    let of = |flag: &str| -> Vec<Target> {
        let own = args.iter().filter_map(|arg| arg.strip_prefix(flag));
        own.filter_map(|word| word.parse().ok()).collect()
    };
    (of("--forbidden="), of("--allowed="))
}

#[cfg(test)]
mod tests;
