//! `mesh`: the whole product in one process on one machine, and the operator's tools.
//!
//! Composition only: deciding, serving, checking and fetching live in the crates. Exit code 0 is
//! fine, 1 means that the answer is "no" (a test failed, a policy is invalid), 2 wrong use or
//! cannot run.

mod args;
mod ask;
mod audit;
mod catalog;
mod classify;
mod cluster;
mod models;
mod output;
mod policy;
mod remote;
mod status;
mod up;
mod why;

use std::process::ExitCode;

use clap::Parser;
use mesh_runtime::logs;

use crate::args::{Cli, Command, LogFormat};

/// What a command found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Fine.
    Yes,
    /// The answer is "no".
    No,
}

fn main() -> ExitCode {
    mesh_runtime::install_crypto_provider();
    mesh_runtime::install_panic_hook();
    let cli = Cli::parse();
    match start(cli) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => mesh_runtime::cannot_run("mesh", &error),
    }
}

fn start(cli: Cli) -> anyhow::Result<Answer> {
    let format = match cli.log_format {
        LogFormat::Text => logs::Format::Text,
        LogFormat::Json => logs::Format::Json,
    };
    logs::install(&cli.log, format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(run(cli));
    // A download in a blocking read must not hold up the end.
    runtime.shutdown_background();
    answer
}

async fn run(cli: Cli) -> anyhow::Result<Answer> {
    let output = cli.output;
    match cli.command {
        Command::Up(up) => up::run(up).await,
        Command::Why(why) => why::run(why, output).await,
        Command::Ask(ask) => ask::run(ask, output).await,
        Command::Classify(classify) => classify::run(&classify, output),
        Command::Policy(policy) => policy::run(&policy, output),
        Command::Models(models) => models::run(models, output).await,
        Command::Status(remote) => status::run(&remote, output).await,
        Command::Audit(audit) => audit::run(audit, output).await,
    }
}

/// True if whoever read our output has left; that is not an error of ours.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
