//! `mesh-gateway ledger`: keeps the log.

mod figures;
mod keeper;
mod routes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use mesh_ledger::log;
use mesh_runtime::{Admin, Shutdown, listen, serve};
use prometheus_client::registry::Registry;

use crate::args::duration;
use crate::member::{Identity, Membership};

pub(super) use keeper::Keeper;
pub(super) use routes::{read, written};

/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(5);

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
    /// The same for so many hundredths of the volume; 0: never.
    #[arg(long, env = "MESH_LEDGER_MOST_PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=99))]
    most_percent: u8,
    /// A log that cannot be opened, since it was damaged or its key is gone, is moved into `aside/<this name>` of the folder,
    /// once, and a new one begins. Empty: it stays, can be read, and nothing is kept.
    #[arg(long, env = "MESH_LEDGER_SET_ASIDE", default_value = "", value_parser = name)]
    set_aside: String,
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
        let days = self.keep_days.try_into().unwrap_or(u32::MAX);
        log::Options {
            segment_bytes: self.segment_mib.clamp(1, 1024) << 20,
            most_percent: (self.most_percent > 0).then_some(self.most_percent),
            ..log::Options::keeping(days, self.most_mib)
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
    let (folder, settings, aside) = (
        options.folder.clone(),
        options.log(),
        options.set_aside.clone(),
    );
    let opening = tokio::task::spawn_blocking(move || Keeper::open(&folder, settings, &aside));
    let keeper = opening.await?;
    let keeper = keeper
        .with_context(|| format!("the log in {} cannot be opened", options.folder.display()))?;
    if let Some(log) = keeper.log() {
        tracing::info!(key = %log.key(), entries = log.figures().size, "the log is open");
    }

    let shutdown = Shutdown::new();
    let membership = Membership::start(&options.identity, &options.mesh_namespace, &shutdown);
    let tls = membership.server()?;
    let written = written(keeper.clone(), &options.mesh_namespace);
    let reading = read(keeper.clone());
    admin(&keeper, membership, &shutdown).start(admin_listener, &shutdown);
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
    let closing = tokio::task::spawn_blocking(move || keeper.log().map(mesh_ledger::Log::close));
    // A disk that hangs holds nobody up: whoever waits for it was not told that anything is kept.
    let closed = tokio::time::timeout(GRACE, closing).await.is_ok();
    if !(in_order && closed) {
        tracing::warn!("some work did not end in time");
    }
    Ok(())
}

/// A name of a folder.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err(String::from("expected letters, digits, - and _"))
    }
}

/// Ready means: gateways can prove who this is, and what they write is kept.
fn admin(keeper: &Keeper, membership: Membership, shutdown: &Shutdown) -> Admin {
    let mut registry = Registry::with_prefix("mesh_ledger");
    figures::register(&mut registry, keeper.clone());
    membership.register(&mut registry);
    let (keeper, ending) = (keeper.clone(), shutdown.clone());
    let missing = move || {
        let mut missing = Vec::from_iter(membership.missing());
        if let Some(reason) = keeper.state().reason {
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
