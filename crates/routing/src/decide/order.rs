//! From considered candidates to the order of attempts.

use mesh_core::{Degradation, Feature, Place, ToolNeed};

use super::DecideInput;
use super::consider::Considered;
use crate::candidate::Asked;
use crate::constraint::{AdmitInput, Admitted, admit};
use crate::plan::{Attempt, Plan, Role};

/// One place in the plan: which candidate, and why there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) index: usize,
    pub(super) role: Role,
}

/// Sorts the candidates (scored by total, class and name; then the floor; then the refused) and
/// picks those that are attempted.
///
/// Who rests after failures is skipped while anybody else is left. The floor is never skipped: its
/// health cannot make another answer better than its own. If nobody available is left and the floor
/// rests too (or there is none), the best one that only failures keep out is tried first.
pub(super) fn order(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    mut considered: Vec<Considered>,
) -> (Vec<Considered>, Vec<Slot>) {
    considered.sort_by(compare);
    let named_floor = considered
        .iter()
        .position(|candidate| floor_by_name(asked, candidate));
    let ranked = considered
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.admitted() && candidate.score.is_some());
    let limit = usize::try_from(input.policy.failover().max_attempts.max(1)).unwrap_or(usize::MAX);
    let mut slots: Vec<Slot> = named_floor
        .into_iter()
        .chain(
            ranked
                .filter(|(_, candidate)| candidate.health.available())
                .map(|(index, _)| index),
        )
        .take(limit)
        .map(|index| Slot {
            index,
            role: Role::Ranked,
        })
        .collect();

    let floor = named_floor.or_else(|| {
        considered
            .iter()
            .position(|candidate| candidate.pair.floor && candidate.admitted())
    });
    let floor_rests = floor.is_none_or(|index| !considered[index].health.available());
    if slots.is_empty() && floor_rests {
        slots.extend(
            considered
                .iter()
                .position(|candidate| candidate.last_resort() && !candidate.pair.floor)
                .map(|index| Slot {
                    index,
                    role: Role::LastResort,
                }),
        );
    }
    if let Some(index) = floor
        && slots.last().is_none_or(|last| last.index != index)
    {
        slots.push(Slot {
            index,
            role: Role::Floor,
        });
    }
    (considered, slots)
}

/// The caller names the floor by the own name of a model it serves, not by an alias that may stand
/// for better ones. Where the floor is scored, its score decides.
fn floor_by_name(asked: Asked<'_>, candidate: &Considered) -> bool {
    candidate.pair.floor
        && candidate.admitted()
        && candidate.score.is_none()
        && !candidate.overflow
        && matches!(asked, Asked::Named(name) if candidate.pair.model().name == name)
}

/// Scored ones by total, then class (better first), then name; then the floor; then the refused.
fn compare(left: &Considered, right: &Considered) -> std::cmp::Ordering {
    let group = |candidate: &Considered| {
        if candidate.score.is_some() {
            0
        } else {
            u8::from(!candidate.admitted()) + 1
        }
    };
    let total = |candidate: &Considered| candidate.score.map_or(0.0, |score| score.total);
    group(left)
        .cmp(&group(right))
        .then_with(|| total(right).total_cmp(&total(left)))
        .then_with(|| {
            // Among several models of the floor: those that were named, then as declared.
            if left.admitted() && left.score.is_none() && right.score.is_none() {
                return (left.pair.substitute, left.pair.model)
                    .cmp(&(right.pair.substitute, right.pair.model));
            }
            right.class.cmp(&left.class)
        })
        .then_with(|| left.pair.backend.id.cmp(&right.pair.backend.id))
        .then_with(|| left.pair.model().name.cmp(&right.pair.model().name))
        .then_with(|| left.pair.model.cmp(&right.pair.model))
}

/// Makes the attempts. Takes the admissions out of `considered`; a floor that stands in the plan
/// twice is admitted twice.
pub(super) fn plan(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    considered: Vec<Considered>,
    slots: &[Slot],
) -> Plan {
    let any = |is: fn(&Considered) -> bool| {
        let mut others = considered.iter().filter(|other| !other.pair.floor);
        others.any(is)
    };
    let missing = Missing {
        others: any(Considered::admitted),
        record: any(Considered::unrecorded),
    };
    let mut considered: Vec<Option<Considered>> = considered.into_iter().map(Some).collect();
    let mut attempts: Vec<Attempt> = Vec::with_capacity(slots.len());
    for slot in slots {
        let attempt = match considered[slot.index].take() {
            Some(candidate) => first(input, asked, candidate, *slot, missing),
            None => attempts
                .iter()
                .find(|attempt| attempt.floor)
                .and_then(|earlier| again(input, earlier, missing)),
        };
        attempts.extend(attempt);
    }
    Plan { attempts }
}

/// Whom the floor stands in for.
#[derive(Debug, Clone, Copy)]
struct Missing {
    /// Others were admitted.
    others: bool,
    /// Others were kept out by nothing but the record, which cannot be written now.
    record: bool,
}

fn first(
    input: &DecideInput<'_>,
    asked: Asked<'_>,
    candidate: Considered,
    slot: Slot,
    missing: Missing,
) -> Option<Attempt> {
    let admitted = candidate.outcome.ok()?;
    let degradations = degradations(
        input,
        &admitted,
        candidate.pair.floor,
        Missing {
            others: slot.role == Role::Floor && missing.others,
            ..missing
        },
        candidate.pair.substitute,
    );
    Some(Attempt {
        admitted,
        role: slot.role,
        floor: candidate.pair.floor,
        local_only: asked == Asked::Local,
        overflow: candidate.overflow,
        degradations,
    })
}

/// The floor once more, at the end of a plan in which it stands earlier.
fn again(input: &DecideInput<'_>, earlier: &Attempt, missing: Missing) -> Option<Attempt> {
    let admission = AdmitInput {
        policy: input.policy,
        facts: input.facts,
        local_only: earlier.local_only,
        embedding: None,
        overflow: false,
        recorded: true,
        now: input.now,
    };
    let before = &earlier.admitted;
    let admitted = admit(&admission, before.backend(), &before.model().name).ok()?;
    let degradations = degradations(input, &admitted, true, missing, false);
    Some(Attempt {
        admitted,
        role: Role::Floor,
        floor: true,
        local_only: earlier.local_only,
        overflow: false,
        degradations,
    })
}

/// What an answer by this attempt would be less than asked, as far as it is known now. Tools are
/// dropped by the floor and by engines of this mesh, which see only what their engine enforces.
fn degradations(
    input: &DecideInput<'_>,
    admitted: &Admitted,
    floor: bool,
    missing: Missing,
    substitute: bool,
) -> Vec<Degradation> {
    let without_tools = input.facts.needs.tools == ToolNeed::Soft
        && (floor
            || matches!(
                admitted.backend().place,
                Place::InProcess { .. } | Place::Pods(_)
            ))
        && !admitted.model().capabilities.enforces(Feature::Tools);
    [
        (missing.others, Degradation::FloorOnly),
        (floor && missing.record, Degradation::AuditNotDurable),
        (substitute, Degradation::ModelSubstituted),
        (without_tools, Degradation::ToolsDropped),
    ]
    .into_iter()
    .filter_map(|(applies, degradation)| applies.then_some(degradation))
    .collect()
}
