//! ModelCache: whether its files can be had and proven. Every pod that serves it fetches and verifies for
//! itself, so there is nothing to make here; the status says what the spec promises.

use jiff::Timestamp;
use mesh_crds::condition;
use mesh_crds::{ModelCache, Object};
use serde_json::{Value, json};

use crate::status::{Fact, conditions, summary};
use crate::world::Read;

/// The status of a ModelCache.
pub(crate) fn status(read: &Read, now: Timestamp) -> Value {
    let (facts, stalled) = if let Some(Object::ModelCache(cache)) = read.object() {
        facts(cache)
    } else {
        let unreadable = || String::from("it cannot be read");
        let message = read.faults().unwrap_or_else(unreadable);
        let fact = Fact::no(condition::READY, read.reason(), message);
        (vec![fact], true)
    };
    let mut facts = facts.into_iter();
    let ready = facts
        .next()
        .unwrap_or_else(|| Fact::no(condition::READY, condition::REASON_PROGRESSING, ""));
    let mut all = summary(ready, stalled).to_vec();
    all.extend(facts);
    json!({
        "observedGeneration": read.raw.metadata.generation,
        "conditions": conditions(&read.raw, all, now),
    })
}

/// Ready first; true if only an edit helps.
fn facts(cache: &ModelCache) -> (Vec<Fact>, bool) {
    let unpinned: Vec<&str> = cache
        .spec
        .artifacts
        .iter()
        .filter(|artifact| artifact.sha256.is_none())
        .map(|artifact| artifact.path.as_str())
        .collect();
    if !unpinned.is_empty() {
        let message = format!(
            "not supported yet: pinning on first use; give sha256 for {}",
            unpinned.join(", ")
        );
        return (
            vec![Fact::no(
                condition::READY,
                condition::REASON_NOT_SUPPORTED_YET,
                message,
            )],
            true,
        );
    }
    let message =
        "every pod fetches the files into its own memory or disk and proves them before it serves";
    (
        vec![
            Fact::yes(condition::READY, message),
            Fact::yes(
                condition::SOURCE_RESOLVED,
                format!("{} sources, tried in order", cache.spec.sources.len()),
            ),
        ],
        false,
    )
}
