//! Time and identities, given from outside so that tests can hold them.

use std::sync::Arc;

use jiff::Timestamp;
use mesh_core::DecisionId;

/// Tells the date: claims expire by it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clock of the machine.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

pub(crate) use mesh_door::id::new as new_id;

/// A new identity of a decision.
pub(crate) fn new_decision(now: Timestamp) -> DecisionId {
    DecisionId(new_id(now))
}
