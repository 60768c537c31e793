//! The task runner. Needs cargo; Python and Node only where the official SDKs are tested. Refuses to
//! hide a step: what is skipped is printed with its reason, and with `CI=true` it is a failure.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks on its streams"
)]

mod bench;
mod chart;
#[cfg(feature = "gen")]
mod chart_page;
mod check;
mod cluster;
mod context;
#[cfg(feature = "gen")]
mod dashboards;
#[cfg(test)]
mod dockerfile;
mod generate;
mod images;
#[cfg(feature = "gen")]
mod kustomize;
mod layering;
mod model;
mod process;
mod sdk;
mod suite;
mod tidy;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::context::Context;

/// Builds, runs, checks and measures Inference Mesh.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Clone, Subcommand)]
enum Task {
    /// Build and run the product with the standalone samples.
    Up,
    /// Run everything: checks, tests of all crates, the built binary, the official SDKs.
    Test,
    /// Format, lints, layering, generated files, tidiness.
    Check,
    /// Write the generated files, or with --check fail if they are not up to date.
    Gen {
        /// Write nothing; fail if something would change.
        #[arg(long)]
        check: bool,
    },
    /// Obtain the floor's model, or verify the one that is here.
    Model,
    /// Test the built release binary with the official SDKs.
    Sdk,
    /// Build the container images, an OCI archive each.
    Images {
        /// Folder for the archives.
        #[arg(long, default_value = "target/images")]
        out: std::path::PathBuf,
    },
    /// Build the programs of a Kubernetes, for tests and `cluster`.
    Tools,
    /// A Kubernetes of this machine's own, to play with.
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Measure the gateway's overhead and the floor's speed, or what a sidecar adds.
    Bench {
        /// Only this part.
        #[arg(value_enum)]
        part: Option<bench::Part>,
        /// Requests per connection and measurement.
        #[arg(long, default_value_t = 2000)]
        requests: usize,
        /// Only the gateway, not the engine.
        #[arg(long)]
        gateway_only: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> anyhow::Result<bool> {
    let context = Context::new()?;
    match task {
        Task::Up => up::run(&context).map(|()| true),
        Task::Test => Ok(suite::run(&context)),
        Task::Check => check::run(&context),
        Task::Gen { check } => generate::run(&context, check),
        Task::Model => model::obtain(&context).map(|path| {
            println!("{}", path.display());
            true
        }),
        Task::Sdk => sdk::run(&context, &context.release_binary()?).map(|tally| {
            println!("{tally}");
            tally.good(context.ci)
        }),
        Task::Images { out } => images::build(&context, &context.root.join(out)).map(|()| true),
        Task::Tools => mesh_cluster::tool::build_all().map(|()| true),
        Task::Cluster(task) => cluster::run(task),
        Task::Bench {
            part: Some(bench::Part::Sidecar),
            requests,
            ..
        } => bench::sidecar(&context, requests).map(|()| true),
        Task::Bench {
            part: Some(bench::Part::Audit),
            requests,
            ..
        } => bench::audit(&context, requests).map(|()| true),
        Task::Bench {
            part: None,
            requests,
            gateway_only,
        } => bench::run(&context, requests, gateway_only).map(|()| true),
    }
}
