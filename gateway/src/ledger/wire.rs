//! What gateways and the ledger say to each other.

use jiff::Timestamp;
use mesh_ledger::{NotDurable, Receipt, State};
use serde::{Deserialize, Serialize};

/// Where entries are appended: lines of JSON, each with its end.
pub(super) const ENTRIES: &str = "/v1/entries";
/// Where it is told whether they would be kept.
pub(super) const STATE: &str = "/v1/state";
/// Where the log is read.
pub(super) const LOG: &str = "/v1/log";
/// Most bytes of one request.
pub(super) const LARGEST: usize = 8 << 20;
/// ServiceAccount of the gateways.
pub(super) const GATEWAY: &str = "mesh-gateway";
/// ServiceAccount of the ledger.
pub(super) const LEDGER: &str = "mesh-ledger";

/// The entries are on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) first: u64,
    pub(super) size: u64,
}

impl From<Receipt> for Kept {
    fn from(receipt: Receipt) -> Self {
        Self {
            first: receipt.first,
            size: receipt.size,
        }
    }
}

/// Whether entries would be kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) durable: bool,
    pub(super) since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl From<State> for Standing {
    fn from(state: State) -> Self {
        Self {
            durable: state.durable,
            since: state.since,
            reason: state.reason,
        }
    }
}

/// As HTTP says it.
pub(super) fn status(error: &NotDurable) -> http::StatusCode {
    match error {
        NotDurable::Refused(_) => http::StatusCode::BAD_REQUEST,
        NotDurable::Busy => http::StatusCode::TOO_MANY_REQUESTS,
        NotDurable::Timeout => http::StatusCode::GATEWAY_TIMEOUT,
        NotDurable::Disk(_) | NotDurable::Closed | NotDurable::Unreachable(_) => {
            http::StatusCode::SERVICE_UNAVAILABLE
        }
    }
}
