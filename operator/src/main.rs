//! `mesh-operator`: makes a cluster match the objects of inferencemesh.dev.
//!
//! ```text
//! watches --> world (in memory) --> per object: validate, build, apply, status --> API server
//!                 ^                                                                  |
//!                 +------------------------- every change ---------------------------+
//! ```
//!
//! Every pass looks at everything and writes only what differs, so it does not matter which event was
//! missed or seen twice. It never answers requests and never sees a prompt.

mod apply;
mod args;
mod authority;
mod backend;
mod bootstrap;
mod cache;
mod canary;
mod client;
mod confine;
mod endpoint;
mod events;
mod health;
mod inject;
mod keeper;
mod lease;
mod metrics;
mod pages;
mod pass;
mod policy;
mod quantity;
#[cfg(test)]
mod samples;
mod sign;
mod status;
mod transition;
mod trust;
mod uninstall;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use mesh_runtime::{Admin, Shutdown, listen, logs};
use prometheus_client::registry::Registry;

use crate::apply::Writer;
use crate::args::{Args, Command, Run};
use crate::cache::Poll;
use crate::confine::Canaries;
use crate::events::Events;
use crate::health::{Asker, Health};
use crate::keeper::Keeper;
use crate::lease::{Fence, Lease};
use crate::metrics::Metrics;
use crate::pass::Pass;
use crate::pass::setback::Setbacks;
use crate::trust::Publisher;
use crate::world::World;

/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    mesh_runtime::install_crypto_provider();
    mesh_runtime::install_panic_hook();
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => mesh_runtime::cannot_run("mesh-operator", &error),
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    logs::install(&args.log, logs::Format::Json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Command::Canary(options) = &args.command {
        // It has no rights and asks no API server.
        return runtime.block_on(canary::run(options));
    }
    let ended = runtime.block_on(async {
        let metrics = Metrics::default();
        let fence = Fence::default();
        // What removes an installation has no lease.
        let guard = matches!(args.command, Command::Run(_)).then(|| fence.clone());
        let client = client::connect(&metrics, guard)
            .await
            .context("no cluster was found: run this in a pod, or set KUBECONFIG")?;
        match args.command {
            Command::Run(options) => Box::pin(run(*options, client, metrics, fence)).await,
            Command::Uninstall(options) => uninstall::run(&client, &options).await,
            Command::Canary(options) => canary::run(&options).await,
        }
    });
    runtime.shutdown_background();
    ended
}

async fn run(
    options: Run,
    client: kube::Client,
    metrics: Metrics,
    fence: Fence,
) -> anyhow::Result<()> {
    let admin_listener = listen::bind(options.admin_listen, "--admin-listen").await?;
    tracing::info!("admin on http://{}", admin_listener.local_addr()?);
    let bootstrap = bootstrap::read(options.bootstrap.as_deref())?;
    let shutdown = Shutdown::new();
    let world = World::watch(&client, &shutdown, (options.scope, &options.mesh_namespace));
    let lease = Arc::new(Lease::new(client.clone(), &options, metrics.clone(), fence));

    let home = options.mesh_namespace.clone();
    let keeper = endpoint::keeper(&client, &home, &options.authority, &metrics);
    endpoint::start(&keeper, &options.authority, &shutdown).await?;
    let template = inject::start(&options, &keeper, &metrics.inject, &shutdown).await?;
    let canaries = Canaries::new(&options);
    let around = (&world, &keeper, canaries.clone());
    serve_admin(admin_listener, &metrics, around, &shutdown);
    let delay = options.drain_delay;
    shutdown.spawn(shutdown.on_signal_drain(delay));

    // A standby keeps its memory of the cluster fresh and writes nothing.
    if !leads(&lease, &shutdown).await {
        end(&shutdown, delay).await;
        return Ok(());
    }
    tracing::info!("leading");
    let poll = Poll::default();
    let health = Health::default();
    let gateways = world.gateways.clone();
    let asker = Asker::new(&keeper, &options);
    let events = Events::new(client.clone(), &options.identity);
    let (looked_at, by) = (world.clone(), (client.clone(), &metrics, events.clone()));
    let injection = inject::lead(template, (&looked_at, &keeper), by);
    let writer = Writer::new(client, metrics.clone());
    let publisher = Publisher {
        setbacks: Setbacks::default(),
        writer: writer.clone(),
        world: world.clone(),
        mesh_namespace: home,
        proof: keeper.proof(),
    };
    let heard = (poll.clone(), health.clone(), canaries.clone());
    let pass = Pass::new(writer, options, world, bootstrap, events, heard);
    let lost = keep(&lease, &shutdown);
    let lost = tokio::select! {
        biased;
        () = shutdown.until_draining() => false,
        lost = lost => lost.is_ok(),
        () = pass.run() => false,
        () = poll.run(&looked_at) => false,
        () = health.run(&asker, &gateways) => false,
        () = canaries.run(&looked_at, &pass.writer) => false,
        () = endpoint::lead(&keeper, publisher) => false,
        () = injection => false,
    };
    if !lost {
        lease.release().await;
    }
    end(&shutdown, delay).await;
    anyhow::ensure!(
        !lost,
        "another operator leads now; starting again as its standby"
    );
    Ok(())
}

/// Waits until this replica leads; false if it is to end before.
async fn leads(lease: &Lease, shutdown: &Shutdown) -> bool {
    tokio::select! {
        biased;
        () = shutdown.until_draining() => false,
        () = lease.acquire() => true,
    }
}

/// Another may lead at once, but whoever asks here learns only after a while that it should ask elsewhere.
async fn end(shutdown: &Shutdown, delay: Duration) {
    if shutdown.draining() {
        shutdown.token.cancelled().await;
    } else {
        shutdown.drain(delay).await;
    }
    shutdown.finish(GRACE).await;
}

/// Renews the lease apart from the passes, whose work must not keep it from being renewed; tells when it is
/// lost.
fn keep(lease: &Arc<Lease>, shutdown: &Shutdown) -> tokio::sync::oneshot::Receiver<()> {
    let (tell, lost) = tokio::sync::oneshot::channel();
    let (kept, stop) = (Arc::clone(lease), shutdown.clone());
    shutdown.spawn(async move {
        tokio::select! {
            biased;
            () = stop.until_draining() => {}
            // If nobody listens any more, it ends anyway.
            () = kept.keep() => drop(tell.send(())),
        }
    });
    lost
}

fn serve_admin(
    listener: tokio::net::TcpListener,
    metrics: &Metrics,
    (world, keeper, canaries): (&World, &Arc<Keeper>, Canaries),
    shutdown: &Shutdown,
) {
    let mut registry = Registry::with_prefix("mesh_operator");
    metrics.register(&mut registry);
    endpoint::register(keeper, &mut registry);
    let (seen, kept) = (world.clone(), Arc::clone(keeper));
    let ending = shutdown.clone();
    let missing = move || {
        let all = seen.missing().into_iter().chain(kept.missing());
        let ending = ending.draining().then(|| String::from("it is draining"));
        all.chain(ending).collect::<Vec<String>>()
    };
    let (counted, standing) = (world.clone(), metrics.clone());
    let refresh = Arc::new(move || {
        standing.stand(counted.standing());
        standing.proved(confine::ages(&counted, &canaries), canaries.interval());
        standing.unenforced(confine::unenforced(&counted));
    });
    Admin::new(registry, Arc::new(missing), refresh).start(listener, shutdown);
}
