//! Conditions in Kubernetes' own shape: the time of a condition changes only when its status does, and a
//! status that says the same is not written again.

use jiff::Timestamp;
use kube::Resource;
use kube::api::DynamicObject;
use mesh_crds::condition::{self, Condition, ConditionStatus};
use serde_json::Value;

/// Longest message of a condition. The API server refuses a whole status for one of more than 32768.
const LONGEST: usize = 16 * 1024;

/// One fact about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    type_: &'static str,
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl Fact {
    pub(crate) fn yes(type_: &'static str, message: impl Into<String>) -> Self {
        Self::new(
            type_,
            ConditionStatus::True,
            condition::REASON_SUCCEEDED,
            message,
        )
    }

    pub(crate) fn no(type_: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self::new(type_, ConditionStatus::False, reason, message)
    }

    pub(crate) fn new(
        type_: &'static str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            type_,
            status,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// The same under another name.
    pub(crate) fn named(self, type_: &'static str) -> Self {
        Self { type_, ..self }
    }

    /// Its status, reason and message as they are written.
    pub(crate) fn said(&self) -> (&'static str, &str, &str) {
        let status = match self.status {
            ConditionStatus::True => "True",
            ConditionStatus::False => "False",
            ConditionStatus::Unknown => "Unknown",
        };
        (status, &self.reason, &self.message)
    }

    pub(crate) fn holds(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// The three conditions of every kind, from what keeps the object from being ready. kstatus: `Stalled`
/// means that only somebody's help goes on, `Reconciling` that work does.
pub(crate) fn summary(ready: Fact, stalled: bool) -> [Fact; 3] {
    let working = !ready.holds() && !stalled;
    let (reason, message) = (ready.reason.clone(), ready.message.clone());
    let fact = |type_, holds: bool| {
        if holds {
            Fact::new(type_, ConditionStatus::True, &reason, message.clone())
        } else {
            Fact::no(type_, condition::REASON_SUCCEEDED, "")
        }
    };
    let (reconciling, stalled) = (
        fact(condition::RECONCILING, working),
        fact(condition::STALLED, stalled),
    );
    [ready, reconciling, stalled]
}

/// Conditions to write, with the times of what has not changed.
pub(crate) fn conditions(
    object: &DynamicObject,
    facts: Vec<Fact>,
    now: Timestamp,
) -> Vec<Condition> {
    let old: Vec<Condition> = object
        .data
        .pointer("/status/conditions")
        .and_then(|value| serde_json::from_value(value.clone()).ok())
        .unwrap_or_default();
    let condition = |fact: Fact| {
        let same = old
            .iter()
            .find(|old| old.type_ == fact.type_ && old.status == fact.status);
        Condition {
            type_: fact.type_.to_owned(),
            status: fact.status,
            reason: fact.reason,
            message: cut(&fact.message, LONGEST).to_owned(),
            // The API server keeps seconds; more digits would differ for ever.
            last_transition_time: same.map_or_else(
                || now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                |old| old.last_transition_time.clone(),
            ),
            observed_generation: object.meta().generation,
        }
    };
    facts.into_iter().map(condition).collect()
}

/// The beginning of a text, of at most so many bytes.
pub(crate) fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

/// True if the object says this already.
pub(crate) fn said(object: &DynamicObject, status: &Value) -> bool {
    object.data.get("status") == Some(status)
}

/// Status of a condition as somebody else sees it.
pub(crate) fn holds(object: &DynamicObject, type_: &str) -> bool {
    let conditions = object
        .data
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == type_
            && condition["status"] == "True"
            && condition["observedGeneration"].as_i64() == object.meta().generation
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kube::api::DynamicObject;
    use mesh_crds::condition;
    use serde_json::json;

    use super::{Fact, LONGEST, conditions, cut, summary};

    fn object(status: &serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache",
            "metadata": {"name": "a", "generation": 3}, "status": {"conditions": status},
        }))
        .expect("an object")
    }

    #[test]
    fn the_time_of_a_condition_changes_with_its_status_and_only_then() {
        let old = json!([{"type": "Ready", "status": "False", "reason": "A", "message": "a", "lastTransitionTime": "2020-01-01T00:00:00Z"}]);
        let now = Timestamp::UNIX_EPOCH;
        let still = conditions(
            &object(&old),
            vec![Fact::no(condition::READY, "B", "b")],
            now,
        );
        assert_eq!(
            (
                still[0].last_transition_time.as_str(),
                still[0].reason.as_str()
            ),
            ("2020-01-01T00:00:00Z", "B")
        );
        assert_eq!(still[0].observed_generation, Some(3));
        let flipped = conditions(&object(&old), vec![Fact::yes(condition::READY, "")], now);
        assert_eq!(flipped[0].last_transition_time, "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let long = "ä".repeat(9);
        assert_eq!(cut(&long, 10).len(), 10);
        assert_eq!(cut(&format!("x{long}"), 10).len(), 9);
        assert_eq!(cut("short", 10), "short");
    }

    #[test]
    fn a_message_is_never_longer_than_the_api_server_takes() {
        let fact = Fact::no(condition::READY, "Why", "ä".repeat(40_000));
        let said = conditions(&object(&json!([])), vec![fact], Timestamp::UNIX_EPOCH);
        assert_eq!(said[0].message.len(), LONGEST);
    }

    #[test]
    fn an_object_is_ready_or_at_work_or_stuck_and_never_two_of_them() {
        for (ready, stalled) in [(true, false), (false, false), (false, true)] {
            let fact = if ready {
                Fact::yes(condition::READY, "")
            } else {
                Fact::no(condition::READY, "Why", "why")
            };
            let held = summary(fact, stalled)
                .iter()
                .filter(|fact| fact.holds())
                .count();
            assert_eq!(held, 1);
        }
    }
}
