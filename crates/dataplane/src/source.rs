//! Where snapshots come from. Past this room nobody sees a spec.
//!
//! ```text
//! directory ──read──► texts ──parse──► documents ──to_snapshot──► snapshot ──accept──► SnapshotStore
//!                                └────────── Problem: file, line, field ─────────┘ (the old one stays)
//! ```

pub mod accept;
pub mod file;
mod watch;

pub use file::{FileSource, Loaded, Rejected};
pub use watch::Fingerprint;
