//! What changed between two statuses of an object, as stories for people: ready or no longer, stuck, another
//! class, a policy accepted or not, a floor that cannot answer. Pure. A status that says the same has no story.

use mesh_core::SovereigntyClass;
use mesh_crds::condition;
use serde_json::Value;

use crate::events::Story;
use crate::policy;

/// What a condition says.
#[derive(PartialEq, Eq)]
struct Says<'v> {
    /// `True`, `False` or `Unknown`.
    status: &'v str,
    reason: &'v str,
    message: &'v str,
}

impl Says<'_> {
    fn holds(&self) -> bool {
        self.status == "True"
    }

    /// The same but for its message, which may count.
    fn same(&self, other: &Self) -> bool {
        (self.status, self.reason) == (other.status, other.reason)
    }
}

/// Before and after.
struct Change<'v> {
    old: &'v Value,
    new: &'v Value,
}

impl<'v> Change<'v> {
    fn both(&self, type_: &str) -> (Option<Says<'v>>, Option<Says<'v>>) {
        (says(self.old, type_), says(self.new, type_))
    }

    /// A condition that began to hold.
    fn began(&self, type_: &str) -> Option<Says<'v>> {
        let (old, new) = self.both(type_);
        new.filter(|new| new.holds() && !old.is_some_and(|old| old.holds()))
    }

    /// A condition that no longer holds and did.
    fn ended(&self, type_: &str) -> Option<Says<'v>> {
        let (old, new) = self.both(type_);
        new.filter(|new| !new.holds() && old.is_some_and(|old| old.holds()))
    }
}

fn says<'v>(status: &'v Value, type_: &str) -> Option<Says<'v>> {
    let mut all = status["conditions"].as_array()?.iter();
    let found = all.find(|one| one["type"] == type_)?;
    let word = |key: &str| found[key].as_str().unwrap_or_default();
    Some(Says {
        status: word("status"),
        reason: word("reason"),
        message: word("message"),
    })
}

/// Stories of an InferenceBackend.
pub(crate) fn of_backend(old: &Value, new: &Value) -> Vec<Story> {
    let change = Change { old, new };
    let stories = readiness(&change).into_iter().chain(class(&change));
    let stories = stories.chain(health(&change));
    stories.map(Story::change).collect()
}

/// Stories of a SovereigntyPolicy. Its readiness is made of acceptance and floor, which are told each.
pub(crate) fn of_policy(old: &Value, new: &Value) -> Vec<Story> {
    let change = Change { old, new };
    let stories = acceptance(&change)
        .into_iter()
        .chain(floor(&change))
        .chain(ledger(&change));
    stories.map(Story::change).collect()
}

fn readiness(change: &Change<'_>) -> Option<Story> {
    const ACTION: &str = "Reconcile";
    if let Some(now) = change.began(condition::READY) {
        return Some(Story::normal(condition::READY, ACTION, now.message));
    }
    let (old, new) = change.both(condition::READY);
    let new = new.filter(|new| !new.holds())?;
    if old.as_ref().is_some_and(|old| old.same(&new)) {
        return None;
    }
    let stuck = says(change.new, condition::STALLED).is_some_and(|one| one.holds());
    let working = [
        condition::REASON_PROGRESSING,
        condition::REASON_SUCCEEDED,
        "ScaledToZero",
    ]
    .contains(&new.reason);
    if stuck || !working {
        return Some(Story::warning(new.reason, ACTION, new.message));
    }
    // What has just been made is at work: that is nobody's news.
    old.map(|_| Story::normal(new.reason, ACTION, new.message))
}

