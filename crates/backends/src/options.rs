//! Settings of the clients, the same for all backends.

use std::sync::Arc;
use std::time::Duration;

use crate::PodTls;

/// Settings of the clients. Time limits of an answer are not here: they belong to the policy, and
/// the data plane keeps them.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Longest time to connect, name resolution and TLS included.
    pub connect_timeout: Duration,
    /// Longest time for a probe as a whole.
    pub probe_timeout: Duration,
    /// How long an unused connection to a cloud is kept. Shorter than the 60 s after which load balancers of clouds close
    /// it by default: a request that meets a closing connection fails.
    pub idle_timeout: Duration,
    /// The same to a model server, a pod or one elsewhere: shorter than any engine keeps it. uvicorn, which serves vLLM,
    /// closes after 5 s (`--timeout-keep-alive`).
    pub server_idle_timeout: Duration,
    /// Unused connections kept per backend.
    pub idle_connections: usize,
    /// `user-agent` sent upstream; the only thing an upstream learns about the mesh.
    pub user_agent: String,
    /// Largest answer read as a whole, in bytes.
    pub answer_limit: usize,
    /// Largest single event of a stream, in bytes.
    pub event_limit: usize,
    /// This process serves many tenants: addresses that mean itself or the identity service of
    /// its cloud (loopback, link-local) are never connected to, nor by a tenant those of
    /// [`Backends::set_closed`](crate::Backends::set_closed).
    pub shared: bool,
    /// Further certificate authorities (DER), besides those of the platform.
    pub extra_roots: Vec<Vec<u8>>,
    /// How pods of the cluster prove themselves. In a cluster always there; without it they are spoken to in
    /// plain text.
    pub pods: Option<Arc<dyn PodTls>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(50),
            server_idle_timeout: Duration::from_secs(4),
            idle_connections: 64,
            user_agent: format!("inference-mesh/{}", env!("CARGO_PKG_VERSION")),
            answer_limit: 32 << 20,
            event_limit: 4 << 20,
            shared: false,
            extra_roots: Vec::new(),
            pods: None,
        }
    }
}

/// Why clients could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The TLS library refused its own defaults.
    #[error("could not prepare TLS: {cause}")]
    Tls {
        /// The library's words.
        cause: String,
    },
    /// A certificate authority could not be read.
    #[error("could not read extra certificate authority number {index}")]
    Root {
        /// Position in [`ClientOptions::extra_roots`].
        index: usize,
    },
    /// What a backend's author gave to trust is no certificate authority.
    #[error("{0}")]
    Authority(&'static str),
    /// The user agent is not a header value.
    #[error("the user agent is not a valid header value")]
    UserAgent,
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Client,
}

impl Error {
    /// Name of the cause.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Tls { .. } => "Tls",
            Self::Root { .. } => "Root",
            Self::Authority(_) => "Authority",
            Self::UserAgent => "UserAgent",
            Self::Client => "Client",
        }
    }
}
