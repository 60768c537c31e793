//! What the story tells, a file per part.

pub(crate) mod adapter;
pub(crate) mod alerts;
pub(crate) mod alone;
pub(crate) mod ask;
pub(crate) mod away;
pub(crate) mod caches;
pub(crate) mod command_line;
pub(crate) mod confine;
pub(crate) mod egress;
pub(crate) mod engine;
pub(crate) mod floor;
pub(crate) mod health;
pub(crate) mod install;
pub(crate) mod local;
pub(crate) mod memory;
pub(crate) mod monitoring;
pub(crate) mod namespaced;
pub(crate) mod quickstart;
pub(crate) mod recorded;
pub(crate) mod restricted;
pub(crate) mod rights;
pub(crate) mod serve;
pub(crate) mod sidecar;
pub(crate) mod tenant;
pub(crate) mod transport;
