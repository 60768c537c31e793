//! Every candidate, admitted or refused, with its score and health.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::policy::{Overflow, Substitution};
use mesh_core::{
    Backend, Candidate, Constraint, EmbeddingSpec, PrivacyLevel, Refusal, Score, SovereigntyClass,
};

use super::DecideInput;
use crate::candidate::{Asked, Pair};
use crate::class::derive;
use crate::constraint::{AdmitInput, Admitted, admit, in_reach};
use crate::health::{Admission, OpenCause};
use crate::score::{ScoreInput, score};

/// A candidate and what was found out about it.
pub(super) struct Considered {
    pub(super) pair: Pair,
    pub(super) class: SovereigntyClass,
    pub(super) outcome: Result<Admitted, Refusal>,
    /// Admitted only because it may leave out old turns.
    pub(super) overflow: bool,
    pub(super) score: Option<Score>,
    pub(super) health: Admission,
}

impl Considered {
    pub(super) fn admitted(&self) -> bool {
        self.outcome.is_ok()
    }

    pub(super) fn refused_by(&self) -> Option<Constraint> {
        self.outcome
            .as_ref()
            .err()
            .map(|refusal| refusal.constraint)
    }

    /// True if policy lets it serve, now or as soon as what is decided can be written down again.
    pub(super) fn could(&self) -> bool {
        self.admitted() || self.unrecorded()
    }

    /// True if nothing but the record keeps it out.
    pub(super) fn unrecorded(&self) -> bool {
        self.refused_by() == Some(Constraint::Audit)
    }

    /// True if nothing but its health keeps it from being asked, and only failures do.
    pub(super) fn last_resort(&self) -> bool {
        self.admitted()
            && matches!(
                self.health,
                Admission::No {
                    cause: OpenCause::Failures,
                    ..
                }
            )
    }

    /// Time until an admitted one that rests may be asked.
    pub(super) fn retry_in(&self) -> Option<Duration> {
        match self.health {
            Admission::No { retry_in, .. } if self.admitted() => Some(retry_in),
            _ => None,
        }
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            backend: self.pair.backend.id.clone(),
            model: self.pair.model().name.clone(),
            class: self.class,
            refusal: self.outcome.as_ref().err().cloned(),
            score: self.score,
            unavailable: self.admitted() && !self.health.available(),
            floor: self.pair.floor,
        }
    }
}

/// Admits and scores every pair; adds the floor where it may stand in for a named model.
pub(super) fn consider(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    pairs: Vec<Pair>,
    floor: Option<&Arc<Backend>>,
) -> Vec<Considered> {
    let embeddings = input.facts.needs.embeddings;
    let spec = embeddings
        .then(|| reference_spec(input, asked, &pairs))
        .flatten();
    let mut considered: Vec<Considered> = pairs
        .into_iter()
        .filter(|pair| {
            !embeddings || matches!(asked, Asked::Named(_)) || same_name(spec.as_ref(), pair)
        })
        .map(|mut pair| {
            // Vectors have no floor: whoever makes them is a candidate like any other.
            pair.floor &= !embeddings;
            one(input, asked, spec.as_ref().map(|(_, spec)| spec), pair)
        })
        .collect();
    if let Some(floor) = floor
        && !embeddings
        && stands_in(input, asked, &considered)
    {
        let named: Vec<usize> = considered
            .iter()
            .filter(|candidate| candidate.pair.floor)
            .map(|candidate| candidate.pair.model)
            .collect();
        let others = (0..floor.models.len()).filter(|model| !named.contains(model));
        considered.extend(others.map(|model| {
            let pair = Pair {
                backend: Arc::clone(floor),
                model,
                floor: true,
                substitute: true,
            };
            one(input, asked, None, pair)
        }));
    }
    let others = considered
        .iter()
        .any(|candidate| candidate.could() && !candidate.pair.floor);
    if others {
        let_floor_trim(input, asked, &mut considered);
    }
    considered
}

fn admission_input<'a>(
    input: &DecideInput<'a>,
    asked: Asked<'_>,
    floor: bool,
    overflow: bool,
) -> AdmitInput<'a> {
    AdmitInput {
        policy: input.policy,
        facts: input.facts,
        local_only: asked == Asked::Local,
        embedding: None,
        overflow,
        recorded: floor || input.health.durable(),
        now: input.now,
    }
}

