//! What is wrong with a snapshot before any request comes: policies that admit nothing, floors that
//! cannot answer, facts about ownership that do not count. Everything declared is taken to be well.
//! Every message says what to do.

use std::collections::BTreeSet;

use mesh_core::{
    BackendId, Complexity, Constraint, Facts, LatencyClass, Needs, Policy, PolicyId, PrivacyLevel,
    Refusal, Scan, Snapshot, TaskType,
};
use serde::Serialize;

use crate::candidate::find_floor;
use crate::constraint::{AdmitInput, admit};
use crate::policy::{EffectivePolicy, join, selects_everything};
use crate::policy_test::caller_for;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The policy at fault, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyId>,
    /// The backend at fault, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendId>,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// What is wrong and what to do.
    pub message: String,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProblemKind {
    /// There is no policy in the mesh namespace.
    NoPolicy,
    /// The policy admits no backend for requests at any level that they can have.
    AdmitsNothing,
    /// It admits no backend at some levels.
    AdmitsNothingAtLevel,
    /// The policy has no floor.
    NoFloor,
    /// `floor.backendRef` names a backend that is not declared.
    FloorMissing,
    /// The floor is neither in this mesh's own processes nor an owned external server.
    FloorNotOwned,
    /// The floor may not serve restricted requests.
    FloorRefused,
    /// `ownership` stands in a policy that may not say what is owned.
    OwnershipIgnored,
    /// Several policies say what is owned: only what all of them say counts.
    OwnershipIntersected,
    /// One name stands for different embeddings.
    EmbeddingConflict,
}

impl ProblemKind {
    /// For conditions, log fields and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoPolicy => "NoPolicy",
            Self::AdmitsNothing => "AdmitsNothing",
            Self::AdmitsNothingAtLevel => "AdmitsNothingAtLevel",
            Self::NoFloor => "NoFloor",
            Self::FloorMissing => "FloorMissing",
            Self::FloorNotOwned => "FloorNotOwned",
            Self::FloorRefused => "FloorRefused",
            Self::OwnershipIgnored => "OwnershipIgnored",
            Self::OwnershipIntersected => "OwnershipIntersected",
            Self::EmbeddingConflict => "EmbeddingConflict",
        }
    }

    /// True if a policy with this problem should not be accepted: nothing it governs could be
    /// answered. The others are worth a warning.
    pub const fn blocking(self) -> bool {
        matches!(self, Self::AdmitsNothing)
    }
}

/// Looks through a snapshot. Policies in order, then backends.
pub fn check(snapshot: &Snapshot, now: jiff::Timestamp) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mesh = snapshot.mesh_namespace.as_str();
    if !snapshot
        .policies
        .iter()
        .any(|policy| policy.id.namespace == mesh)
    {
        problems.push(Problem {
            policy: None,
            backend: None,
            kind: ProblemKind::NoPolicy,
            message: format!(
                "no SovereigntyPolicy in namespace {mesh}: every request is confidential and may use owned hardware only; declare one"
            ),
        });
    }
    for policy in &snapshot.policies {
        let effective = join(snapshot, &caller_for(policy, mesh, None));
        let mut found = |kind, backend: Option<&BackendId>, message| {
            problems.push(Problem {
                policy: Some(policy.id.clone()),
                backend: backend.cloned(),
                kind,
                message,
            });
        };
        if let Some((kind, message)) = nothing_admitted(snapshot, &effective, now) {
            found(kind, None, message);
        }
        if let Some((kind, backend, message)) = floor(snapshot, &effective, now) {
            found(kind, backend, message);
        }
        if policy.ownership.is_some() && !selects_everything(policy, mesh) {
            found(
                ProblemKind::OwnershipIgnored,
                None,
                format!(
                    "ownership does not count here: move it to a policy of namespace {mesh} without selector"
                ),
            );
        }
    }
    problems.extend(intersected(snapshot));
    problems.extend(embeddings(snapshot));
    problems
}

/// A plain chat request at `level`.
fn plain(level: PrivacyLevel) -> Facts {
    Facts {
        level,
        task: TaskType::Chat,
        complexity: Complexity::default(),
        latency: LatencyClass::Standard,
        needs: Needs::default(),
        scan: Scan::default(),
        findings: Vec::new(),
        entries: Vec::new(),
    }
}

/// How a plain request is admitted. Everything declared is taken to be well, the record too.
fn asking<'a>(
    policy: &'a EffectivePolicy,
    facts: &'a Facts,
    now: jiff::Timestamp,
) -> AdmitInput<'a> {
    AdmitInput {
        policy,
        facts,
        local_only: false,
        embedding: None,
        overflow: false,
        recorded: true,
        now,
    }
}

/// Levels from the base up at which no declared backend is admitted.
fn nothing_admitted(
    snapshot: &Snapshot,
    policy: &EffectivePolicy,
    now: jiff::Timestamp,
) -> Option<(ProblemKind, String)> {
    let levels: Vec<PrivacyLevel> = PrivacyLevel::ALL
        .into_iter()
        .filter(|level| *level >= policy.base_level())
        .collect();
    let mut empty = Vec::new();
    let mut why = BTreeSet::new();
    for level in &levels {
        let refusals = refusals(snapshot, policy, *level, now);
        if let Err(refusals) = refusals {
            empty.push(level.as_str());
            why.extend(refusals.iter().map(|refusal| refusal.constraint));
        }
    }
    if empty.is_empty() {
        return None;
    }
    let kind = if empty.len() == levels.len() {
        ProblemKind::AdmitsNothing
    } else {
        ProblemKind::AdmitsNothingAtLevel
    };
    let advice = if why.is_empty() {
        String::from("declare an InferenceBackend with inCluster")
    } else {
        let advice: Vec<&str> = why.into_iter().map(advice).collect();
        advice.join("; ")
    };
    Some((
        kind,
        format!("admits no backend at {}: {advice}", empty.join(", ")),
    ))
}

