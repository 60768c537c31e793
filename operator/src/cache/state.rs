//! What a ModelCache wants, what is there, and so what is to be done. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use mesh_crds::model_cache::{
    AccessMode, Artifact, ArtifactStatus, DerivedStatus, NodeLocalStorage, Quantization,
    VolumeStorage,
};
use mesh_crds::{ModelCache, ModelCacheStatus, condition};
use serde_json::json;

use super::build::{Task, Work, format};
use super::name;
use super::outcome::{Outcome, Phase, Polled, init_words, merge, outcome};
use super::report::{Failure, Made, Report};
use super::room;
use super::wanted::{due, fault, interval, keep, known, lost, oldest, pinned, proven};

/// Where files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Every pod for itself, as long as it lives.
    Pod,
    /// One volume for all pods.
    Claim(VolumeStorage),
    /// A volume of its own for every pod, on its node.
    Node(NodeLocalStorage),
}

/// Everything that is known around one ModelCache.
pub(crate) struct Input<'a> {
    /// With namespace and uid.
    pub(crate) cache: &'a ModelCache,
    pub(crate) status: ModelCacheStatus,
    pub(crate) claim: Option<Arc<PersistentVolumeClaim>>,
    /// Jobs of this cache.
    pub(crate) jobs: Vec<Arc<Job>>,
    /// Pods of its Jobs.
    pub(crate) fetchers: &'a [Arc<Pod>],
    /// Pods of backends that serve it.
    pub(crate) workers: &'a [Arc<Pod>],
    pub(crate) polled: &'a Polled,
    pub(crate) now: Timestamp,
}

/// A Job and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Doing {
    pub(crate) work: Work,
    pub(crate) outcome: Outcome,
}

/// A version to make, and how far that is.
#[derive(Debug, Clone)]
pub(crate) struct Deriving {
    pub(crate) to: Quantization,
    /// None where pods do it for themselves, and until the original is there.
    pub(crate) doing: Option<Doing>,
    pub(crate) made: Option<DerivedStatus>,
}

/// What is to be done and said.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) cache: ModelCache,
    pub(crate) keep: Keep,
    /// Only an edit helps: reason and message.
    pub(crate) fault: Option<(String, String)>,
    /// The artifacts, with every digest that is known.
    pub(crate) artifacts: Vec<Artifact>,
    /// What is known of them.
    pub(crate) known: Vec<ArtifactStatus>,
    /// Fetching into the volume, or finding out digests.
    pub(crate) fetch: Option<Doing>,
    pub(crate) verify: Option<Doing>,
    /// A proof is due, whatever the last one did.
    overdue: bool,
    pub(crate) derived: Vec<Deriving>,
    /// Sources that did not have what they should.
    pub(crate) failures: Vec<Failure>,
    /// The claim was given up by its volume.
    pub(crate) lost: bool,
    /// How large that volume is.
    pub(crate) capacity: Option<Quantity>,
    pub(crate) workers: Vec<super::pods::Worker>,
}

/// Why a backend cannot be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It will pass.
    Waiting(String),
    /// Somebody must edit something.
    Fault(String, String),
}

impl State {
    /// Looks at everything.
    pub(crate) fn new(input: &Input<'_>) -> Self {
        let keep = keep(input.cache);
        let claim = match keep {
            Keep::Claim(_) => input.claim.as_ref().and_then(|claim| claim.uid()),
            Keep::Pod | Keep::Node(_) => None,
        };
        let mut state = Self {
            cache: input.cache.clone(),
            fault: fault(input.cache, &keep),
            artifacts: Vec::new(),
            known: known(input.cache, &input.status),
            fetch: None,
            verify: None,
            overdue: false,
            derived: Vec::new(),
            failures: Vec::new(),
            lost: input.claim.as_ref().is_some_and(|claim| lost(claim)),
            capacity: input.claim.as_ref().and_then(|claim| room::capacity(claim)),
            workers: input
                .workers
                .iter()
                .map(|pod| super::pods::worker(pod))
                .collect(),
            keep,
        };
        state.fetching(input, claim.as_deref());
        state.verifying(input);
        state.pods(input);
        state.artifacts = pinned(input.cache, &state.known);
        state.deriving(input, claim.as_deref());
        state
    }

