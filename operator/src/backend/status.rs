//! The status of an InferenceBackend, from what was observed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use mesh_core::SovereigntyClass;
use mesh_crds::condition::{self, ConditionStatus};
use mesh_crds::label;
use serde_json::{Value, json};

use super::PodView;
use super::build::child_name;
use crate::status::{Fact, conditions, summary};
use crate::world::Read;

/// What is known of a backend besides its spec.
#[derive(Debug, Default)]
pub(crate) struct Observed<'a> {
    /// What is wrong with the spec or its references: reason and message.
    pub(crate) fault: Option<(String, String)>,
    /// It has pods.
    pub(crate) in_cluster: bool,
    pub(crate) pods: Vec<PodView>,
    pub(crate) deployment: Option<&'a Deployment>,
    pub(crate) wanted: i32,
    /// Class and evidence.
    pub(crate) class: Option<(SovereigntyClass, Vec<String>)>,
    /// Something could not be written.
    pub(crate) write_error: Option<(String, String)>,
    /// The network may read along.
    pub(crate) plaintext: bool,
}

/// The status.
pub(crate) fn status(read: &Read, observed: &Observed<'_>, now: Timestamp) -> Value {
    let ready = ready(observed);
    let stalled = observed.fault.is_some();
    let mut facts = summary(ready, stalled).to_vec();
    if observed.in_cluster && !stalled {
        facts.extend(parts(observed));
    }
    let mut status = json!({
        "observedGeneration": read.raw.metadata.generation,
        "conditions": conditions(&read.raw, facts, now),
    });
    if observed.in_cluster {
        let serving = observed.pods.iter().filter(|pod| pod.ready).count();
        let name = read.raw.name_any();
        status["endpoints"] = json!(serving);
        status["replicas"] = json!(
            observed
                .deployment
                .and_then(|one| one.status.as_ref()?.replicas)
                .unwrap_or_default()
        );
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
    status
}

fn score(class: SovereigntyClass) -> String {
    format!("{:.1}", class.score())
}

fn ready(observed: &Observed<'_>) -> Fact {
    let no =
        |(reason, message): &(String, String)| Fact::no(condition::READY, reason, message.clone());
    if let Some(fault) = observed.fault.as_ref().or(observed.write_error.as_ref()) {
        return no(fault);
    }
    if !observed.in_cluster {
        let message = if observed.plaintext {
            "its references are there; the network may read along (insecurePlaintext)"
        } else {
            "its references are there; whether it answers is seen by the gateways"
        };
        return Fact::yes(condition::READY, message);
    }
    let serving = observed.pods.iter().filter(|pod| pod.ready).count();
    let wanted = usize::try_from(observed.wanted).unwrap_or_default();
    if wanted == 0 {
        return Fact::no(condition::READY, "ScaledToZero", "no replica is wanted");
    }
    if serving >= wanted && rolled_out(observed) {
        return Fact::yes(
            condition::READY,
            format!("{serving} of {wanted} pods serve"),
        );
    }
    let problem = observed
        .pods
        .iter()
        .find_map(|pod| pod.problem.clone())
        .or_else(|| refused(observed));
    match problem {
        Some((reason, message)) => Fact::no(
            condition::READY,
            &word(&reason),
            format!("{serving} of {wanted} pods serve: {message}"),
        ),
        None => Fact::no(
            condition::READY,
            condition::REASON_PROGRESSING,
            format!("{serving} of {wanted} pods serve"),
        ),
    }
}

/// True if no older pod is left to be replaced.
fn rolled_out(observed: &Observed<'_>) -> bool {
    observed.deployment.is_some_and(|deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas.unwrap_or_default() >= observed.wanted
    })
}

/// Pods that may not even be made: quota, admission.
fn refused(observed: &Observed<'_>) -> Option<(String, String)> {
    let conditions = observed.deployment?.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|one| one.type_ == "ReplicaFailure" && one.status == "True")?;
    Some((
        failure.reason.clone().unwrap_or_default(),
        failure.message.clone().unwrap_or_default(),
    ))
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

fn parts(observed: &Observed<'_>) -> Vec<Fact> {
    let serving = observed.pods.iter().any(|pod| pod.ready);
    let fetched = observed.pods.iter().any(|pod| !pod.fetching);
    let unknown = |type_| {
        Fact::new(
            type_,
            ConditionStatus::Unknown,
            condition::REASON_PROGRESSING,
            "no pod has come this far",
        )
    };
    let weights = if fetched {
        Fact::yes(
            condition::WEIGHTS_AVAILABLE,
            "fetched and proven by the pods",
        )
    } else {
        unknown(condition::WEIGHTS_AVAILABLE)
    };
    let engine = if serving {
        Fact::yes(condition::ENGINE_READY, "the model is loaded")
    } else {
        unknown(condition::ENGINE_READY)
    };
    vec![weights, engine]
}
