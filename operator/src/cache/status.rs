//! The status of a ModelCache, from what was observed. Messages hold no number that changes while work goes
//! on: that is what `progress` is for.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mesh_crds::condition::{self, ConditionStatus};
use mesh_crds::model_cache::{DerivedStatus, Progress};
use serde_json::{Value, json};

use super::build::format;
use super::outcome::Phase;
use super::report::listed;
use super::room;
use super::state::{Doing, Keep, State};
use crate::status::{Fact, conditions, summary};
use crate::world::Read;

/// Reason and message.
type Obstacle = (String, String);

/// The status of a ModelCache that cannot be read.
pub(crate) fn unreadable(read: &Read, now: Timestamp) -> Value {
    let message = read
        .faults()
        .unwrap_or_else(|| String::from("it cannot be read"));
    let fact = Fact::no(condition::READY, read.reason(), message);
    let mut status = json!({
        "observedGeneration": read.raw.metadata.generation,
        "conditions": conditions(&read.raw, summary(fact, true).to_vec(), now),
    });
    // A digest that was found is kept, or a spec that is mended would be pinned anew.
    for kept in ["artifacts", "derived"] {
        if let Some(old) = read.raw.data.pointer(&format!("/status/{kept}")) {
            status[kept] = old.clone();
        }
    }
    status
}

/// The status of a ModelCache.
pub(crate) fn status(
    read: &Read,
    state: &State,
    refused: Option<&Obstacle>,
    now: Timestamp,
) -> Value {
    let ready = match obstacle(state, refused) {
        Some((reason, message)) => Fact::no(condition::READY, &reason, message),
        None => Fact::yes(condition::READY, satisfied(state)),
    };
    let stalled = state.fault.is_some();
    let mut facts = summary(ready, stalled).to_vec();
    if !stalled {
        facts.extend(parts(state));
    }
    let mut status = json!({
        "observedGeneration": read.raw.metadata.generation,
        "conditions": conditions(&read.raw, facts, now),
    });
    if !state.known.is_empty() {
        status["artifacts"] = json!(state.known);
    }
    let derived: Vec<&DerivedStatus> = state
        .derived
        .iter()
        .filter_map(|one| one.made.as_ref())
        .collect();
    if !derived.is_empty() {
        status["derived"] = json!(derived);
    }
    if let Some(progress) = progress(state) {
        status["progress"] = json!(progress);
    }
    if let Some((wanted, ready)) = nodes(state) {
        status["nodes"] = json!({"wanted": wanted, "ready": ready});
    }
    status
}

fn progress(state: &State) -> Option<&Progress> {
    state
        .doings()
        .find_map(|doing| doing.outcome.progress.as_ref())
}

/// Nodes that should and do have the files; none where one volume serves all.
fn nodes(state: &State) -> Option<(usize, usize)> {
    if matches!(state.keep, Keep::Claim(_)) || state.workers.is_empty() {
        return None;
    }
    let count = |having: bool| {
        let nodes = state.workers.iter().filter(|pod| pod.has || !having);
        let names: BTreeSet<&String> = nodes.filter_map(|pod| pod.node.as_ref()).collect();
        names.len()
    };
    Some((count(false), count(true)))
}

fn satisfied(state: &State) -> &'static str {
    match state.keep {
        Keep::Pod => {
            "every pod fetches the files into its own memory or disk and proves them before it serves"
        }
        Keep::Claim(_) => "the volume holds the files; every pod proves them before it serves",
        Keep::Node(_) => {
            "every pod fetches the files into a volume of its node and proves them before it serves"
        }
    }
}

/// What keeps the cache from being ready.
fn obstacle(state: &State, refused: Option<&Obstacle>) -> Option<Obstacle> {
    if let Some(first) = state.fault.as_ref().or(refused) {
        return Some(first.clone());
    }
    if state.lost {
        return Some((
            String::from("VolumeLost"),
            String::from(
                "the claim has lost its volume: delete the claim, and the files are fetched anew",
            ),
        ));
    }
    match state.keep {
        Keep::Claim(_) if !state.fetched() => {
            return Some(unfinished(
                state.fetch.as_ref(),
                "the files are fetched into the volume",
            ));
        }
        Keep::Pod | Keep::Node(_) if !state.pinned() => {
            return Some(unfinished(
                state.fetch.as_ref(),
                "the digests are found out by a first fetch",
            ));
        }
        Keep::Pod | Keep::Claim(_) | Keep::Node(_) => {}
    }
    if let Some(doing) = &state.verify
        && doing.outcome.phase == Phase::Failed
    {
        return Some(unfinished(Some(doing), "the files are proven again"));
    }
    if matches!(state.keep, Keep::Claim(_)) {
        let mut missing = state.derived.iter().filter(|one| one.made.is_none());
        return missing
            .next()
            .map(|one| unfinished(one.doing.as_ref(), "smaller versions are made"));
    }
    if state.workers.iter().any(|pod| pod.has) {
        return None;
    }
    state.workers.iter().find_map(|pod| pod.problem.clone())
}

/// Why a Job is not done.
fn unfinished(doing: Option<&Doing>, what: &str) -> Obstacle {
    match doing.and_then(|doing| doing.outcome.obstacle()) {
        Some((reason, message)) => (reason, format!("{what}: {message}")),
        None => (condition::REASON_PROGRESSING.to_owned(), what.to_owned()),
    }
}

