//! What every `main` of the mesh needs and no library may do by itself: the log subscriber, the
//! metrics registry and admin port, the crypto provider, signals and orderly shutdown.
//!
//! Knows no other crate of the mesh and nothing of requests.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

pub mod admin;
pub mod expiry;
pub mod listen;
pub mod logs;
pub mod serve;
pub mod shutdown;

pub use admin::{Admin, Readiness};
pub use shutdown::Shutdown;

/// Installs the process-wide crypto provider (aws-lc-rs). Call it first in `main`; a second call
/// changes nothing.
pub fn install_crypto_provider() {
    // Err means that one is installed already, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// Makes a panic print where it happened and nothing else: its message may quote a prompt.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a fault of ours: this request or task ended");
    }));
}

/// Says on standard error why `program` cannot run, causes and all, and gives the exit code for that: 2, wrong use or
/// cannot run.
pub fn cannot_run(program: &str, error: &dyn Display) -> ExitCode {
    // Nothing can be done if standard error is closed.
    drop(writeln!(std::io::stderr(), "{program}: {error:#}"));
    ExitCode::from(2)
}