    fn name(&self) -> &str {
        self.cache.metadata.name.as_deref().unwrap_or_default()
    }

    /// Name of the claim, where there is one.
    pub(crate) fn claim(&self) -> String {
        name::claim(self.name())
    }

    /// Every digest is known.
    pub(crate) fn pinned(&self) -> bool {
        self.artifacts
            .iter()
            .all(|artifact| artifact.sha256.is_some())
    }

    /// The volume holds what is wanted.
    pub(crate) fn fetched(&self) -> bool {
        let done = self
            .fetch
            .as_ref()
            .is_some_and(|doing| doing.outcome.phase == Phase::Succeeded);
        matches!(self.keep, Keep::Claim(_)) && done && self.known.len() == self.artifacts.len()
    }

    /// Jobs that came to an end without telling what they did, failed and rested, or whose volume was full and has
    /// grown: to be made again.
    pub(crate) fn again(&self, now: Timestamp) -> Vec<&str> {
        let all = self.doings();
        let grown = |outcome: &Outcome| room::grown(outcome, self.capacity.as_ref());
        let rested = |outcome: &Outcome| outcome.rested(now, super::REST_SECONDS);
        let mut again: Vec<&str> = all
            .filter(|doing| rested(&doing.outcome) || grown(&doing.outcome))
            .map(|doing| doing.work.name.as_str())
            .collect();
        let silent = |doing: &&Doing| doing.outcome.phase == Phase::Succeeded;
        again.extend(
            self.verify
                .iter()
                .filter(|doing| self.overdue && silent(doing))
                .map(|doing| doing.work.name.as_str()),
        );
        if self.known.len() < self.cache.spec.artifacts.len() {
            again.extend(
                self.fetch
                    .iter()
                    .filter(silent)
                    .map(|doing| doing.work.name.as_str()),
            );
        }
        for deriving in self.derived.iter().filter(|one| one.made.is_none()) {
            again.extend(
                deriving
                    .doing
                    .iter()
                    .filter(silent)
                    .map(|doing| doing.work.name.as_str()),
            );
        }
        again
    }

    /// Every Job that should be there.
    pub(crate) fn doings(&self) -> impl Iterator<Item = &Doing> {
        let derived = self.derived.iter().filter_map(|one| one.doing.as_ref());
        self.fetch.iter().chain(&self.verify).chain(derived)
    }

    /// Whether pods of a backend can be made that serve this.
    pub(crate) fn serves(
        &self,
        quantization: Option<Quantization>,
        replicas: i32,
    ) -> Result<(), Obstacle> {
        let name = self.name();
        let fault = |reason: &str, message| Err(Obstacle::Fault(reason.to_owned(), message));
        if self.fault.is_some() {
            let message = format!("ModelCache {name} cannot be used; its own status says why");
            return fault("ModelCacheNotReady", message);
        }
        let derived = |to| self.derived.iter().find(|one| one.to == to);
        if let Some(to) = quantization
            && derived(to).is_none()
        {
            let message = format!(
                "ModelCache {name} does not derive {0}: add {0} to its spec.derive",
                format(to)
            );
            return fault(condition::REASON_REFERENCE_NOT_FOUND, message);
        }
        if let Keep::Claim(storage) = &self.keep
            && storage.access_mode == AccessMode::ReadWriteOnce
            && replicas > 1
        {
            let message = format!(
                "ModelCache {name} is in a volume of one node (ReadWriteOnce): use ReadWriteMany or ReadOnlyMany, or one replica"
            );
            return fault("VolumeNotShared", message);
        }
        let waiting = |message| Err(Obstacle::Waiting(message));
        let there = match self.keep {
            Keep::Claim(_) => self.fetched(),
            Keep::Pod | Keep::Node(_) => self.pinned(),
        };
        if !there {
            return waiting(format!(
                "ModelCache {name} is not there yet; its own status says how far it is"
            ));
        }
        let made = quantization.is_none_or(|to| derived(to).is_some_and(|one| one.made.is_some()));
        if matches!(self.keep, Keep::Claim(_)) && !made {
            return waiting(format!("ModelCache {name} is being quantized"));
        }
        Ok(())
    }

