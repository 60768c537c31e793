//! Time and identities, given from outside so that tests can hold them.

use std::sync::Arc;

use jiff::Timestamp;
use mesh_core::DecisionId;
use ulid::Ulid;

/// Tells the date: claims expire by it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clock of the machine.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

/// A new identity: sortable by `now`, the rest random.
pub(crate) fn new_id(now: Timestamp) -> String {
    let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let random = Ulid::generate().random();
    Ulid::from_parts(milliseconds, random).to_string()
}

/// A new identity of a decision.
pub(crate) fn new_decision(now: Timestamp) -> DecisionId {
    DecisionId(new_id(now))
}
