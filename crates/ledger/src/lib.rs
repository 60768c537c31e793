//! The durable audit: what was decided and to whom it was about to be sent is on disk before anything is sent.
//!
//! ```text
//!  Entry ──► Ledger::append ──► Pending ──► Receipt: it is on disk
//!               │                   └─────► NotDurable: it is not known to be
//!               ├ Memory: for tests
//!               ├ the log in a folder of this machine
//!               └ the gateway's client of `mesh-ledger`
//! ```
//!
//! Refuses: sockets, and text of requests. An entry holds names, numbers and what [`mesh_core::Decision`] holds.

mod check;
mod checkpoint;
mod entry;
mod ledger;
pub mod log;
mod memory;
mod note;
mod proof;
mod record;
mod tree;

pub use check::{Broken, Check, Fault, Report, ScanError};
pub use checkpoint::Checkpoint;
pub use entry::{
    ENTRY_VERSION, Ended, Entry, EntryError, Event, LARGEST_ENTRY, Line, Sending, Tokens, Who,
};
pub use ledger::{Ledger, NotDurable, Pending, Receipt, State, settled};
pub use log::Log;
pub use memory::Memory;
pub use note::{NoteError, PublicKey, Signer};
pub use proof::{Proof, ProofError};
pub use tree::{Frontier, Hash, Leaves, included};
