//! The status of an InferenceBackend, from what was observed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::ResourceExt;
use mesh_core::SovereigntyClass;
use mesh_crds::condition::{self, ConditionStatus};
use mesh_crds::label;
use serde_json::{Value, json};

use super::build::child_name;
use super::pods::{PodView, Stage, Trouble};
use crate::health::{self, Word};
use crate::status::{Fact, conditions, summary};
use crate::world::Read;

/// What was seen of whatever runs the pods.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rollout {
    /// Pods that there are.
    replicas: i32,
    /// Those of them that nobody has told to end: one on a node that is lost ends when somebody takes it away.
    staying: i32,
    /// Pods of the newest template; `None` while the newest spec was not looked at.
    updated: Option<i32>,
    /// Those that serve.
    available: i32,
    /// Pods may not even be made: quota, admission.
    refused: Option<(String, String)>,
}

impl From<&Deployment> for Rollout {
    fn from(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let looked = status.observed_generation == deployment.metadata.generation;
        let failure = status.conditions.iter().flatten();
        let failure = failure
            .into_iter()
            .find(|one| one.type_ == "ReplicaFailure" && one.status == "True");
        Self {
            replicas: status.replicas.unwrap_or_default(),
            staying: status.replicas.unwrap_or_default(),
            updated: looked.then(|| status.updated_replicas.unwrap_or_default()),
            available: status.available_replicas.unwrap_or_default(),
            refused: failure.map(|one| {
                (
                    one.reason.clone().unwrap_or_default(),
                    one.message.clone().unwrap_or_default(),
                )
            }),
        }
    }
}

impl From<&StatefulSet> for Rollout {
    fn from(set: &StatefulSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        let looked = status.observed_generation == set.metadata.generation;
        let updated = status.updated_replicas.unwrap_or_default();
        // Other than a Deployment's, its `replicas` are also those that end. These two are not.
        let older = if status.current_revision == status.update_revision {
            0
        } else {
            status.current_replicas.unwrap_or_default()
        };
        Self {
            replicas: status.replicas,
            staying: updated.saturating_add(older),
            updated: looked.then_some(updated),
            available: status.available_replicas.unwrap_or_default(),
            refused: None,
        }
    }
}

impl Rollout {
    /// With the pods of another workload beside it, whose place it takes: those serve, so only its own that serve say how
    /// far it is.
    pub(crate) fn beside(mut self) -> Self {
        self.updated = self.updated.map(|updated| updated.min(self.available));
        self
    }
}

/// What is known of a backend besides its spec.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// What is wrong with the spec or its references: reason and message.
    pub(crate) fault: Option<(String, String)>,
    /// What it waits for, which will come by itself.
    pub(crate) waiting: Option<(String, String)>,
    /// It has pods.
    pub(crate) in_cluster: bool,
    pub(crate) pods: Vec<PodView>,
    pub(crate) rollout: Option<Rollout>,
    pub(crate) wanted: i32,
    /// Accelerators of each pod, and what the nodes have of them, in words.
    pub(crate) accelerators: Option<(String, String)>,
    /// Adapters of each pod.
    pub(crate) adapters: Vec<String>,
    /// Class and evidence.
    pub(crate) class: Option<(SovereigntyClass, Vec<String>)>,
    /// Something could not be written.
    pub(crate) write_error: Option<(String, String)>,
    /// The network may read along.
    pub(crate) plaintext: bool,
    /// It is another mesh, which nobody asks.
    pub(crate) peer: bool,
    /// What the gateways say.
    pub(crate) health: Option<Word>,
    /// Whether they may read its key; none if it has none.
    pub(crate) credentials: Option<Result<(), String>>,
    /// What is known of the authority that it proves itself by; none if it names none.
    pub(crate) authority: Option<Fact>,
}