fn one(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    spec: Option<&EmbeddingSpec>,
    pair: Pair,
) -> Considered {
    let name = pair.model().name.as_str();
    let admission = AdmitInput {
        embedding: spec,
        ..admission_input(input, asked, pair.floor, false)
    };
    let outcome = admit(&admission, &pair.backend, name);
    let class = outcome.as_ref().map_or_else(
        |_| {
            derive(
                &pair.backend,
                input.policy.ownership(),
                input.policy.mesh_namespace(),
                input.now,
            )
            .class
        },
        Admitted::class,
    );
    let health = input.health.admission(&pair.backend.id, name);
    let ranked = outcome.is_ok() && (!pair.floor || competes(input, asked, &pair));
    let score = ranked.then(|| {
        score(&ScoreInput {
            policy: input.policy,
            facts: input.facts,
            level: admission.level(),
            model: pair.model(),
            class,
            time_to_first_token: input.health.time_to_first_token(&pair.backend.id, name),
        })
    });
    Considered {
        class,
        outcome,
        overflow: false,
        score,
        health,
        pair,
    }
}

/// The floor is scored where the policy lets it compete, and under `local`: then it is one owned
/// backend among others. It never competes for a name it does not serve.
fn competes(input: &DecideInput<'_>, asked: Asked<'_>, pair: &Pair) -> bool {
    let declared = input.policy.floor().is_some_and(|floor| floor.compete);
    !pair.substitute && (declared || asked == Asked::Local)
}

/// True if the floor may answer in place of a named model: substitution is on, it does not answer
/// to the name itself, and the request is not at fault.
fn stands_in(input: &DecideInput<'_>, asked: Asked<'_>, named: &[Considered]) -> bool {
    matches!(asked, Asked::Named(_))
        && input.policy.failover().substitution == Substitution::Floor
        && !named
            .iter()
            .any(|candidate| candidate.pair.floor && candidate.admitted())
        && !fields_at_fault(input, asked, named)
}

/// True if the caller named a model that nobody owned serves, with fields that may not leave owned
/// hardware. Those are the caller's to drop, so nobody stands in, at no level above public.
pub(super) fn fields_at_fault(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    named: &[Considered],
) -> bool {
    matches!(asked, Asked::Named(_))
        && !input.facts.needs.unknown_fields.is_empty()
        && admission_input(input, asked, false, false).level() > PrivacyLevel::Public
        && named.iter().all(|candidate| !candidate.class.owned())
}

/// Admits a floor whose window is too small, if it may leave out old turns: only beside others that
/// were admitted, since a prompt too large for every admitted window is the caller's error.
fn let_floor_trim(input: &DecideInput<'_>, asked: Asked<'_>, considered: &mut [Considered]) {
    let trims = input
        .policy
        .floor()
        .is_some_and(|floor| floor.overflow == Overflow::TrimHistory);
    if !trims {
        return;
    }
    for candidate in considered.iter_mut().filter(|candidate| {
        candidate.pair.floor && candidate.refused_by() == Some(Constraint::ContextWindow)
    }) {
        candidate.outcome = admit(
            &admission_input(input, asked, true, true),
            &candidate.pair.backend,
            &candidate.pair.model().name,
        );
        candidate.overflow = candidate.outcome.is_ok();
    }
}

/// The name and declaration that an embedding request stands for: those of the first candidate in
/// reach, the mesh namespace before others, that declares the dimensions asked for. It depends
/// neither on level nor on health, so that one name never means two vector spaces.
fn reference_spec(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    pairs: &[Pair],
) -> Option<(String, EmbeddingSpec)> {
    let owned = |pair: &Pair| {
        let policy = input.policy;
        let derived = derive(
            &pair.backend,
            policy.ownership(),
            policy.mesh_namespace(),
            input.now,
        );
        derived.class.owned()
    };
    pairs
        .iter()
        .filter(|pair| in_reach(input.policy, &pair.backend))
        // Nobody gets vectors of another mesh yet, so it cannot say what a name means here.
        .filter(|pair| pair.backend.peer().is_none())
        .filter(|pair| asked != Asked::Local || owned(pair))
        .filter_map(|pair| {
            let spec = pair.model().capabilities.embedding.clone()?;
            let fits = input
                .facts
                .needs
                .dimensions
                .is_none_or(|dimensions| dimensions == spec.dimensions);
            let foreign = pair.backend.id.namespace != input.policy.mesh_namespace();
            fits.then(|| ((foreign, &pair.backend.id), &pair.model().name, spec))
        })
        .min_by(|left, right| left.0.cmp(&right.0))
        .map(|(_, name, spec)| (name.clone(), spec))
}

/// For `auto` and `local`: vectors of one name only.
fn same_name(spec: Option<&(String, EmbeddingSpec)>, pair: &Pair) -> bool {
    spec.is_none_or(|(name, _)| *name == pair.model().name)
}
