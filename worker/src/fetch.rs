//! `mesh-worker fetch`: puts a model's files where `serve` finds them, proven by their digests. Runs
//! before the worker in its pod or as a Job of its own, so that the parser of a model never sees bytes
//! that nobody proved.

mod report;
#[cfg(test)]
mod tests;
mod wanted;

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use mesh_models::{CacheSpec, Error, Failed, Outcome, Resolved, Resolver, Settings, Store};
use mesh_runtime::Shutdown;

use report::Report;
use wanted::Builtin;

/// The store, beside the links that lead into it.
const STORE: &str = ".store";
/// How a full disk ends it, for the operator: at once there will not be more room. The number is the one of ENOSPC.
pub(crate) const DISK_FULL: u8 = 28;
/// How long running answers of the progress port may go on at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Settings of `fetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Fetch {
    /// What is wanted, as JSON: `artifacts` and `sources` as a ModelCache has them.
    #[arg(long = "spec", env = "MESH_FETCH")]
    spec: String,
    /// Folder in which every artifact appears under its path.
    #[arg(long)]
    into: PathBuf,
    /// Folder with the files of the source `builtin`.
    #[arg(long, default_value = "/builtin")]
    builtin: PathBuf,
    /// Lead to the files of `builtin` where they lie instead of copying them: right only if the same
    /// image serves them.
    #[arg(long)]
    link_builtin: bool,
    /// File for the result as JSON, at most 4096 bytes; in a pod its termination log.
    #[arg(long)]
    result: Option<PathBuf>,
    /// Hash everything again that is here; what is damaged goes into quarantine and is fetched anew.
    #[arg(long)]
    verify: bool,
    /// Connections for one large file, if its server can continue at any place.
    #[arg(long, env = "MESH_FETCH_PARALLEL", default_value_t = NonZeroUsize::MIN.saturating_add(3))]
    parallel: NonZeroUsize,
    /// Seconds of silence after which a source is given up.
    #[arg(long, env = "MESH_FETCH_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Further tries of a source whose connection broke, each going on where the last one ended.
    #[arg(long, env = "MESH_FETCH_RETRIES", default_value_t = 4)]
    retries: u32,
    /// Address of `/progress`, `/result` and `/healthz`.
    #[arg(long, env = "MESH_PROGRESS_LISTEN")]
    progress_listen: Option<SocketAddr>,
    /// Seconds for which the result is still served after success.
    #[arg(long, default_value_t = 0)]
    linger: u64,
}

/// 0: everything is here and proven. 1: something could not be had. [`DISK_FULL`]: there is no room for it. An error is
/// wrong use.
pub(crate) async fn run(options: Fetch) -> anyhow::Result<ExitCode> {
    run_until(options, Shutdown::new()).await
}

async fn run_until(options: Fetch, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let builtin = Builtin {
        folder: &options.builtin,
        link: options.link_builtin,
    };
    let spec = wanted::read(&options.spec, builtin, STORE)?;
    let signals = shutdown.clone();
    shutdown.spawn(async move { signals.on_signal().await });
    let report = Report::default();
    if let Some(address) = options.progress_listen {
        let address = report.serve(address, &shutdown).await?;
        tracing::info!(%address, "progress is served");
    }
    let ended = obtain(&options, &spec, &report, &shutdown).await;
    if let Err(error) = &ended {
        if let Some(full @ Error::DiskFull { tried, .. }) = full(error) {
            report.disk_full(tried.as_deref(), &full.to_string());
        }
        tracing::error!("{error:#}");
    }
    report.finish(ended.as_ref().err().map(|error| format!("{error:#}")));
    if let Some(path) = &options.result {
        report.write(path);
    }
    if ended.is_ok() && options.progress_listen.is_some() {
        let rest = tokio::time::sleep(Duration::from_secs(options.linger));
        shutdown.token.run_until_cancelled(rest).await;
    }
    shutdown.finish(GRACE).await;
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if matches!(error.downcast_ref(), Some(Error::Spec { .. })) => Err(error),
        Err(error) if full(&error).is_some() => Ok(ExitCode::from(DISK_FULL)),
        Err(_) => Ok(ExitCode::FAILURE),
    }
}

/// The disk has no room.
fn full(error: &anyhow::Error) -> Option<&Error> {
    error
        .downcast_ref()
        .filter(|error| matches!(error, Error::DiskFull { .. }))
}

async fn obtain(
    options: &Fetch,
    spec: &CacheSpec,
    report: &Report,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let store = Store::open(options.into.join(STORE))?;
    let settings = Settings {
        connections: options.parallel.get(),
        read_timeout: Duration::from_secs(options.timeout),
        retries: options.retries,
        ..Settings::default()
    };
    let resolver = Resolver::new(store, settings);
    let progress = |progress: &mesh_models::Progress| report.progress(progress);
    if options.verify {
        prove(&resolver, spec, report, shutdown).await?;
    }
    let failed = |failed: &Failed<'_>| report.failed(failed);
    let found = resolver
        .resolve_reporting(spec, &shutdown.token, &progress, &failed)
        .await?;
    for file in &found {
        place(&options.into, file)?;
        report.proven(file);
    }
    Ok(())
}

/// Hashes again what is here; what is damaged is out of the way afterwards.
async fn prove(
    resolver: &Resolver,
    spec: &CacheSpec,
    report: &Report,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let progress = |progress: &mesh_models::Progress| report.progress(progress);
    for found in resolver.verify(spec, &shutdown.token, &progress).await? {
        if let Outcome::Damaged(error) = &found.outcome {
            report.failed(&Failed {
                artifact: &found.artifact,
                source: "the store",
                error,
            });
        }
    }
    Ok(())
}

/// Makes the artifact appear under its own path. The link is replaced in one step: whoever serves from
/// the same volume never finds it missing.
fn place(into: &Path, file: &Resolved) -> anyhow::Result<()> {
    let link = into.join(&file.artifact);
    let shown = || format!("could not place {}", link.display());
    let folder = link.parent().unwrap_or(into);
    fs::create_dir_all(folder).with_context(shown)?;
    let target = target(into, file)?;
    if fs::read_link(&link).is_ok_and(|before| before == target) {
        return Ok(());
    }
    let beside = into
        .join(STORE)
        .join(format!("link-{}", std::process::id()));
    if fs::symlink_metadata(&beside).is_ok() {
        fs::remove_file(&beside).with_context(shown)?;
    }
    std::os::unix::fs::symlink(&target, &beside).with_context(shown)?;
    fs::rename(&beside, &link).with_context(shown)
}

/// Relative for what is in the same volume, which may be mounted elsewhere; whole for the image's files.
fn target(into: &Path, file: &Resolved) -> anyhow::Result<PathBuf> {
    let into = std::path::absolute(into)?;
    let Ok(inside) = file.path.strip_prefix(&into) else {
        return Ok(file.path.clone());
    };
    let deep = Path::new(&file.artifact)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .count()
        .saturating_sub(1);
    let up: PathBuf = std::iter::repeat_n("..", deep).collect();
    Ok(up.join(inside))
}
