//! `mesh up`: gateway and floor in one process, over a directory of YAML.

mod banner;
mod floors;
mod ledger;
mod local;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use mesh_backends::{Backends, ClientOptions};
use mesh_dataplane::source::{FileSource, Fingerprint, Loaded};
use mesh_dataplane::{ApiKeys, Config, Dataplane, Metrics, Parts, SnapshotStore, clock};
use mesh_runtime::{Admin, Shutdown, listen, serve};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::args::Up;
use crate::catalog::NAMESPACE;
use crate::up::floors::Floors;
use crate::up::ledger::LocalLedger;
use crate::{Answer, catalog};

/// How long background work may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);
/// How long what was decided last may take to be written down.
const LAST: Duration = Duration::from_secs(5);

pub(crate) async fn run(options: Up) -> anyhow::Result<Answer> {
    let config = config(&options)?;
    let listener = listen::bind(options.listen, "--listen").await?;
    let admin_listener = listen::bind(options.admin_listen, "--admin-listen").await?;
    let source = FileSource::new(&options.dir, NAMESPACE);
    // Before the first look, so that no edit falls between the two.
    let seen = source.fingerprint();
    let loaded = load(&source)?;
    let kept = (catalog::audit_dir(&options.audit), options.kept.log());
    let ledger = LocalLedger::start(kept, &loaded.snapshot)?;

    let shutdown = Shutdown::new();
    let backends = Arc::new(Backends::new(ClientOptions::default())?);
    let floors = Arc::new(Floors::new(
        catalog::resolver(&options.store, &options.dir)?,
        Arc::clone(&backends),
        options.threads,
        shutdown.clone(),
    ));
    let snapshots = SnapshotStore::new(loaded.snapshot.clone());
    let dataplane = Dataplane::new(Parts {
        config,
        snapshots: snapshots.clone(),
        backends,
        ledger: Some(ledger.clone()),
        metrics: Metrics::new(),
        tracker: shutdown.tracker.clone(),
        shutdown: shutdown.token.clone(),
        clock: clock::system_clock(),
    })?;
    say(&banner::start(&loaded, &listener, &admin_listener));
    if let Some(folder) = ledger.folder() {
        say(&format!("audit in {folder}\n"));
    }
    floors.declare(&loaded);
    watch((source, seen), &snapshots, (&floors, &ledger), &shutdown);
    serve_admin(&dataplane, admin_listener, &shutdown);
    announce(&floors, &loaded, &shutdown);
    serve(&dataplane, listener, &shutdown).await;
    dataplane.end_records(LAST).await;
    let closing = tokio::task::spawn_blocking(move || ledger.close());
    // A disk that hangs holds nobody up.
    let closed = tokio::time::timeout(GRACE, closing).await.is_ok();
    floors.end();
    if !(shutdown.finish(GRACE).await && closed) {
        tracing::warn!("some work did not end in time");
    }
    Ok(Answer::Yes)
}

fn config(options: &Up) -> anyhow::Result<Config> {
    let api_keys = match &options.api_keys {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("could not read the API keys in {}", path.display()))?;
            Some(
                ApiKeys::parse(&text).with_context(|| {
                    format!("the API keys in {} are not usable", path.display())
                })?,
            )
        }
        None => None,
    };
    let config = Config {
        mesh_namespace: NAMESPACE.to_owned(),
        hosts: options.hosts.clone(),
        api_keys,
        loopback: options.listen.ip().is_loopback(),
        ..Config::default()
    };
    config.check()?;
    Ok(config)
}

fn load(source: &FileSource) -> anyhow::Result<Loaded> {
    let path = source.path();
    anyhow::ensure!(
        path.exists(),
        "{} does not exist: name a directory with YAML files",
        path.display()
    );
    source.load(Timestamp::now()).map_err(|rejected| {
        let check = format!("mesh policy check {}", path.display());
        anyhow::anyhow!(
            "the configuration in {} cannot be used:\n{rejected}\nmend it, then see `{check}`",
            path.display()
        )
    })
}

fn watch(
    (source, seen): (FileSource, Fingerprint),
    snapshots: &SnapshotStore,
    (floors, ledger): (&Arc<Floors>, &Arc<LocalLedger>),
    shutdown: &Shutdown,
) {
    let (floors, ledger) = (Arc::clone(floors), Arc::clone(ledger));
    let path = source.path().to_path_buf();
    let accepted = move |loaded: &Loaded| {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        floors.declare(loaded);
        // It may read and write files.
        let declared = tokio::task::block_in_place(|| ledger.declare(&loaded.snapshot));
        if let Err(error) = declared {
            tracing::error!(
                "{error:#}; until the next start only the floor answers what must be written"
            );
        }
        let (backends, policies) = (
            loaded.snapshot.backends.len(),
            loaded.snapshot.policies.len(),
        );
        tracing::info!(
            backends,
            policies,
            "configuration changed, in use from now on"
        );
    };
    let rejected = move |rejected: &mesh_dataplane::source::Rejected| {
        for problem in &rejected.problems {
            tracing::error!("{problem}");
        }
        tracing::error!(directory = %path.display(), "configuration not accepted, the last good one stays in use");
    };
    let stop = shutdown.token.clone();
    shutdown.spawn(source.watch(
        seen,
        snapshots.clone(),
        clock::system_clock(),
        stop,
        accepted,
        rejected,
    ));
}

fn serve_admin(dataplane: &Dataplane, listener: TcpListener, shutdown: &Shutdown) {
    let mut registry = Registry::with_prefix("mesh_gateway");
    dataplane.register(&mut registry);
    let plane = dataplane.clone();
    let admin = Admin::new(registry, Arc::new(move || plane.missing()), Arc::new(|| ()));
    admin.start(listener, shutdown);
}

/// Says when the floors are loaded, or what keeps them from it.
fn announce(floors: &Arc<Floors>, loaded: &Loaded, shutdown: &Shutdown) {
    let (floors, wanted) = (Arc::clone(floors), loaded.clone());
    let token = shutdown.token.clone();
    shutdown.spawn(async move {
        if token.run_until_cancelled(floors.settled()).await.is_some() {
            say(&banner::ready(&wanted, &floors));
        }
    });
}

async fn serve(dataplane: &Dataplane, listener: TcpListener, shutdown: &Shutdown) {
    let signals = shutdown.clone();
    shutdown.spawn(async move { signals.on_signal().await });
    if !serve::serve(
        listener,
        dataplane.router(),
        serve::Limits::default(),
        shutdown,
    )
    .await
    {
        tracing::warn!("answers still running were cut");
    }
}

/// Writes for the person at the terminal; nothing can be done if nobody reads.
fn say(text: &str) {
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

/// Shows a path as a person would type it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
