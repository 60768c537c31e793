//! Constraints that read the claims of a cloud. What is not claimed, or not any more, fails: an
//! owned place passes, everything else has to show a claim.

use mesh_core::policy::{ClaimField, JurisdictionRule};
use mesh_core::{Backend, Claims, Constraint, JurisdictionSet, Refusal, SovereigntyClass};

use super::{AdmitInput, refuse};
use crate::class::current_claims;

const ALL_FIELDS: [ClaimField; 3] = [
    ClaimField::Seat,
    ClaimField::DataCenters,
    ClaimField::GoverningLaw,
];

/// Every jurisdiction rule must hold. A place is denied if it touches a denied one, and allowed if
/// it lies wholly inside an allowed one.
pub(super) fn jurisdiction(
    input: &AdmitInput<'_>,
    backend: &Backend,
    class: SovereigntyClass,
) -> Result<(), Refusal> {
    if class.owned() {
        return Ok(());
    }
    let claims = current_claims(backend, input.now);
    for rule in input.policy.jurisdictions() {
        if rule.deny.0.is_empty() && rule.allow.is_none() {
            continue;
        }
        let Some(claims) = claims else {
            return refuse(Constraint::Jurisdiction, || {
                String::from("a jurisdiction rule stands and no claim counts (absent or expired)")
            });
        };
        // A rule that names no field looks at all of them: the careful reading.
        let fields: &[ClaimField] = if rule.apply_to.is_empty() {
            &ALL_FIELDS
        } else {
            &rule.apply_to
        };
        for field in fields {
            places_pass(rule, *field, places(claims, *field))?;
        }
    }
    Ok(())
}

fn places_pass(
    rule: &JurisdictionRule,
    field: ClaimField,
    places: &JurisdictionSet,
) -> Result<(), Refusal> {
    let name = field_name(field);
    if places.0.is_empty() {
        return refuse(Constraint::Jurisdiction, || {
            format!("a jurisdiction rule stands and {name} is not claimed")
        });
    }
    for place in &places.0 {
        if rule.deny.touches(place) {
            return refuse(Constraint::Jurisdiction, || {
                format!("{name} {place} is denied")
            });
        }
        if rule
            .allow
            .as_ref()
            .is_some_and(|allow| !allow.covers(place))
        {
            return refuse(Constraint::Jurisdiction, || {
                format!("{name} {place} is not on the allow list")
            });
        }
    }
    Ok(())
}

/// Every retention rule that holds at the level of the request must hold.
pub(super) fn retention(
    input: &AdmitInput<'_>,
    backend: &Backend,
    class: SovereigntyClass,
) -> Result<(), Refusal> {
    if class.owned() {
        return Ok(());
    }
    let level = input.level();
    let claims = current_claims(backend, input.now);
    for rule in input.policy.retention(level) {
        let Some(claims) = claims else {
            return refuse(Constraint::Retention, || {
                format!("a retention rule holds at {level} and no claim counts (absent or expired)")
            });
        };
        match claims.retention_days {
            Some(days) if days <= rule.max_days => {}
            Some(days) => {
                return refuse(Constraint::Retention, || {
                    format!(
                        "prompts are kept {days} days, at {level} at most {}",
                        rule.max_days
                    )
                });
            }
            None => {
                return refuse(Constraint::Retention, || {
                    format!("a retention rule holds at {level} and retention is not claimed")
                });
            }
        }
        if !rule.allow_training && claims.training != Some(false) {
            return refuse(Constraint::Retention, || {
                format!("training on prompts is not admitted at {level} and not ruled out")
            });
        }
    }
    Ok(())
}

fn places(claims: &Claims, field: ClaimField) -> &JurisdictionSet {
    match field {
        ClaimField::Seat => &claims.seat,
        ClaimField::DataCenters => &claims.data_centers,
        ClaimField::GoverningLaw => &claims.governing_law,
    }
}

fn field_name(field: ClaimField) -> &'static str {
    match field {
        ClaimField::Seat => "seat",
        ClaimField::DataCenters => "data center",
        ClaimField::GoverningLaw => "governing law",
    }
}
