//! From facts and snapshot to a plan: which backends may serve a request, which is best, in what
//! order they are tried, and how health keeps the broken ones out.
//!
//! Level 1 of the workspace: no I/O, no async, no clock and no randomness. Time is an argument
//! everywhere. Read in this order: [`policy`] (what the policies say together), [`class`] (who owns
//! the hardware, from evidence), [`constraint`] (the security core: who may serve), [`mod@score`],
//! [`mod@decide`], [`plan`], [`health`].
//!
//! ```text
//! Snapshot + Caller ──join──► EffectivePolicy
//!                                   │
//! Facts ────────────────────────────┼──decide──► Decision (the record) + Plan (the attempts)
//!                                   │
//! newest Snapshot ──────────────readmit──► Admitted (the only thing that can be dispatched to)
//! ```

pub mod candidate;
pub mod check;
pub mod class;
pub mod constraint;
pub mod decide;
pub mod health;
pub mod plan;
pub mod policy;
pub mod policy_test;
pub mod score;

pub use candidate::{AUTO, LOCAL, find_floor, usable_names};
pub use check::{Problem, ProblemKind, check};
pub use class::{Basis, Derived, derive};
pub use constraint::{AdmitInput, Admitted, admit, in_reach};
pub use decide::{DecideInput, Decided, decide, degradations};
pub use health::{AssumedHealth, HealthBook, HealthView};
pub use plan::{Attempt, Plan, ReadmitInput, Role, readmit};
pub use policy::{EffectivePolicy, join};
pub use policy_test::TestOutcome;
pub use score::{ScoreInput, score};
