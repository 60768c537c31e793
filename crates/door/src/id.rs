//! Identities of requests and decisions.

use jiff::Timestamp;
use ulid::Ulid;

/// A new identity: sortable by `now`, the rest random.
pub fn new(now: Timestamp) -> String {
    let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let random = Ulid::generate().random();
    Ulid::from_parts(milliseconds, random).to_string()
}
