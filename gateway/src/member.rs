//! The gateway as a member of the mesh: its certificate, and how the pods of each backend prove themselves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use mesh_backends::PodTls;
use mesh_core::BackendId;
use mesh_crds::child_name;
use mesh_identity::{Account, Enrollment, Member, Trust, client_config, server_config};
use mesh_runtime::{Shutdown, expiry};
use prometheus_client::registry::Registry;
use rustls::{ClientConfig, ServerConfig};

/// Settings of its identity.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Identity {
    /// Address of the API over TLS.
    #[arg(long, env = "MESH_TLS_LISTEN", default_value = "0.0.0.0:8443")]
    pub(crate) tls_listen: SocketAddr,
    /// The operator's signing endpoint; empty: `https://mesh-operator.<mesh namespace>.svc:8443`.
    #[arg(long, env = "MESH_SIGN_URL", default_value = "")]
    sign_url: String,
    /// Folder with `ca.crt`, `jwks.json` and `issuer`: what is taken as proof.
    #[arg(
        long,
        env = "MESH_TRUST",
        default_value = "/var/run/inferencemesh.dev/trust"
    )]
    trust: PathBuf,
    /// File with this pod's ServiceAccount token of audience `inferencemesh.dev`.
    #[arg(
        long,
        env = "MESH_TOKEN_FILE",
        default_value = "/var/run/inferencemesh.dev/token/token"
    )]
    token_file: PathBuf,
    /// Folder in which key and certificate outlive the container.
    #[arg(
        id = "identity-folder",
        long = "identity",
        env = "MESH_IDENTITY",
        default_value = "/var/run/inferencemesh.dev/identity"
    )]
    folder: PathBuf,
}

/// Who this gateway is. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    member: Arc<Member>,
    trust: Arc<Trust>,
}

impl Membership {
    /// Begins to become a member, and stays one until the shutdown begins.
    pub(crate) fn start(options: &Identity, mesh_namespace: &str, shutdown: &Shutdown) -> Self {
        let membership = Self {
            member: Member::new(),
            trust: Trust::new(),
        };
        let url = if options.sign_url.is_empty() {
            format!("https://mesh-operator.{mesh_namespace}.svc:8443")
        } else {
            options.sign_url.clone()
        };
        let enrollment = Enrollment {
            url,
            trust: options.trust.clone(),
            token: options.token_file.clone(),
            folder: options.folder.clone(),
        };
        let (own, token) = (membership.clone(), shutdown.token.clone());
        shutdown.spawn(async move {
            let keeping = enrollment.keep(&own.member, &own.trust);
            token.run_until_cancelled(keeping).await;
        });
        membership
    }

    /// What is missing before a pod can be reached. A gateway that was a member once stays ready: clouds and
    /// servers elsewhere answer without a certificate of ours.
    pub(crate) fn missing(&self) -> Option<String> {
        let nobody = self.member.account().is_none();
        nobody.then(|| String::from("the operator has not signed its certificate yet"))
    }

    /// Its certificate, and what it takes as proof.
    pub(crate) fn parts(&self) -> (Arc<Member>, Arc<Trust>) {
        (Arc::clone(&self.member), Arc::clone(&self.trust))
    }

    /// TLS for its own listener. Callers show a token; only the operator is known by a certificate, and one
    /// that is not of this mesh ends the handshake.
    pub(crate) fn server(&self) -> anyhow::Result<ServerConfig> {
        server_config(&self.member, Some(&self.trust)).context("could not prepare TLS")
    }

    /// Enters how long its certificate lives.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let member = Arc::clone(&self.member);
        let left: expiry::Left = Arc::new(move || member.ends_in(SystemTime::now()));
        expiry::register(registry, vec![("member", left)]);
    }
}

impl PodTls for Membership {
    fn generation(&self) -> u64 {
        *self.member.changed().borrow()
    }

    fn config(&self, backend: &BackendId) -> Option<ClientConfig> {
        let pod = Account::new(&backend.namespace, child_name(&backend.name));
        match client_config(Some(&self.member), &self.trust, Some(pod)) {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::error!(%error, "could not prepare TLS");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
