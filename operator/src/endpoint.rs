//! The operator as the authority of the mesh: its settings, its endpoint, and what only the leader does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mesh_identity::{Account, Signer, Trust, server_config};
use mesh_runtime::serve::{self, Limits};
use mesh_runtime::{Shutdown, expiry, listen};
use prometheus_client::registry::Registry;

use crate::authority::Lifetimes;
use crate::keeper::{Keeper, hosts};
use crate::metrics::Metrics;
use crate::sign;
use crate::trust::Publisher;

/// ServiceAccount of the gateways, and their Service.
const GATEWAY: &str = "mesh-gateway";

/// Settings of the authority.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Authority {
    /// Address of the signing endpoint (TLS).
    #[arg(long, env = "MESH_SIGN_LISTEN", default_value = "0.0.0.0:8443")]
    sign_listen: SocketAddr,
    /// Further host names by which members reach it, separated by commas: in a cluster of another domain than `cluster.local`.
    #[arg(long, env = "MESH_SIGN_HOSTS", value_delimiter = ',')]
    sign_hosts: Vec<String>,
    /// Seconds that a member's certificate lives; renewed after two thirds.
    #[arg(long, env = "MESH_CERTIFICATE_SECONDS", default_value_t = 24 * 3600)]
    certificate_seconds: u64,
    /// Seconds that the authority lives; replaced after two thirds.
    #[arg(long = "authority-seconds", env = "MESH_AUTHORITY_SECONDS", default_value_t = 10 * 365 * 24 * 3600)]
    lifetime: u64,
}

/// What keeps the authority of this replica.
pub(crate) fn keeper(
    client: &kube::Client,
    mesh_namespace: &str,
    options: &Authority,
    metrics: &Metrics,
) -> Arc<Keeper> {
    let lives = Lifetimes {
        authority: Duration::from_secs(options.lifetime.max(60)),
        certificate: Duration::from_secs(options.certificate_seconds.max(10)),
    };
    let gateway = Account::new(mesh_namespace, GATEWAY);
    let known = HashMap::from([(gateway, hosts(GATEWAY, mesh_namespace))]);
    let signer = Arc::new(Signer::new(Trust::new(), known, lives.certificate));
    Arc::new(Keeper::new(
        client.clone(),
        mesh_namespace,
        lives,
        signer,
        (&options.sign_hosts, metrics.clone()),
    ))
}

/// Follows the authority and serves the endpoint, until the shutdown begins.
pub(crate) async fn start(
    keeper: &Arc<Keeper>,
    options: &Authority,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let listener = listen::bind(options.sign_listen, "--sign-listen").await?;
    tracing::info!("signing on https://{}", listener.local_addr()?);
    let tls = server_config(&keeper.serving, None).context("could not prepare TLS")?;
    let (following, token) = (Arc::clone(keeper), shutdown.token.clone());
    shutdown.spawn(async move {
        token.run_until_cancelled(following.follow()).await;
    });
    let (router, serving) = (sign::router(Arc::clone(&keeper.signer)), shutdown.clone());
    let limits = Limits {
        head: Duration::from_secs(10),
        unread: Duration::from_secs(10),
        grace: Duration::from_secs(2),
    };
    shutdown.spawn(async move {
        serve::serve_tls(listener, tls, router, limits, &serving).await;
    });
    Ok(())
}

/// What only the leader does, until dropped.
pub(crate) async fn lead(keeper: &Keeper, publisher: Publisher) {
    let announced = publisher.announced();
    tokio::join!(keeper.lead(&announced), publisher.run());
}

/// Enters how long certificates live.
pub(crate) fn register(keeper: &Arc<Keeper>, registry: &mut Registry) {
    let (authority, serving) = (Arc::clone(keeper), Arc::clone(&keeper.serving));
    let serving: expiry::Left = Arc::new(move || serving.ends_in(SystemTime::now()));
    let authority: expiry::Left = Arc::new(move || authority.left());
    expiry::register(
        registry,
        vec![("authority", authority), ("serving", serving)],
    );
}
