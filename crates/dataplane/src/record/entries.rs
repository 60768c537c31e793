//! What is written of a request: names, numbers and what its decision holds, never what its caller wrote. A decision says
//! some of the caller's words back to the caller, which is nobody else's to read for a year: the name of a model that nobody
//! declares, and names of unknown fields. They are left out here, wherever they stand.
//!
//! An entry is bounded: of very many backends those that are planned and the first others stand there, the rest is counted.

use std::collections::BTreeMap;

use mesh_core::{Candidate, Constraint, Decision, Snapshot, Verdict};
use mesh_ledger::{Entry, Event};
use mesh_routing::{AUTO, LOCAL};
use serde_json::json;

use super::Recorder;
use crate::Job;

/// In place of what is the caller's text.
const LEFT_OUT: &str = "(left out)";
/// Candidates that are written besides those that are planned. The best come first.
const CANDIDATES: usize = 64;
/// Names that a caller might use, of which so many are written.
const NAMES: usize = 16;

impl Recorder {
    /// What was decided.
    pub(super) fn decided(&self, job: &Job, snapshot: &Snapshot) -> Entry {
        let declared = declared(&job.decided.decision.model, snapshot);
        let (decision, counted) = clean(&job.decided.decision, declared);
        let surface = job.request.surface.as_str();
        let mut event = Event::decided(&decision, &job.caller, surface, job.bytes);
        if let Event::Decided { decision, .. } = &mut event
            && !counted.is_empty()
        {
            decision["more_candidates"] = json!(counted);
        }
        self.entry(event)
    }
}

/// True if it is a name of the mesh or of somebody's declaration.
fn declared(model: &str, snapshot: &Snapshot) -> bool {
    let mut models = snapshot.backends.iter().flat_map(|backend| &backend.models);
    [AUTO, LOCAL].contains(&model) || models.any(|served| served.answers_to(model))
}

/// The decision without the caller's words, and how many candidates it does not name, by what refused them.
fn clean(whole: &Decision, declared: bool) -> (Decision, BTreeMap<&'static str, u64>) {
    let (candidates, counted) = candidates(whole);
    let decision = Decision {
        decision: whole.decision.clone(),
        model: if declared {
            whole.model.clone()
        } else {
            LEFT_OUT.to_owned()
        },
        verdict: verdict(&whole.verdict, declared),
        facts: whole.facts.clone(),
        candidates,
        plan: whole.plan.clone(),
        policies: whole.policies.clone(),
        ..*whole
    };
    (decision, counted)
}

fn verdict(verdict: &Verdict, declared: bool) -> Verdict {
    match verdict {
        // It may name the model.
        Verdict::NoBackend { .. } if !declared => Verdict::NoBackend {
            message: LEFT_OUT.to_owned(),
        },
        Verdict::UnsupportedParameter { fields } => Verdict::UnsupportedParameter {
            fields: vec![format!("({} fields)", fields.len())],
        },
        Verdict::ModelNotFound { usable } => Verdict::ModelNotFound {
            usable: usable.iter().take(NAMES).cloned().collect(),
        },
        Verdict::Planned
        | Verdict::PolicyDenied { .. }
        | Verdict::NoBackend { .. }
        | Verdict::ContextLengthExceeded { .. } => verdict.clone(),
    }
}

fn candidates(whole: &Decision) -> (Vec<Candidate>, BTreeMap<&'static str, u64>) {
    let planned = |candidate: &Candidate| {
        let mut plan = whole.plan.iter();
        plan.any(|entry| entry.backend == candidate.backend && entry.model == candidate.model)
    };
    let (mut named, mut counted) = (Vec::new(), BTreeMap::new());
    for (index, candidate) in whole.candidates.iter().enumerate() {
        let refusal = candidate.refusal.as_ref();
        if index >= CANDIDATES && !planned(candidate) {
            let word = refusal.map_or("admitted", |refusal| refusal.constraint.as_str());
            *counted.entry(word).or_default() += 1;
            continue;
        }
        let mut candidate = candidate.clone();
        if let Some(refusal) = &mut candidate.refusal
            && refusal.constraint == Constraint::UnknownFields
        {
            // It names them.
            LEFT_OUT.clone_into(&mut refusal.message);
        }
        named.push(candidate);
    }
    (named, counted)
}

#[cfg(test)]
mod tests {
    use mesh_core::decision::DECISION_VERSION;
    use mesh_core::{
        BackendId, Candidate, Complexity, Constraint, Decision, DecisionId, LatencyClass,
        PlanEntry, PrivacyLevel, Refusal, SovereigntyClass, TaskType, Verdict,
    };

    use super::{CANDIDATES, clean};

    /// What a caller wrote.
    const SECRET: &str = "alice_hunter2";

    fn candidate(name: &str, constraint: Option<Constraint>) -> Candidate {
        Candidate {
            backend: BackendId::home("default", name),
            model: String::from("m"),
            class: SovereigntyClass::CloudForeign,
            refusal: constraint.map(|constraint| Refusal {
                constraint,
                message: format!("unknown fields ({SECRET})"),
            }),
            score: None,
            unavailable: false,
            floor: false,
        }
    }

    fn decision(verdict: Verdict, candidates: Vec<Candidate>) -> Decision {
        Decision {
            version: DECISION_VERSION,
            decision: DecisionId(String::from("01")),
            time: jiff::Timestamp::UNIX_EPOCH,
            snapshot: 1,
            model: SECRET.to_owned(),
            privacy: PrivacyLevel::Restricted,
            task: TaskType::Chat,
            complexity: Complexity::default(),
            latency: LatencyClass::Interactive,
            verdict,
            facts: Vec::new(),
            candidates,
            plan: Vec::new(),
            policies: Vec::new(),
            health_assumed: false,
        }
    }

    #[test]
    fn what_is_said_back_to_the_caller_is_written_for_nobody_else() {
        let unknown = Some(Constraint::UnknownFields);
        for verdict in [
            Verdict::NoBackend {
                message: format!("no embedding for `{SECRET}`"),
            },
            Verdict::UnsupportedParameter {
                fields: vec![SECRET.to_owned()],
            },
        ] {
            let whole = decision(verdict, vec![candidate("a", unknown)]);
            let (cleaned, _) = clean(&whole, false);
            let text = serde_json::to_string(&cleaned).expect("JSON");
            assert!(!text.contains(SECRET), "{text}");
        }
        let named = decision(Verdict::Planned, Vec::new());
        assert_eq!(clean(&named, true).0.model, SECRET, "somebody declares it");
    }

    #[test]
    fn of_very_many_backends_the_planned_and_the_best_stand_there_and_the_rest_is_counted() {
        let mut all: Vec<Candidate> = (0..5000)
            .map(|number| candidate(&number.to_string(), Some(Constraint::MinimumClass)))
            .collect();
        all.push(candidate("planned", None));
        all.push(candidate("good", None));
        let mut whole = decision(Verdict::Planned, all);
        whole.plan = vec![PlanEntry {
            backend: BackendId::home("default", "planned"),
            model: String::from("m"),
            class: SovereigntyClass::CloudForeign,
        }];
        let (cleaned, counted) = clean(&whole, true);
        assert_eq!(cleaned.candidates.len(), CANDIDATES + 1);
        let last = cleaned.candidates.last().expect("one");
        assert_eq!(last.backend.name, "planned");
        assert_eq!(counted["minimum_class"], 5000 - CANDIDATES as u64);
        assert_eq!(counted["admitted"], 1);
        assert!(serde_json::to_string(&cleaned).expect("JSON").len() < 64 << 10);
    }
}
