//! `mesh-gateway ledger`: keeps the log.

mod figures;
mod routes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use mesh_ledger::{Ledger, Log, log};
use mesh_runtime::{Admin, Shutdown, listen, serve};
use prometheus_client::registry::Registry;

use crate::args::duration;
use crate::member::{Identity, Membership};

pub(super) use routes::{read, written};

/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_hours(24);

/// Keep the durable audit of a mesh on a volume, for its gateways.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Folder of the log.
    #[arg(
        long,
        env = "MESH_LEDGER_FOLDER",
        default_value = "/var/lib/inferencemesh.dev/ledger"
    )]
    pub(crate) folder: PathBuf,
    /// Days after which whole segments are removed; 0: never.
    #[arg(long, env = "MESH_LEDGER_KEEP_DAYS", default_value_t = 0)]
    keep_days: u64,
    /// MiB of all segments together from which on the oldest are removed; 0: never.
    #[arg(long, env = "MESH_LEDGER_MOST_MIB", default_value_t = 0)]
    most_mib: u64,
    /// MiB of a segment.
    #[arg(long, env = "MESH_LEDGER_SEGMENT_MIB", default_value_t = 64)]
    segment_mib: u64,
    /// Address of metrics and health.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "0.0.0.0:8081")]
    admin_listen: SocketAddr,
    /// Address where the log is read, by who may forward a port of the pod; must be loopback.
    #[arg(
        long,
        env = "MESH_LEDGER_READ_LISTEN",
        default_value = "127.0.0.1:8445"
    )]
    read_listen: SocketAddr,
    /// Namespace of the mesh, whose gateways write.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "mesh-system")]
    mesh_namespace: String,
    #[command(flatten)]
    identity: Identity,
    /// After SIGTERM: how long requests that have begun may take to end.
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", default_value = "5s", value_parser = duration)]
    drain_timeout: Duration,
}

impl Options {
    fn log(&self) -> log::Options {
        let some = |number: u64| (number > 0).then_some(number);
        log::Options {
            segment_bytes: self.segment_mib.clamp(1, 1024) << 20,
            keep: some(self.keep_days)
                .map(|days| DAY.saturating_mul(days.try_into().unwrap_or(u32::MAX))),
            most_bytes: some(self.most_mib).map(|mib| mib.saturating_mul(1 << 20)),
            ..log::Options::default()
        }
    }
}

/// Keeps the log until it is asked to end.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.read_listen.ip().is_loopback(),
        "--read-listen {}: whoever reaches it reads the audit; it must be loopback",
        options.read_listen
    );
    let listener = listen::bind(options.identity.tls_listen, "--tls-listen").await?;
    let admin_listener = listen::bind(options.admin_listen, "--admin-listen").await?;
    let read_listener = listen::bind(options.read_listen, "--read-listen").await?;
    let (folder, settings) = (options.folder.clone(), options.log());
    let opening = tokio::task::spawn_blocking(move || Log::open(&folder, settings));
    let log = opening
        .await?
        .with_context(|| format!("the log in {} cannot be opened", options.folder.display()))?;
    tracing::info!(key = %log.key(), entries = log.figures().size, "the log is open");

    let shutdown = Shutdown::new();
    let membership = Membership::start(&options.identity, &options.mesh_namespace, &shutdown);
    let tls = membership.server()?;
    let written = written(log.clone(), &options.mesh_namespace);
    let reading = read(log.clone(), options.folder.clone());
    admin(&log, membership, &shutdown).start(admin_listener, &shutdown);
    shutdown.spawn(shutdown.on_signal());
    let limits = serve::Limits {
        grace: options.drain_timeout,
        ..serve::Limits::default()
    };
    let secured = serve::serve_tls(listener, tls, written, limits, &shutdown);
    let plain = serve::serve(read_listener, reading, limits, &shutdown);
    if tokio::join!(secured, plain) != (true, true) {
        tracing::warn!("answers still running were cut");
    }
    let in_order = shutdown.finish(GRACE).await;
    tokio::task::spawn_blocking(move || log.close()).await?;
    if !in_order {
        tracing::warn!("some work did not end in time");
    }
    Ok(())
}

/// Ready means: gateways can prove who this is, and what they write is kept.
fn admin(log: &Log, membership: Membership, shutdown: &Shutdown) -> Admin {
    let mut registry = Registry::with_prefix("mesh_ledger");
    figures::register(&mut registry, log.clone());
    membership.register(&mut registry);
    let (log, ending) = (log.clone(), shutdown.clone());
    let missing = move || {
        let mut missing = Vec::from_iter(membership.missing());
        if let Some(reason) = log.state().reason {
            missing.push(format!("the log cannot be written: {reason}"));
        }
        if ending.draining() {
            missing.push(String::from("it was asked to end"));
        }
        missing
    };
    Admin::new(
        registry,
        std::sync::Arc::new(missing),
        std::sync::Arc::new(|| ()),
    )
}