    fn doing(input: &Input<'_>, name: String, task: Task) -> Doing {
        let job = input.jobs.iter().find(|job| job.name_any() == name);
        Doing {
            outcome: outcome(job.map(AsRef::as_ref), input.fetchers, input.polled),
            work: Work { name, task },
        }
    }

    fn fetching(&mut self, input: &Input<'_>, claim: Option<&str>) {
        let spec = &input.cache.spec;
        let key = name::key(&json!([spec.artifacts, spec.sources, claim]));
        let doing = match (&self.keep, claim) {
            (Keep::Claim(_), None) => return,
            (Keep::Claim(_), Some(_)) => {
                let task = Task::Fetch {
                    claim: name::claim(self.name()),
                };
                Self::doing(
                    input,
                    name::child(self.name(), &format!("fetch-{key}")),
                    task,
                )
            }
            (Keep::Pod | Keep::Node(_), _) => {
                let found = Self::doing(
                    input,
                    name::child(self.name(), &format!("pin-{key}")),
                    Task::Pin,
                );
                // The record of how the digests were found stays while the spec does.
                if pinned(input.cache, &self.known)
                    .iter()
                    .all(|one| one.sha256.is_some())
                    && found.outcome.phase == Phase::Absent
                {
                    return;
                }
                found
            }
        };
        self.learn(&doing.outcome, input.now);
        merge(&mut self.failures, &doing.outcome.failures);
        self.fetch = Some(doing);
    }

    /// Proofs come due; the newest stays as the record.
    fn verifying(&mut self, input: &Input<'_>) {
        let Some(interval) = interval(input.cache) else {
            return;
        };
        if !matches!(self.keep, Keep::Claim(_)) {
            return;
        }
        let sample = name::child(self.name(), "verify-00000000");
        let prefix = sample.strip_suffix("00000000").unwrap_or(&sample);
        let mut before: Vec<&Arc<Job>> = input
            .jobs
            .iter()
            .filter(|job| job.name_any().starts_with(prefix))
            .collect();
        before.sort_by_key(|job| job.creation_timestamp());
        let claim = self.claim();
        let task = || Task::Verify {
            claim: claim.clone(),
        };
        let newest = before
            .last()
            .map(|job| Self::doing(input, job.name_any(), task()));
        if let Some(doing) = &newest {
            self.learn(&doing.outcome, input.now);
        }
        self.artifacts = pinned(input.cache, &self.known);
        let last = oldest(&self.known);
        let due = self.fetched() && last.is_some_and(|last| due(last, interval, input.now));
        self.overdue = due;
        let busy = newest
            .as_ref()
            .is_some_and(|doing| doing.outcome.phase != Phase::Succeeded);
        self.verify = if due && !busy {
            let key = name::key(&json!(last.map(|at| at.to_string())));
            Some(Self::doing(input, format!("{prefix}{key}"), task()))
        } else {
            newest
        };
        if let Some(doing) = &self.verify {
            merge(&mut self.failures, &doing.outcome.failures);
        }
    }

    /// What pods of backends did for themselves.
    fn pods(&mut self, input: &Input<'_>) {
        if matches!(self.keep, Keep::Claim(_)) {
            return;
        }
        for pod in input.workers {
            if let Some(report) = init_words(pod, "fetch").and_then(Report::read) {
                self.take(&report, false, (None, input.now));
                merge(&mut self.failures, &report.failures);
            }
        }
    }

