//! `mesh-gateway`: the entry of a cluster. Watches what is declared, finds out who is calling, and hands
//! everything else to the data plane.
//!
//! It decides nothing itself: classification, admission and plans are the data plane's.

mod args;
mod callers;
mod ledger;
mod loads;
mod member;
mod overseer;
mod pods;
mod reach;
mod reviews;
mod secrets;
mod translate;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use jiff::Timestamp;
use mesh_backends::{Backends, ClientOptions};
use mesh_core::Snapshot;
use mesh_dataplane::{Config, Dataplane, Metrics, Parts, SnapshotStore, clock};
use mesh_ledger::Ledger;
use mesh_runtime::{Admin, Shutdown, listen, logs, serve};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::args::{Args, Command};
use crate::callers::ClusterCallers;
use crate::ledger::{Remote, Writing};
use crate::member::Membership;
use crate::reach::Reach;
use crate::reviews::Reviews;
use crate::secrets::Secrets;
use crate::translate::Maker;
use crate::watch::Cluster;

/// How long background work may take to end once the last answer is written.
const GRACE: Duration = Duration::from_secs(5);
/// How long the ledger may take for what it was given.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long what was decided last may take to be written down.
const LAST: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    mesh_runtime::install_crypto_provider();
    mesh_runtime::install_panic_hook();
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => mesh_runtime::cannot_run("mesh-gateway", &error),
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    logs::install(&args.log, logs::Format::Json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(args));
    runtime.shutdown_background();
    ended
}

async fn run(mut args: Args) -> anyhow::Result<()> {
    if let Some(Command::Ledger(options)) = args.command.take() {
        return ledger::run(options).await;
    }
    serve_mesh(args).await
}

async fn serve_mesh(args: Args) -> anyhow::Result<()> {
    let listener = listen::bind(args.listen, "--listen").await?;
    let tls_listener = listen::bind(args.identity.tls_listen, "--tls-listen").await?;
    let admin_listener = listen::bind(args.admin_listen, "--admin-listen").await?;
    tracing::info!("admin on http://{}", admin_listener.local_addr()?);
    let client = kube::Client::try_default()
        .await
        .context("no cluster was found: run this in a pod, or set KUBECONFIG")?;
    let shutdown = Shutdown::new();
    let membership = Membership::start(&args.identity, &args.mesh_namespace, &shutdown);
    let ledger = audit(&args, &membership, &shutdown)?;
    let backends = Arc::new(Backends::new(ClientOptions {
        shared: true,
        pods: Some(Arc::new(membership.clone())),
        ..ClientOptions::default()
    })?);
    let scope = (args.scope, args.mesh_namespace.as_str());
    let cluster = Cluster::watch(&client, &shutdown, scope);
    let callers = Arc::new(tell_apart(&args, &cluster, &client));
    let snapshots = SnapshotStore::new(Snapshot::empty(&args.mesh_namespace, Timestamp::now()));
    let dataplane = Dataplane::new(Parts {
        config: config(&args, &callers),
        snapshots: snapshots.clone(),
        backends: Arc::clone(&backends),
        ledger: ledger
            .clone()
            .map(|remote| Arc::new(remote) as Arc<dyn Ledger>),
        metrics: Metrics::new(),
        tracker: shutdown.tracker.clone(),
        shutdown: shutdown.token.clone(),
        clock: clock::system_clock(),
    })?;
    callers::keep(&callers, client.clone(), &shutdown);
    loads::keep(snapshots.clone(), Arc::clone(&backends), &shutdown);
    let maker = Maker {
        cluster: cluster.clone(),
        secrets: Secrets::new(client, &args, Arc::clone(&backends)),
        backends,
        callers: Arc::clone(&callers),
        mesh_namespace: args.mesh_namespace.clone(),
        own: args.own_addresses(),
        cluster_networks: args.cluster_networks.clone(),
    };
    let plane = dataplane.clone();
    let reach = Reach::start(&snapshots, move || plane.unrecorded(), &shutdown);
    maker.keep(snapshots, &shutdown);
    let tls = membership.server()?;
    serve_admin(
        &dataplane,
        admin_listener,
        (&cluster, &callers, membership, reach),
        &shutdown,
    );

    let doors = (listener, tls_listener, tls);
    serve_until_the_end(doors, &dataplane, &args, &shutdown).await?;
    end(&dataplane, ledger.as_ref(), &shutdown).await;
    Ok(())
}

