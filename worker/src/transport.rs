//! The TLS front of a model server in a pod: who it is, whom it lets in.
//!
//! ```text
//!  gateway (certificate) ──┐
//!                          ├─► 8444 TLS ─► admit ─► the model server, on loopback only
//!  sidecar (token) ────────┘                 └─ everybody else: 401
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mesh_identity::{Account, Admission, Enrollment, Member, Trust, server_config};
use mesh_protocol::openai::error::ErrorBody;
use mesh_runtime::serve::{self, Limits, PeerCertificate};
use mesh_runtime::{Shutdown, expiry, listen};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// Settings of the TLS front.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Transport {
    /// Address of the API over TLS, for gateways and for ServiceAccounts.
    #[arg(long, env = "MESH_TLS_LISTEN")]
    pub(crate) tls_listen: Option<SocketAddr>,
    /// The operator's signing endpoint, `https://host:port`.
    #[arg(
        long,
        env = "MESH_SIGN_URL",
        default_value = "https://mesh-operator.mesh-system.svc:8443"
    )]
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
        long,
        env = "MESH_IDENTITY",
        default_value = "/var/run/inferencemesh.dev/identity"
    )]
    identity: PathBuf,
    /// ServiceAccount of the gateways, `namespace/name`; models of its namespace serve everybody.
    #[arg(
        long,
        env = "MESH_GATEWAY_ACCOUNT",
        default_value = "mesh-system/mesh-gateway"
    )]
    gateway_account: Account,
}

/// The front of a running model server.
#[derive(Clone)]
pub(crate) struct Front {
    member: Arc<Member>,
    trust: Arc<Trust>,
    gateway: Account,
}

impl Front {
    /// Begins to become a member. None if no TLS address was given.
    ///
    /// # Errors
    /// If the address cannot be opened.
    pub(crate) async fn start(
        options: &Transport,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<(Self, TcpListener)>> {
        let Some(address) = options.tls_listen else {
            return Ok(None);
        };
        let listener = listen::bind(address, "--tls-listen").await?;
        let front = Self {
            member: Member::new(),
            trust: Trust::new(),
            gateway: options.gateway_account.clone(),
        };
        let enrollment = Enrollment {
            url: options.sign_url.clone(),
            trust: options.trust.clone(),
            token: options.token_file.clone(),
            folder: options.identity.clone(),
        };
        let (member, trust) = (Arc::clone(&front.member), Arc::clone(&front.trust));
        let token = shutdown.token.clone();
        shutdown.spawn(async move {
            token
                .run_until_cancelled(enrollment.keep(&member, &trust))
                .await;
        });
        Ok(Some((front, listener)))
    }

    /// What keeps it from being reached, in words.
    pub(crate) fn missing(&self) -> Option<String> {
        self.member
            .ready(SystemTime::now())
            .err()
            .map(str::to_owned)
    }

    /// Enters how long the certificate lives.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let member = Arc::clone(&self.member);
        let left: expiry::Left = Arc::new(move || member.ends_in(SystemTime::now()));
        expiry::register(registry, vec![("member", left)]);
    }

    /// Serves `router` to those who are admitted, until the shutdown begins.
    ///
    /// # Errors
    /// If TLS cannot be prepared.
    pub(crate) async fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        limits: Limits,
        shutdown: &Shutdown,
    ) -> anyhow::Result<bool> {
        let config =
            server_config(&self.member, Some(&self.trust)).context("could not prepare TLS")?;
        let router = router.layer(from_fn_with_state(self.clone(), admit));
        Ok(serve::serve_tls(listener, config, router, limits, shutdown).await)
    }
}

async fn admit(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    // Without a certificate of ours there was no handshake, so this is only a race at the very start.
    let Some(own) = front.member.account() else {
        return refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "this pod has no certificate yet",
        );
    };
    let admission = Admission {
        trust: Arc::clone(&front.trust),
        gateway: front.gateway.clone(),
        namespace: own.namespace,
    };
    let shown = request.extensions().get::<PeerCertificate>();
    let certificate = shown.map(|shown| shown.0.clone());
    let bearer = bearer(request.headers()).map(<[u8]>::to_vec);
    match admission.admit(certificate.as_ref(), bearer.as_deref(), SystemTime::now()) {
        Ok(_) => {
            // Nobody behind this needs to know it.
            request.headers_mut().remove(header::AUTHORIZATION);
            next.run(request).await
        }
        Err(refusal) => {
            tracing::debug!(reason = refusal.reason(), "somebody was not served");
            refused(StatusCode::UNAUTHORIZED, &refusal.to_string())
        }
    }
}

/// The credential of `authorization: Bearer …` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

fn refused(status: StatusCode, message: &str) -> Response {
    let (kind, code) = if status == StatusCode::UNAUTHORIZED {
        ("invalid_request_error", "invalid_api_key")
    } else {
        ("server_error", "not_ready")
    };
    let body = axum::Json(ErrorBody::new(message, kind, None, code));
    let mut response = (status, body).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"inferencemesh.dev\""),
        );
    }
    response
}

#[cfg(test)]
pub(crate) mod tests;
