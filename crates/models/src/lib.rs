//! Model files: where they come from, whether they are what they claim to be, and where they are kept.
//!
//! A [`CacheSpec`] names artifacts and the sources to try in order; [`Resolver::resolve`] gives back
//! local paths whose bytes have the wanted SHA-256. The digest decides, never the source: every byte
//! from outside is taken as hostile until it has been hashed.
//!
//! ```text
//! CacheSpec -> Resolver -> file, mounted: used where it lies, remembered as verified
//!                       -> http, huggingFace, s3, oci: partial/ -> digest -> sha256/<hex>
//!                                                                      \-> quarantine/<hex>
//! ```
//!
//! What it refuses: reading what a model contains (the engine's), plaintext HTTP beyond loopback, redirects that leave https, files above a size limit.

mod access;
mod copy;
mod digest;
mod error;
mod fetch;
mod http;
mod obtain;
mod oci;
mod pin;
mod place;
mod progress;
mod resolve;
mod room;
mod s3;
mod spec;
mod store;
mod target;
mod verify;

pub use digest::{Digest, InvalidDigest};
pub use error::{Error, Failed, NoSource, Room, SourceError, SourceFailure, Tried};
pub use progress::{Phase, Progress};
pub use resolve::{Resolved, Resolver, Settings};
pub use spec::{
    Access, ArtifactPath, ArtifactSpec, CacheSpec, Credentials, InvalidPath, SourceSpec,
};
pub use store::{Quarantined, Store, Stored};
pub use verify::{Outcome, Verification};