    /// Takes over what a Job of the operator found, which may pin.
    fn learn(&mut self, outcome: &Outcome, now: Timestamp) {
        if let Some(report) = &outcome.report {
            self.take(report, true, (outcome.ended_at, now));
        }
    }

    /// Takes over what a report says, as far as that is what was asked for. Only a Job of the operator can
    /// pin: whoever may make pods in a namespace could speak as one. Whoever says it had `ended` by then.
    fn take(&mut self, report: &Report, pins: bool, (ended, now): (Option<Timestamp>, Timestamp)) {
        for artifact in &self.cache.spec.artifacts {
            let Some(found) = report
                .artifacts
                .iter()
                .find(|one| one.path == artifact.path)
            else {
                continue;
            };
            let old = self.known.iter_mut().find(|one| one.path == artifact.path);
            let wanted = artifact
                .sha256
                .as_ref()
                .or_else(|| old.as_ref().map(|old| &old.sha256));
            match wanted {
                Some(wanted) if *wanted != found.sha256 => {
                    let failure = Failure {
                        artifact: artifact.path.clone(),
                        source: found.source.clone(),
                        reason: condition::REASON_DIGEST_MISMATCH.to_owned(),
                        message: String::from("a fetch reported another digest than was asked for"),
                        quarantined: false,
                    };
                    merge(&mut self.failures, &[failure]);
                }
                None if !pins => {}
                Some(_) | None => {
                    let before = old.as_ref().map(|old| old.verified_at.as_str());
                    let Some(at) = proven(&found.verified_at, before, ended, now) else {
                        continue;
                    };
                    let mut new = found.clone();
                    new.verified_at = at.to_string();
                    match old {
                        Some(old) => *old = new,
                        None => self.known.push(new),
                    }
                }
            }
        }
    }

    fn deriving(&mut self, input: &Input<'_>, claim: Option<&str>) {
        let parent = self
            .artifacts
            .first()
            .and_then(|artifact| artifact.sha256.clone());
        let fetched = self.fetched();
        let spec = &input.cache.spec;
        for derivation in &spec.derive {
            let to = derivation.quantization;
            let fits = |made: &Made| parent.as_ref() == Some(&made.parent_sha256);
            let status = |made: Made| DerivedStatus {
                quantization: to,
                sha256: made.sha256,
                parent_sha256: made.parent_sha256,
                size_bytes: made.size_bytes,
            };
            let mut old = input
                .status
                .derived
                .iter()
                .filter(|one| one.quantization == to)
                .cloned();
            let old = old.find(|one| parent.as_ref() == Some(&one.parent_sha256));
            let mut deriving = Deriving {
                to,
                doing: None,
                made: None,
            };
            if matches!(self.keep, Keep::Claim(_)) {
                if fetched {
                    let key = name::key(&json!([parent, to, claim]));
                    let ending = format!("quantize-{key}");
                    let task = Task::Quantize {
                        claim: name::claim(self.name()),
                        to,
                    };
                    let doing = Self::doing(input, name::child(self.name(), &ending), task);
                    let done = doing.outcome.phase == Phase::Succeeded;
                    let made = doing.outcome.made.as_ref().filter(|_| done);
                    let made = made.cloned().filter(fits).map(status);
                    deriving.made = old.filter(|_| done).or(made);
                    deriving.doing = Some(doing);
                }
            } else {
                let container = format!("quantize-{}", format(to).to_lowercase().replace('_', "-"));
                let mut said = input
                    .workers
                    .iter()
                    .filter_map(|pod| Made::read(init_words(pod, &container)?));
                deriving.made = old.or_else(|| said.find(fits).map(status));
            }
            self.derived.push(deriving);
        }
    }
}

#[cfg(test)]
mod tests;
