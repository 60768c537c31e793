//! `mesh-sidecar`: the process of [`mesh_sidecar`], as an init container that stays beside its application and
//! ends after it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::routing::get;
use clap::Parser;
use mesh_runtime::{Admin, Shutdown, listen, logs, serve};
use mesh_sidecar::{Args, Sidecar};
use prometheus_client::registry::Registry;

/// Threads that serve: it stands beside one application, and a second one only adds waking it to every call. What takes time leaves it.
const THREADS: usize = 1;
/// Threads that names, files and large bodies may take, made when needed: a resolver that hangs holds its own only.
const BLOCKING: usize = 16;
/// How long background work may take to end once the last answer is written.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    mesh_runtime::install_crypto_provider();
    mesh_runtime::install_panic_hook();
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => mesh_runtime::cannot_run("mesh-sidecar", &error),
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    logs::install(&args.log, logs::Format::Json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(args));
    runtime.shutdown_background();
    ended
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = listen::bind(args.listen, "--listen").await?;
    let admin_listener = listen::bind(args.admin_listen, "--admin-listen").await?;
    let shutdown = Shutdown::new();
    let sidecar = Sidecar::start(&args, &shutdown).context("--gateway-url")?;
    serve_admin(&sidecar, admin_listener, &shutdown);
    shutdown.spawn(shutdown.on_signal());
    tracing::info!(
        address = %listener.local_addr()?,
        namespace = args.namespace,
        gateway = %args.gateway_url,
        "serving"
    );
    let limits = serve::Limits {
        grace: args.drain_timeout,
        ..serve::Limits::default()
    };
    if !serve::serve(listener, sidecar.router(), limits, &shutdown).await {
        tracing::warn!("answers still running were cut");
    }
    if !shutdown.finish(GRACE).await {
        tracing::warn!("some work did not end in time");
    }
    Ok(())
}

/// It lives and is ready as long as it listens: an application must not wait for a gateway, for which there is
/// the floor.
fn serve_admin(sidecar: &Sidecar, listener: tokio::net::TcpListener, shutdown: &Shutdown) {
    let mut registry = Registry::with_prefix("mesh_sidecar");
    sidecar.register(&mut registry);
    let ending = shutdown.clone();
    let missing = move || {
        let ending = ending.draining();
        Vec::from_iter(ending.then(|| String::from("it was asked to end")))
    };
    let admin = Admin::new(registry, Arc::new(missing), Arc::new(|| ()));
    let told = sidecar.clone();
    let state = get(move || std::future::ready(Json(told.state())));
    let router = admin.router().route("/state", state);
    let own = shutdown.clone();
    shutdown.spawn(async move {
        serve::serve(listener, router, serve::Limits::default(), &own).await;
    });
}