fn unknown(type_: &'static str, message: &str) -> Fact {
    Fact::new(
        type_,
        ConditionStatus::Unknown,
        condition::REASON_PROGRESSING,
        message,
    )
}

fn parts(state: &State) -> Vec<Fact> {
    let mut facts = vec![resolved(state), fetched(state), verified(state)];
    facts.extend(quantized(state));
    facts.push(distributed(state));
    facts
}

/// True once somebody got the files from some source, and until then where there is no reason for doubt.
fn resolved(state: &State) -> Fact {
    let number = state.cache.spec.sources.len();
    let said = listed(&state.failures, "; ");
    let complete = state.known.len() == state.cache.spec.artifacts.len();
    if complete {
        let used: BTreeSet<&str> = state.known.iter().map(|one| one.source.as_str()).collect();
        let mut message = format!("from {}", listed(used, ", "));
        if !said.is_empty() {
            message = format!("{message}; {said}");
        }
        return Fact::yes(condition::SOURCE_RESOLVED, message);
    }
    let mut bad = state.failures.iter().rev().filter(|one| !room::full(one));
    if let Some(failure) = bad.next() {
        return Fact::no(condition::SOURCE_RESOLVED, &failure.word(), said);
    }
    let mut message = format!("{number} sources, tried in order");
    if !said.is_empty() {
        message = format!("{message}; {said}");
    }
    Fact::yes(condition::SOURCE_RESOLVED, message)
}

/// Whether the bytes are where they are kept.
fn there(state: &State) -> Option<bool> {
    match state.keep {
        Keep::Claim(_) => Some(state.fetched()),
        Keep::Pod | Keep::Node(_) if state.workers.is_empty() => None,
        Keep::Pod | Keep::Node(_) => Some(state.workers.iter().any(|pod| pod.has)),
    }
}

fn fetched(state: &State) -> Fact {
    let there = there(state);
    if there == Some(true) {
        return Fact::yes(condition::FETCHED, "all bytes are there");
    }
    let of_job = state.fetch.as_ref();
    let of_job = of_job.and_then(|doing| doing.outcome.obstacle());
    let of_pods = || state.workers.iter().find_map(|pod| pod.problem.clone());
    match of_job.or_else(of_pods) {
        Some((reason, message)) => Fact::no(condition::FETCHED, &reason, message),
        None if there.is_none() => unknown(
            condition::FETCHED,
            "no pod asks for the files yet; each fetches for itself",
        ),
        None => Fact::no(
            condition::FETCHED,
            condition::REASON_PROGRESSING,
            "on their way",
        ),
    }
}

fn verified(state: &State) -> Fact {
    let Some(doing) = &state.verify else {
        return match there(state) {
            Some(true) => Fact::yes(
                condition::VERIFIED,
                "all digests agreed when the files came",
            ),
            Some(false) | None => unknown(condition::VERIFIED, "nothing is there to be proven"),
        };
    };
    match doing.outcome.phase {
        Phase::Failed => {
            let (reason, message) = unfinished(Some(doing), "the files are proven again");
            Fact::no(condition::VERIFIED, &reason, message)
        }
        Phase::Absent | Phase::Running => Fact::yes(
            condition::VERIFIED,
            "all digests agreed; they are proven again now",
        ),
        Phase::Succeeded => {
            let damaged = listed(&doing.outcome.failures, "; ");
            if damaged.is_empty() {
                return Fact::yes(
                    condition::VERIFIED,
                    "all digests agreed when they were proven last",
                );
            }
            Fact::yes(
                condition::VERIFIED,
                format!("all digests agree again: {damaged}"),
            )
        }
    }
}

fn quantized(state: &State) -> Option<Fact> {
    if state.derived.is_empty() {
        return None;
    }
    let mut missing = state.derived.iter().filter(|one| one.made.is_none());
    let Some(first) = missing.next() else {
        let names: Vec<String> = state.derived.iter().map(|one| format(one.to)).collect();
        return Some(Fact::yes(condition::QUANTIZED, names.join(", ")));
    };
    if !matches!(state.keep, Keep::Claim(_)) {
        let message = "every pod that serves a smaller version makes it for itself; none has yet";
        return Some(unknown(condition::QUANTIZED, message));
    }
    Some(
        match first
            .doing
            .as_ref()
            .and_then(|doing| doing.outcome.obstacle())
        {
            Some((reason, message)) => Fact::no(
                condition::QUANTIZED,
                &reason,
                format!("{}: {message}", format(first.to)),
            ),
            None => Fact::no(
                condition::QUANTIZED,
                condition::REASON_PROGRESSING,
                format!("{} is not there yet", format(first.to)),
            ),
        },
    )
}

fn distributed(state: &State) -> Fact {
    if matches!(state.keep, Keep::Claim(_)) {
        return match there(state) {
            Some(true) => Fact::yes(condition::DISTRIBUTED, "one volume serves all pods"),
            Some(false) | None => unknown(condition::DISTRIBUTED, "the volume is not filled yet"),
        };
    }
    match nodes(state) {
        None => unknown(condition::DISTRIBUTED, "no pod asks for the files yet"),
        Some((wanted, ready)) if ready >= wanted => Fact::yes(
            condition::DISTRIBUTED,
            "every node with a pod that serves it has the files",
        ),
        Some(_) => Fact::no(
            condition::DISTRIBUTED,
            condition::REASON_PROGRESSING,
            "some nodes do not have the files yet",
        ),
    }
}

#[cfg(test)]
mod tests;
