//! The request path shared by gateway, sidecar and the single-machine mesh: who calls, what the
//! request is, who may serve it, and the attempts until somebody does.
//!
//! ```text
//!  caller ──► stack: id, span, panic, origin, key, places, body
//!               │
//!               ├── explain ──► decide ──► Decision                    (nothing is sent)
//!               │
//!               └── serve ────► decide ──► plan ──► attempt … attempt ──► first token ──► answer
//!                                 ▲                    │
//!                                 └──── Snapshot ──────┘ admitted again before every attempt
//! ```
//!
//! What this room refuses: provider formats (backends speaks them), choosing by anything but
//! routing's decision, sending without routing's `Admitted`, and writing text of a request into
//! logs, metrics, errors or headers.

mod attempt;
pub mod auth;
pub mod clock;
mod dataplane;
mod decide;
mod drill;
mod handler;
mod health;
mod layer;
mod limit;
mod metrics;
mod probe;
mod push;
mod record;
mod respond;
mod snapshots;
pub mod source;
mod stack;

pub use auth::{ApiKeys, Callers, Unrecognized};
pub use dataplane::{Config, ConfigError, Dataplane, Parts};
pub use decide::{Decider, Job, Question};
pub use mesh_door::{Error, Hints, Tried, surface_of};
pub use metrics::Metrics;
pub use snapshots::SnapshotStore;
