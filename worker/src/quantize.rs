//! `mesh-worker quantize`: a smaller model file made of a model file, with the digests of both. Refuses
//! mixes of k-quants; the engine that makes the file is the one that serves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use mesh_engine::quantize::{Error, Format, Quantized, TOOL, quantize};
use mesh_runtime::Shutdown;
use serde_json::{Value, json};

use crate::fetch::DISK_FULL;

/// How long the end waits for what runs beside the work.
const GRACE: Duration = Duration::from_secs(2);

/// Settings of `quantize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Quantize {
    /// GGUF file to start from.
    #[arg(long)]
    model: PathBuf,
    /// Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0.
    #[arg(long)]
    to: String,
    /// File to make; it appears when it is whole.
    #[arg(long)]
    out: PathBuf,
    /// File for the result as JSON; in a pod its termination log.
    #[arg(long)]
    result: Option<PathBuf>,
}

/// 0: the file is there. 1: it could not be made. [`DISK_FULL`]: there is no room for it. An error is wrong use.
pub(crate) async fn run(options: Quantize) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    let signals = shutdown.clone();
    shutdown.spawn(async move { signals.on_signal().await });
    let ended = make(&options, &shutdown).await;
    shutdown.finish(GRACE).await;
    let ended = ended?;
    let told = match &ended {
        Ok(made) => done(made, &options.to),
        Err(error) => json!({"error": chain(error), "reason": error.reason()}),
    };
    write(options.result.as_deref(), &told);
    match ended {
        Ok(made) => {
            let (bytes, tensors) = (made.size, made.converted);
            let warning = made.warning.as_deref();
            tracing::info!(sha256 = made.sha256, bytes, tensors, warning, "quantized");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if matches!(error.reason(), "InvalidSpec" | "NotSupportedYet") => {
            Err(error.into())
        }
        Err(error) => {
            tracing::error!(reason = error.reason(), "{}", chain(&error));
            Ok(match error {
                Error::DiskFull { .. } => ExitCode::from(DISK_FULL),
                _ => ExitCode::FAILURE,
            })
        }
    }
}

/// Runs off the async threads; a signal ends it between two pieces.
async fn make(options: &Quantize, shutdown: &Shutdown) -> anyhow::Result<Result<Quantized, Error>> {
    let format: Format = match options.to.parse() {
        Ok(format) => format,
        Err(error) => return Ok(Err(error)),
    };
    let cancel = Arc::new(AtomicBool::new(false));
    let (stop, token) = (Arc::clone(&cancel), shutdown.token.clone());
    shutdown.spawn(async move {
        token.cancelled().await;
        stop.store(true, Ordering::Relaxed);
    });
    let (model, out) = (options.model.clone(), options.out.clone());
    let work = move || {
        let mut told = 0;
        quantize(&model, format, &out, &cancel, &mut |bytes, total| {
            let tenth = bytes.saturating_mul(10) / total.max(1);
            if tenth != told {
                told = tenth;
                tracing::info!(bytes, total, "quantizing");
            }
        })
    };
    tokio::task::spawn_blocking(work)
        .await
        .context("quantizing ended by a fault of ours")
}

fn done(made: &Quantized, to: &str) -> Value {
    let mut told = json!({
        "sha256": made.sha256, "sizeBytes": made.size, "parentSha256": made.parent_sha256,
        "tool": TOOL, "quantization": to,
    });
    if let Some(warning) = &made.warning {
        told["warning"] = json!(warning);
    }
    told
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn write(path: Option<&Path>, told: &Value) {
    if let Some(path) = path
        && let Err(error) = fs::write(path, told.to_string())
    {
        tracing::warn!(%error, "the result could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path, to: &str) -> Quantize {
        Quantize {
            model: folder.join("m.gguf"),
            to: to.to_owned(),
            out: folder.join("m.out.gguf"),
            result: Some(folder.join("result")),
        }
    }

    fn result(folder: &Path) -> Value {
        serde_json::from_slice(&fs::read(folder.join("result")).expect("a result")).expect("JSON")
    }

    /// One tensor of 2 x 32 values and one key: the least that is a file.
    fn smallest() -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        file.extend(
            [
                text("general.name"),
                8_u32.to_le_bytes().to_vec(),
                text("least"),
            ]
            .concat(),
        );
        file.extend([text("a.weight"), 2_u32.to_le_bytes().to_vec()].concat());
        file.extend([32_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat());
        file.extend([&0_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat());
        file.resize(file.len().next_multiple_of(32), 0);
        (0..64_i16).for_each(|i| file.extend(f32::from(i - 32).to_le_bytes()));
        file
    }

    #[tokio::test]
    async fn the_result_holds_the_digests_of_both_files() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("m.gguf"), smallest()).expect("written");
        run(options(folder.path(), "Q8_0"))
            .await
            .expect("used right");
        let told = result(folder.path());
        let out = fs::read(folder.path().join("m.out.gguf")).expect("made");
        assert_eq!(told["sha256"], mesh_models::Digest::of(&out).to_string());
        assert_eq!(told["sizeBytes"], out.len());
        let parent = mesh_models::Digest::of(&smallest()).to_string();
        assert_eq!(told["parentSha256"], parent.as_str());
        assert_eq!(told["quantization"], "Q8_0");
        assert!(
            told["tool"]
                .as_str()
                .is_some_and(|tool| tool.contains("candle"))
        );
    }

    #[tokio::test]
    async fn what_cannot_be_made_is_told_and_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("m.gguf"), "not a model at all").expect("written");
        let refused = run(options(folder.path(), "Q4_K_M"))
            .await
            .expect_err("refused");
        assert!(
            refused
                .to_string()
                .contains("not supported yet: quantizing to Q4_K_M"),
            "{refused}"
        );
        assert_eq!(result(folder.path())["reason"], "NotSupportedYet");
        let code = run(options(folder.path(), "Q4_0"))
            .await
            .expect("used right");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(result(folder.path())["reason"], "NotGguf");
        assert!(!folder.path().join("m.out.gguf").exists());
    }
}
