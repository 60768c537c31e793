//! The log subscriber. Messages are lower-case fragments, values are fields; no text of a request
//! is ever a field, so no filter or format setting can print one.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For a person; colored on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The filter is not understood.
#[derive(Debug, thiserror::Error)]
#[error("the log filter is not understood: use for example `info` or `mesh_dataplane=debug,warn`")]
pub struct Error {
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Installs the subscriber, writing to standard error. `filter` has the syntax of
/// `tracing_subscriber::EnvFilter`.
///
/// # Errors
/// If the filter cannot be read.
pub fn install(filter: &str, format: Format) -> Result<(), Error> {
    let filter = EnvFilter::try_new(filter).map_err(|source| Error { source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_span_events(FmtSpan::NONE);
    // An error means that a subscriber is there already (tests): keep it.
    let installed = match format {
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(installed);
    Ok(())
}
