//! Clients for every kind of backend. Takes an [`Admitted`](mesh_routing::Admitted) (only `routing` can make one), sends
//! one request to one backend and gives a stream of typed events, or an error that says what the
//! plan and the health of the backend have to make of it.
//!
//! What this room refuses: choosing between backends, retrying (the plan does that), following
//! redirects, using a proxy of the environment, sending any header that is not on its list. The
//! caller's headers cannot leave, because they are never given to this crate.
//!
//! ```text
//! Admitted + Outbound --> address check --> credential --> body --> POST --+-- 2xx --> EventStream
//!                                                                          `-- else -> AttemptError
//! ```

pub mod control;
pub mod error;
pub mod options;
pub mod outbound;

mod address;
mod answer;
mod authority;
mod backends;
mod body;
mod client;
mod credential;
mod failure;
mod headers;
mod load;
mod pod_tls;
mod pods;
mod probe;
mod scrub;
mod tls;
mod upstream;
mod way;
mod wording;

pub use authority::{Authorities, Certificates};
pub use backends::Backends;
pub use body::streamed;
pub use credential::{Keys, LARGEST_KEY};
pub use error::{Action, AttemptError, ConnectCause, HealthEffect, ProxyCause, TlsCause};
pub use options::{ClientOptions, Error};
pub use outbound::{EventStream, LocalModel, Outbound, Started};
pub use pod_tls::PodTls;