fn class(change: &Change<'_>) -> Option<Story> {
    let named = |status: &Value| {
        let name = status["sovereignty"]["class"].as_str()?;
        serde_json::from_value::<SovereigntyClass>(Value::from(name)).ok()
    };
    let (old, new) = (named(change.old)?, named(change.new)?);
    if old == new {
        return None;
    }
    let evidence = change.new["sovereignty"]["evidence"].as_array();
    let evidence: Vec<&str> = evidence
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let note = format!(
        "from {} to {}: {}",
        old.as_str(),
        new.as_str(),
        evidence.join("; ")
    );
    let (reason, action) = ("ClassChanged", "Classify");
    Some(if new < old {
        Story::warning(reason, action, note)
    } else {
        Story::normal(reason, action, note)
    })
}

/// Whether the gateways can use it.
fn health(change: &Change<'_>) -> Option<Story> {
    const ACTION: &str = "Observe";
    let state = |status: &'_ Value| status["health"]["state"].as_str().map(str::to_owned);
    let (old, new) = (state(change.old), state(change.new)?);
    if old.as_ref() == Some(&new) {
        return None;
    }
    let why = change.new["health"]["reason"].as_str().unwrap_or_default();
    match new.as_str() {
        "Healthy" => old.map(|_| Story::normal("Healthy", ACTION, "the gateways are answered")),
        "Unhealthy" => {
            let note = format!("the gateways leave it alone: {why}");
            Some(Story::warning("Unhealthy", ACTION, note))
        }
        "Degraded" => {
            let note = format!("some calls of the gateways fail: {why}");
            Some(Story::warning("Degraded", ACTION, note))
        }
        _ => None,
    }
}

fn acceptance(change: &Change<'_>) -> Option<Story> {
    const ACTION: &str = "Judge";
    let (old, new) = change.both(condition::ACCEPTED);
    let new = new?;
    let digest = |status: &Value| status["digest"].as_str().map(str::to_owned);
    if new.holds() {
        if let Some(failing) = change.ended(condition::TESTS_PASSING) {
            let note = format!("{}{}", failing.message, failed(change.new));
            return Some(Story::warning(failing.reason, ACTION, note));
        }
        let again = digest(change.old) != digest(change.new);
        if again || !old.is_some_and(|old| old.holds()) {
            let note = format!("spec {}: {}", short(change.new), new.message);
            return Some(Story::normal(condition::ACCEPTED, ACTION, note));
        }
        let passing = change.began(condition::TESTS_PASSING)?;
        return Some(Story::normal(
            condition::TESTS_PASSING,
            ACTION,
            passing.message,
        ));
    }
    if old.is_some_and(|old| old == new) {
        return None;
    }
    let kept = "; what was accepted of it before stays in force";
    let note = format!("not accepted: {}{}{kept}", new.message, failed(change.new));
    Some(Story::warning(new.reason, ACTION, note))
}

/// The tests that fail beside the one that is told in full.
fn failed(status: &Value) -> String {
    let all = status["tests"]["failed"].as_array().into_iter().flatten();
    let names: Vec<&str> = all.filter_map(|one| one["name"].as_str()).collect();
    if names.len() < 2 {
        return String::new();
    }
    format!(" (all that fail: {})", names.join(", "))
}

fn short(status: &Value) -> String {
    let digest = status["digest"].as_str().unwrap_or_default();
    digest.chars().take(10).collect()
}

fn floor(change: &Change<'_>) -> Option<Story> {
    const ACTION: &str = "Observe";
    if let Some(lost) = change.ended(condition::FLOOR_AVAILABLE) {
        return Some(Story::warning(lost.reason, ACTION, lost.message));
    }
    let now = change.began(condition::FLOOR_AVAILABLE)?;
    Some(Story::normal(
        condition::FLOOR_AVAILABLE,
        ACTION,
        now.message,
    ))
}

/// A record is asked for and cannot be kept.
fn ledger(change: &Change<'_>) -> Option<Story> {
    let missing = |status: &Value| {
        let mut all = status["conflicts"].as_array().into_iter().flatten();
        all.any(|one| *one == policy::NO_LEDGER)
    };
    let news = missing(change.new) && !missing(change.old);
    news.then(|| Story::warning("LedgerMissing", "Judge", policy::NO_LEDGER))
}

#[cfg(test)]
mod tests;