/// The status.
pub(crate) fn status(read: &Read, observed: &Observed, now: Timestamp) -> Value {
    let ready = observed.ready();
    let stalled = observed.fault.is_some();
    let mut facts = summary(ready, stalled).to_vec();
    if observed.in_cluster {
        facts.extend(observed.parts());
    }
    facts.extend(observed.credentials.as_ref().map(|readable| {
        let about = condition::CREDENTIALS_READABLE;
        match readable {
            Ok(()) => Fact::yes(about, "the gateways may read the Secret with its key"),
            Err(message) => Fact::no(about, "NotGranted", message.clone()),
        }
    }));
    facts.extend(observed.authority.clone());
    let mut status = json!({
        "observedGeneration": read.raw.metadata.generation,
        "conditions": conditions(&read.raw, facts, now),
    });
    if observed.in_cluster {
        let name = read.raw.name_any();
        let rollout = observed.rollout.clone().unwrap_or_default();
        status["endpoints"] = json!(observed.serving());
        status["replicas"] = json!(rollout.replicas);
        status["selector"] = json!(format!(
            "app.kubernetes.io/instance={},{}={name}",
            child_name(&name),
            label::BACKEND
        ));
    }
    if let Some((class, evidence)) = &observed.class {
        status["sovereignty"] =
            json!({"class": class.as_str(), "score": score(*class), "evidence": evidence});
    }
    let old = read.raw.data.pointer("/status/health");
    let old = old.and_then(|old| serde_json::from_value(old.clone()).ok());
    let health = if observed.peer {
        Some(health::unasked(old.as_ref(), now))
    } else {
        health::status(old.as_ref(), observed.health.as_ref(), now)
    };
    if let Some(health) = health {
        status["health"] = json!(health);
    }
    status
}

fn score(class: SovereigntyClass) -> String {
    format!("{:.1}", class.score())
}

impl Observed {
    /// Pods that serve.
    fn serving(&self) -> usize {
        self.pods.iter().filter(|pod| pod.ready).count()
    }

    /// What keeps the first pod from serving that came to this stage.
    fn trouble(&self, stage: Stage) -> Option<&Trouble> {
        let mut troubles = self.pods.iter().filter_map(|pod| pod.trouble.as_ref());
        troubles.find(|one| one.stage == stage)
    }

    fn ready(&self) -> Fact {
        let no = |(reason, message): &(String, String)| {
            Fact::no(condition::READY, reason, message.clone())
        };
        let known = self.fault.as_ref().or(self.write_error.as_ref());
        if let Some(fault) = known.or(self.waiting.as_ref()) {
            return no(fault);
        }
        if !self.in_cluster {
            let message = if self.plaintext {
                "its references are there; the network may read along (insecurePlaintext)"
            } else {
                "its references are there; whether it answers is seen by the gateways"
            };
            return Fact::yes(condition::READY, message);
        }
        let serving = self.serving();
        let wanted = usize::try_from(self.wanted).unwrap_or_default();
        if wanted == 0 {
            return Fact::no(condition::READY, "ScaledToZero", "no replica is wanted");
        }
        let served = format!("{serving} of {wanted} pods serve");
        if serving >= wanted && self.rolled_out() {
            return Fact::yes(condition::READY, served);
        }
        match self.cause() {
            Some((reason, message)) => Fact::no(
                condition::READY,
                &word(&reason),
                format!("{served}: {message}"),
            ),
            None => Fact::no(condition::READY, condition::REASON_PROGRESSING, served),
        }
    }

    /// What keeps pods from serving.
    fn cause(&self) -> Option<(String, String)> {
        let stages = [Stage::Engine, Stage::Weights, Stage::Schedule];
        let trouble = stages.into_iter().find_map(|stage| self.trouble(stage));
        let told = trouble.map(|one| {
            let message = match (&self.accelerators, one.stage) {
                (Some((_, offered)), Stage::Schedule) => format!("{offered}; {}", one.message),
                _ => one.message.clone(),
            };
            (one.reason.clone(), message)
        });
        told.or_else(|| self.rollout.as_ref()?.refused.clone())
    }

