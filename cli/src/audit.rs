//! `mesh audit`: shows and verifies the durable audit, of this machine, of a file, or of a cluster.
//!
//! Refuses to write: what is kept is changed by nobody.

mod place;
mod show;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::Answer;
use crate::args::{AuditDir, Output};

/// `mesh audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Show what was decided and to whom it was sent.
    Show(show::Show),
    /// Find out whether anything was changed, taken away or added.
    Verify(verify::Verify),
}

/// Where an audit is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Folder of a log, or file that `show --raw` wrote; `-` reads standard input; default: this machine's.
    #[arg(conflicts_with = "cluster")]
    path: Option<PathBuf>,
    /// This machine's folder.
    #[command(flatten)]
    audit: AuditDir,
    /// The audit of a cluster, reached with the kubeconfig: takes the right to forward a port of the ledger's pod.
    #[arg(long)]
    cluster: bool,
    /// Context of the kubeconfig; default: its current one.
    #[arg(long, requires = "cluster")]
    context: Option<String>,
    /// Namespace of the mesh in that cluster.
    #[arg(
        long,
        env = "MESH_NAMESPACE",
        default_value = "mesh-system",
        requires = "cluster"
    )]
    mesh_namespace: String,
}

/// Whose signatures hold.
#[derive(Debug, Args)]
pub(crate) struct Trusted {
    /// Public key that must have signed it, as `mesh audit verify` shows it; default: the one that the log itself names, which whoever
    /// made the log anew could have changed.
    #[arg(long, value_parser = public_key)]
    key: Option<mesh_ledger::PublicKey>,
}

pub(crate) async fn run(audit: Audit, output: Output) -> anyhow::Result<Answer> {
    match audit {
        Audit::Show(options) => show::run(options, output).await,
        Audit::Verify(options) => verify::run(options, output).await,
    }
}

fn public_key(text: &str) -> Result<mesh_ledger::PublicKey, String> {
    text.trim().parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests;
