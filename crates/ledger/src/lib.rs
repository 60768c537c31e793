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

mod entry;
mod ledger;
mod memory;

pub use entry::{
    ENTRY_VERSION, Ended, Entry, EntryError, Event, LARGEST_ENTRY, Line, Sending, Tokens, Who,
};
pub use ledger::{Ledger, NotDurable, Pending, Receipt, State, settled};
pub use memory::Memory;