/// No answer runs any more: what was decided last is written, and then nothing is.
async fn end(dataplane: &Dataplane, ledger: Option<&Remote>, shutdown: &Shutdown) {
    dataplane.end_records(LAST).await;
    if let Some(ledger) = ledger {
        ledger.end();
    }
    if !shutdown.finish(GRACE).await {
        tracing::warn!("some work did not end in time");
    }
}

/// Serves both ports until a signal has come and running answers have ended.
async fn serve_until_the_end(
    (listener, tls_listener, tls): (TcpListener, TcpListener, ServerConfig),
    dataplane: &Dataplane,
    args: &Args,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    shutdown.spawn(shutdown.on_signal_drain(args.drain_delay));
    tracing::info!(address = %listener.local_addr()?, "serving");
    let limits = limits(args);
    let plain = serve::serve(listener, dataplane.router(), limits, shutdown);
    let proven = overseer::router(dataplane, &args.mesh_namespace);
    let secured = serve::serve_tls(tls_listener, tls, proven, limits, shutdown);
    if tokio::join!(plain, secured) != (true, true) {
        tracing::warn!("answers still running were cut");
    }
    Ok(())
}

/// Who tells callers apart.
fn tell_apart(args: &Args, cluster: &Cluster, client: &kube::Client) -> ClusterCallers {
    let reviews = args.token_review;
    let reviews = reviews.map(|oldest| Reviews::new(client.clone(), oldest));
    let scope = (args.scope, args.mesh_namespace.as_str());
    ClusterCallers::new(scope, callers::watched(cluster), reviews)
}

/// The way to the durable audit, if there is one. It works until it is told that nothing more will come.
fn audit(
    args: &Args,
    membership: &Membership,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Remote>> {
    if args.ledger.is_empty() {
        return Ok(None);
    }
    let (member, trust) = membership.parts();
    let writing = Writing {
        address: args.ledger.clone(),
        limit: PATIENCE,
        mesh_namespace: args.mesh_namespace.clone(),
        member,
        trust,
    };
    Remote::start(writing, shutdown).map(Some)
}

fn limits(args: &Args) -> serve::Limits {
    serve::Limits {
        grace: args.drain_timeout,
        ..serve::Limits::default()
    }
}

fn config(args: &Args, callers: &Arc<ClusterCallers>) -> Config {
    Config {
        mesh_namespace: args.mesh_namespace.clone(),
        callers: Some(callers.clone()),
        loopback: false,
        gateway: args.pod_name.clone(),
        record_wait: args.ledger_timeout,
        ..Config::default()
    }
}

/// Ready means: everything declared is known, callers can be told apart, pods can be proved and reached, and nobody asked it to
/// end. It does not need a backend, else an installation that waits for the gateway would never end.
fn serve_admin(
    dataplane: &Dataplane,
    listener: TcpListener,
    (cluster, callers, membership, reach): (&Cluster, &Arc<ClusterCallers>, Membership, Reach),
    shutdown: &Shutdown,
) {
    let mut registry = Registry::with_prefix("mesh_gateway");
    dataplane.register(&mut registry);
    membership.register(&mut registry);
    callers.register(&mut registry);
    let (cluster, callers, ending) = (cluster.clone(), Arc::clone(callers), shutdown.clone());
    let missing = move || {
        let mut missing = cluster.missing();
        if !callers.ready() {
            missing.push(String::from("the keys of the API server are not known yet"));
        }
        missing.extend(membership.missing());
        missing.extend(reach.missing());
        if ending.draining() {
            missing.push(String::from("it was asked to end"));
        }
        missing
    };
    let admin = Admin::new(registry, Arc::new(missing), Arc::new(|| ()));
    admin.start(listener, shutdown);
}