    /// True if no older pod is left to be replaced.
    fn rolled_out(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| {
            // One that serves may be of the spec before, beside one of the newest that cannot start.
            let all = self.wanted.max(rollout.staying);
            rollout.updated.is_some_and(|updated| updated >= all)
        })
    }

    fn parts(&self) -> Vec<Fact> {
        if let Some((reason, message)) = self.fault.as_ref().or(self.waiting.as_ref()) {
            return blamed(reason)
                .map(|type_| Fact::no(type_, reason, message.clone()))
                .into_iter()
                .collect();
        }
        let mut parts = vec![self.weights(), self.engine()];
        parts.extend(self.bound());
        parts.extend(self.loaded());
        parts.push(self.confined());
        parts
    }

    /// Whether pods may ask anybody. The network's own work is not proven here.
    fn confined(&self) -> Fact {
        let open = self.pods.iter().filter(|pod| pod.open).count();
        if open == 0 {
            let message = "by NetworkPolicy nothing leaves its pods; whether the network enforces that is not proven here";
            return Fact::yes(condition::EGRESS_CONFINED, message);
        }
        let message = format!("{open} pods may ask outside until their files are there");
        Fact::no(condition::EGRESS_CONFINED, "Fetching", message)
    }

    fn weights(&self) -> Fact {
        let type_ = condition::WEIGHTS_AVAILABLE;
        if self.pods.iter().any(|pod| !pod.fetching) {
            return Fact::yes(type_, "fetched and proven by the pods");
        }
        self.troubled(type_, Stage::Weights)
    }

    fn engine(&self) -> Fact {
        let type_ = condition::ENGINE_READY;
        if self.serving() > 0 {
            return Fact::yes(type_, "the model is loaded");
        }
        self.troubled(type_, Stage::Engine)
    }

    /// False with the pods' own words, or not known yet.
    fn troubled(&self, type_: &'static str, stage: Stage) -> Fact {
        match self.trouble(stage) {
            Some(trouble) => Fact::no(type_, &word(&trouble.reason), trouble.message.clone()),
            None => Fact::new(
                type_,
                ConditionStatus::Unknown,
                condition::REASON_PROGRESSING,
                "no pod has come this far",
            ),
        }
    }

    fn bound(&self) -> Option<Fact> {
        let type_ = condition::ACCELERATORS_BOUND;
        let (asked, offered) = self.accelerators.as_ref()?;
        if let Some(trouble) = self.trouble(Stage::Schedule) {
            let message = format!("{offered}; the scheduler says: {}", trouble.message);
            return Some(Fact::no(type_, &word(&trouble.reason), message));
        }
        let bound = self.pods.iter().filter(|pod| pod.node.is_some()).count();
        let wanted = usize::try_from(self.wanted).unwrap_or_default();
        if bound < wanted {
            let message = format!("{bound} of {wanted} pods have theirs");
            let (unknown, reason) = (ConditionStatus::Unknown, condition::REASON_PROGRESSING);
            return Some(Fact::new(type_, unknown, reason, message));
        }
        Some(Fact::yes(type_, format!("each pod has {asked}")))
    }

    /// The engines load adapters before they are ready, and do not start without them.
    fn loaded(&self) -> Option<Fact> {
        if self.adapters.is_empty() {
            return None;
        }
        let type_ = condition::ADAPTERS_LOADED;
        let engine = self.engine();
        let fact = if engine.holds() && self.rolled_out() {
            Fact::yes(type_, self.adapters.join(", "))
        } else {
            self.troubled(type_, Stage::Engine)
        };
        Some(fact)
    }
}

/// The condition that a reason for having no pods is about.
fn blamed(reason: &str) -> Option<&'static str> {
    match reason {
        "DRANotServed" | "MemoryNotKnown" => Some(condition::ACCELERATORS_BOUND),
        "AdapterDoesNotFit" => Some(condition::ADAPTERS_LOADED),
        "FormatNotServed" => Some(condition::ENGINE_READY),
        "ModelCacheNotReady" | "VolumeNotShared" => Some(condition::WEIGHTS_AVAILABLE),
        _ => None,
    }
}

/// A reason is one word; whatever a runtime says becomes one.
fn word(reason: &str) -> String {
    let word: String = reason.chars().filter(char::is_ascii_alphanumeric).collect();
    if word.starts_with(|c: char| c.is_ascii_uppercase()) {
        word
    } else {
        String::from("PodProblem")
    }
}

#[cfg(test)]
mod tests;
