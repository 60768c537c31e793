//! What the caller is told. Where nothing is planned, what the caller can mend comes first: unknown
//! fields, then the length of the prompt, then features, then policy.

use std::collections::BTreeSet;

use mesh_core::{Constraint, Peer, Verdict};

use super::DecideInput;
use super::consider::{Considered, fields_at_fault};
use super::order::Slot;
use crate::candidate::{Asked, usable_names};
use crate::constraint::hard_needs;

pub(super) fn model_not_found(input: &DecideInput<'_>) -> Verdict {
    Verdict::ModelNotFound {
        usable: usable_names(input.snapshot, input.policy),
    }
}

pub(super) fn of(input: &DecideInput<'_>, considered: &[Considered], slots: &[Slot]) -> Verdict {
    if !slots.is_empty() {
        return Verdict::Planned;
    }
    if considered.is_empty() {
        return Verdict::NoBackend {
            message: String::from("no backend is declared"),
        };
    }
    let resting: BTreeSet<String> = considered
        .iter()
        .filter(|candidate| candidate.admitted())
        .map(|candidate| candidate.pair.backend.id.to_string())
        .collect();
    if !resting.is_empty() {
        let names: Vec<String> = resting.into_iter().collect();
        return Verdict::NoBackend {
            message: format!(
                "every admitted backend rests after failures or by its own wish: {}",
                names.join(", ")
            ),
        };
    }
    refused(input, considered)
}

/// Nothing is admitted.
fn refused(input: &DecideInput<'_>, considered: &[Considered]) -> Verdict {
    let constraints: BTreeSet<Constraint> = considered
        .iter()
        .filter_map(Considered::refused_by)
        .collect();
    // Somebody would serve if the record could be written: nothing else is in the way.
    if constraints.contains(&Constraint::Audit) {
        return Verdict::PolicyDenied {
            constraints: constraints.into_iter().collect(),
        };
    }
    if constraints.contains(&Constraint::UnknownFields)
        || fields_at_fault(input, Asked::new(input.model), considered)
    {
        return Verdict::UnsupportedParameter {
            fields: input.facts.needs.unknown_fields.clone(),
        };
    }
    if constraints.contains(&Constraint::ContextWindow) {
        let windows = considered
            .iter()
            .filter(|candidate| candidate.refused_by() == Some(Constraint::ContextWindow))
            .filter_map(|candidate| candidate.pair.model().capabilities.context_tokens);
        return Verdict::ContextLengthExceeded {
            largest: windows.max().unwrap_or(0),
        };
    }
    // Another mesh would serve: nothing but the way there is missing.
    if constraints.contains(&Constraint::PeerTraffic) {
        return Verdict::NoBackend {
            message: format!("only other meshes may serve this; {}", Peer::UNSERVED),
        };
    }
    if constraints.contains(&Constraint::Feature) {
        let mut needs: Vec<&str> = hard_needs(input.facts).map(|(what, _)| what).collect();
        if needs.is_empty() {
            needs.push("text (only vectors)");
        }
        return Verdict::NoBackend {
            message: format!("no admitted backend gives {}", needs.join(" and ")),
        };
    }
    if constraints.contains(&Constraint::Embedding) {
        return Verdict::NoBackend {
            message: embedding_message(input),
        };
    }
    Verdict::PolicyDenied {
        constraints: constraints.into_iter().collect(),
    }
}

fn embedding_message(input: &DecideInput<'_>) -> String {
    match input.facts.needs.dimensions {
        Some(dimensions) => format!(
            "no admitted backend declares an embedding of {dimensions} dimensions for `{}`",
            input.model
        ),
        None => format!(
            "no admitted backend declares an embedding for `{}`",
            input.model
        ),
    }
}
