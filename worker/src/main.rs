//! `mesh-worker`: one model behind the OpenAI API, for a mesh to use as an `external` backend.
//!
//! It decides nothing about requests: no policy, no routing, no privacy level. Whoever reaches its plain
//! port may use it, so that one listens on loopback unless told otherwise; over TLS gateways are served, and
//! who shows a token of a ServiceAccount.

mod api;
mod fetch;
mod guard;
mod metrics;
mod prove;
mod quantize;
mod transport;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mesh_engine::{Engine, EngineOptions, Place};
use mesh_runtime::{Admin, Shutdown, listen, logs, serve};
use prometheus_client::registry::Registry;

use crate::transport::{Front, Transport};

/// How long the engine and background work may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

/// Serves a model file of this machine over the OpenAI API.
#[derive(Debug, Parser)]
#[command(name = "mesh-worker", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log filter, for example `info`.
    #[arg(long, env = "MESH_LOG", global = true, default_value = "info")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve one model.
    Serve(Serve),
    /// Fetch and prove the files of a model.
    Fetch(fetch::Fetch),
    /// Prove the files of a model that are there already.
    Prove(prove::Prove),
    /// Make a smaller model file of a model file.
    Quantize(quantize::Quantize),
    /// Stand before a model server that is not ours: TLS, and only who is admitted.
    Guard(guard::Guard),
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// GGUF file of the model.
    #[arg(long, env = "MESH_MODEL")]
    model: PathBuf,
    /// Names under which it is served, separated by commas; default: the file's name without its ending.
    #[arg(long, env = "MESH_SERVED_NAME", value_delimiter = ',')]
    served_name: Vec<String>,
    /// An adapter beside the model, as NAME=FOLDER with what peft saves; requests name it as their model.
    /// May be given several times.
    #[arg(long = "adapter", env = "MESH_ADAPTERS", value_delimiter = ',', value_parser = adapter)]
    adapters: Vec<(String, PathBuf)>,
    /// Address of the API.
    #[arg(long, env = "MESH_LISTEN", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    #[command(flatten)]
    transport: Transport,
    /// Address of metrics and health.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "127.0.0.1:8001")]
    admin_listen: SocketAddr,
    /// Where the model computes: `cpu`, or with an image made for it `cuda` or `cuda:NUMBER`.
    #[arg(long, env = "MESH_DEVICE", default_value = "cpu")]
    device: Place,
    /// Threads that compute; default: the CPU quota minus one, at least one.
    #[arg(long, env = "MESH_THREADS")]
    threads: Option<NonZeroUsize>,
    /// Seconds after SIGTERM in which requests are still taken, until every sender has heard.
    #[arg(long, env = "MESH_DRAIN_DELAY", default_value_t = 0)]
    drain_delay: u64,
    /// Seconds after that in which answers may end.
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", default_value_t = 30)]
    drain_timeout: u64,
    /// Memory for keys and values in MiB.
    #[arg(long, env = "MESH_KV_MIB", default_value_t = NonZeroUsize::MIN.saturating_add(511))]
    kv_mib: NonZeroUsize,
}

fn adapter(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(folder)))
        }
        _ => Err(String::from("expected NAME=FOLDER")),
    }
}

fn main() -> ExitCode {
    mesh_runtime::install_crypto_provider();
    mesh_runtime::install_panic_hook();
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => mesh_runtime::cannot_run("mesh-worker", &error),
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    logs::install(&cli.log, logs::Format::Text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Serve(options) => run(options).await.map(|()| ExitCode::SUCCESS),
            Command::Fetch(options) => fetch::run(options).await,
            Command::Prove(options) => prove::run(&options).map(|()| ExitCode::SUCCESS),
            Command::Quantize(options) => quantize::run(options).await,
            Command::Guard(options) => guard::run(options).await.map(|()| ExitCode::SUCCESS),
        }
    });
    runtime.shutdown_background();
    ended
}

async fn run(options: Serve) -> anyhow::Result<()> {
    let listener = listen::bind(options.listen, "--listen").await?;
    let admin_listener = listen::bind(options.admin_listen, "--admin-listen").await?;
    let shutdown = Shutdown::new();
    // Its certificate comes while the model is loaded.
    let front = Front::start(&options.transport, &shutdown).await?;
    let engine = load(&options).await?;
    let names = names(&options, &engine)?;
    let name = names.first().cloned().unwrap_or_default();

    let mut registry = Registry::default();
    metrics::register(&mut registry, &engine, &name);
    let (watched, ending) = (engine.clone(), shutdown.clone());
    let member = front.as_ref().map(|(front, _)| front.clone());
    if let Some(member) = &member {
        member.register(registry.sub_registry_with_prefix("mesh_worker"));
    }
    let missing = move || {
        let mut missing: Vec<String> = member.iter().filter_map(Front::missing).collect();
        if !watched.alive() {
            missing.push(String::from("the engine has stopped"));
        }
        if ending.draining() {
            missing.push(String::from("it was asked to end"));
        }
        missing
    };
    let admin = Admin::new(registry, Arc::new(missing), Arc::new(|| ()));
    admin.start(admin_listener, &shutdown);

    tracing::info!(model = %name, address = %listener.local_addr()?, "serving");
    let router = api::router(engine.clone(), names);
    let signals = shutdown.clone();
    let delay = options.drain_delay;
    shutdown.spawn(async move { signals.on_signal_drain(Duration::from_secs(delay)).await });
    let limits = serve::Limits {
        grace: Duration::from_secs(options.drain_timeout),
        ..serve::Limits::default()
    };
    let plain = serve::serve(listener, router.clone(), limits, &shutdown);
    let guarded = async {
        match front {
            Some((front, listener)) => front.serve(listener, router, limits, &shutdown).await,
            None => Ok(true),
        }
    };
    let (plain, guarded) = tokio::join!(plain, guarded);
    if !(plain && guarded?) {
        tracing::warn!("answers still running were cut");
    }
    engine.shutdown(GRACE);
    shutdown.finish(GRACE).await;
    Ok(())
}

/// Names of the model, which are none of its adapters'.
fn names(options: &Serve, engine: &Engine) -> anyhow::Result<Vec<String>> {
    let stem = options
        .model
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let mut names = options.served_name.clone();
    if names.is_empty() {
        names.push(stem.unwrap_or_else(|| engine.info().name.clone()));
    }
    let mut adapters = options.adapters.iter();
    if let Some((same, _)) = adapters.find(|(name, _)| names.contains(name)) {
        anyhow::bail!(
            "the model and an adapter are both named {same}: give the model another --served-name"
        );
    }
    Ok(names)
}

async fn load(options: &Serve) -> anyhow::Result<Engine> {
    let path = options.model.clone();
    let engine_options = EngineOptions {
        threads: options.threads.map(NonZeroUsize::get),
        place: options.device,
        kv_bytes: options.kv_mib.get().saturating_mul(1 << 20),
        adapters: options.adapters.clone(),
        ..EngineOptions::default()
    };
    let shown = path.display().to_string();
    let loaded = tokio::task::spawn_blocking(move || Engine::load(path, engine_options)).await?;
    loaded.with_context(|| format!("could not serve {shown}"))
}