/// The refusals of all backends, if none is admitted.
fn refusals(
    snapshot: &Snapshot,
    policy: &EffectivePolicy,
    level: PrivacyLevel,
    now: jiff::Timestamp,
) -> Result<(), Vec<Refusal>> {
    let facts = plain(level);
    let input = asking(policy, &facts, now);
    let mut refusals = Vec::new();
    for backend in &snapshot.backends {
        for model in &backend.models {
            match admit(&input, backend, &model.name) {
                Ok(_) => return Ok(()),
                Err(refusal) => refusals.push(refusal),
            }
        }
    }
    Err(refusals)
}

/// What to do where a constraint refused everything.
fn advice(constraint: Constraint) -> &'static str {
    match constraint {
        Constraint::MinimumClass => {
            "declare a backend of a better class (inCluster is OwnHardware), claim yours in ownership, or lower constraints.minimumClass"
        }
        Constraint::MaxPrivacy => "raise maxPrivacy of a backend",
        Constraint::Jurisdiction => {
            "renew or complete the claims of a backend, or relax constraints.jurisdictions"
        }
        Constraint::License => "declare the license of a model, or relax constraints.licenses",
        Constraint::Retention => {
            "renew or complete the claims of a backend, or relax constraints.retention"
        }
        Constraint::Availability => "let a backend serve this namespace (availableTo)",
        Constraint::Feature | Constraint::Embedding => {
            "declare a backend whose model answers in text"
        }
        Constraint::ContextWindow => "declare a backend with a larger window",
        Constraint::PeerTraffic => {
            "declare a backend that is not a peer: requests are not sent to other meshes yet"
        }
        Constraint::Audit => "bring the ledger back, or leave out audit",
        Constraint::LocalOnly | Constraint::UnknownFields | Constraint::HostedTool => {
            "declare an InferenceBackend with inCluster"
        }
    }
}

/// What is wrong with the floor of a joined policy.
fn floor<'a>(
    snapshot: &'a Snapshot,
    policy: &EffectivePolicy,
    now: jiff::Timestamp,
) -> Option<(ProblemKind, Option<&'a BackendId>, String)> {
    let Some(floor) = policy.floor() else {
        return Some((
            ProblemKind::NoFloor,
            None,
            String::from(
                "no floor: when every backend is gone nobody answers; name an inCluster backend in floor.backendRef",
            ),
        ));
    };
    let (namespace, name) = &floor.backend;
    let Some(backend) = snapshot
        .backends
        .iter()
        .find(|backend| backend.id.namespace == *namespace && backend.id.name == *name)
    else {
        return Some((
            ProblemKind::FloorMissing,
            None,
            format!(
                "floor.backendRef names {namespace}/{name}, which is not declared: declare that InferenceBackend or name another"
            ),
        ));
    };
    let id = Some(&backend.id);
    if find_floor(snapshot, policy, now).is_none() {
        return Some((
            ProblemKind::FloorNotOwned,
            id,
            format!(
                "floor.backendRef names {name}, which is not ours: use an inCluster backend, or an external one listed in ownership"
            ),
        ));
    }
    let facts = plain(PrivacyLevel::Restricted);
    let input = asking(policy, &facts, now);
    let mut refused = None;
    for model in &backend.models {
        match admit(&input, backend, &model.name) {
            Ok(_) => return None,
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    let refusal = refused?;
    Some((
        ProblemKind::FloorRefused,
        id,
        format!(
            "the floor {name} may not serve restricted requests ({}: {}): {}",
            refusal.constraint,
            refusal.message,
            advice(refusal.constraint)
        ),
    ))
}

/// Several policies that say what is owned.
fn intersected(snapshot: &Snapshot) -> Option<Problem> {
    let saying: Vec<&Policy> = snapshot
        .policies
        .iter()
        .map(AsRef::as_ref)
        .filter(|policy| {
            policy.ownership.is_some() && selects_everything(policy, &snapshot.mesh_namespace)
        })
        .collect();
    if saying.len() < 2 {
        return None;
    }
    let names: Vec<String> = saying.iter().map(|policy| policy.id.to_string()).collect();
    Some(Problem {
        policy: saying.last().map(|policy| policy.id.clone()),
        backend: None,
        kind: ProblemKind::OwnershipIntersected,
        message: format!(
            "several policies say what is owned ({}): only what all of them say counts; keep it in one",
            names.join(", ")
        ),
    })
}

/// Names that stand for different vectors within one namespace.
fn embeddings(snapshot: &Snapshot) -> Vec<Problem> {
    let declared: Vec<_> = snapshot
        .backends
        .iter()
        .filter(|backend| backend.peer().is_none())
        .flat_map(|backend| backend.models.iter().map(move |model| (backend, model)))
        .filter_map(|(backend, model)| {
            Some((backend, &model.name, model.capabilities.embedding.as_ref()?))
        })
        .collect();
    let mut problems = Vec::new();
    for (index, (backend, name, spec)) in declared.iter().enumerate() {
        let clash = declared[..index]
            .iter()
            .find(|(other, other_name, other_spec)| {
                other.id.namespace == backend.id.namespace
                    && other_name == name
                    && other_spec != spec
            });
        if let Some((other, ..)) = clash {
            problems.push(Problem {
                policy: None,
                backend: Some(backend.id.clone()),
                kind: ProblemKind::EmbeddingConflict,
                message: format!(
                    "{name} stands for other vectors here than on {}: only those of the first are used; give them different names or the same embedding",
                    other.id
                ),
            });
        }
    }
    problems
}
