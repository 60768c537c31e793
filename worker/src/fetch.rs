//! `mesh-worker fetch`: puts a model's files where `serve` finds them, proven by their digests. Runs
//! before the worker in its pod, so that the parser of a model never sees bytes that nobody proved.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use mesh_models::{ArtifactSpec, CacheSpec, Resolved, Resolver, Settings, SourceSpec, Store};
use mesh_runtime::Shutdown;
use serde::Deserialize;
use serde_json::{Value, json};

/// Kubernetes keeps no longer last words of a container (`pkg/kubelet`: 4096 bytes).
const LONGEST_RESULT: usize = 4096;
/// The store, beside the files that lead into it.
const STORE: &str = ".store";

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
    /// File for the result as JSON; in a pod its termination log.
    #[arg(long)]
    result: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    artifacts: Vec<Artifact>,
    sources: Vec<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    path: String,
    sha256: Option<String>,
}

pub(crate) async fn run(options: Fetch) -> anyhow::Result<()> {
    let spec = spec(&options)?;
    let store = Store::open(options.into.join(STORE))
        .with_context(|| format!("could not use the folder {}", options.into.display()))?;
    let resolver = Resolver::new(store, Settings::default());
    let shutdown = Shutdown::new();
    let signals = shutdown.clone();
    shutdown.spawn(async move { signals.on_signal().await });
    let said = std::sync::atomic::AtomicU64::new(0);
    let progress = |progress: &mesh_models::Progress| {
        // A line for every quarter, not for every block.
        let done = progress
            .bytes_total
            .map_or(0, |total| progress.bytes_done * 4 / total.max(1));
        if said.swap(done, std::sync::atomic::Ordering::Relaxed) != done {
            tracing::info!(
                artifact = progress.artifact,
                source = progress.source,
                bytes = progress.bytes_done,
                total = progress.bytes_total,
                "fetching"
            );
        }
    };
    let found = resolver.resolve(&spec, &shutdown.token, &progress).await?;
    for file in &found {
        place(&options.into, file)?;
        tracing::info!(
            artifact = file.artifact,
            source = file.source,
            bytes = file.size,
            "verified"
        );
    }
    if let Some(path) = &options.result {
        write_result(path, &found);
    }
    Ok(())
}

fn spec(options: &Fetch) -> anyhow::Result<CacheSpec> {
    let wanted: Wanted =
        serde_json::from_str(&options.spec).context("--spec is not what fetch understands")?;
    let artifact = |artifact: &Artifact| -> anyhow::Result<ArtifactSpec> {
        Ok(ArtifactSpec {
            path: artifact.path.parse()?,
            sha256: artifact.sha256.as_deref().map(str::parse).transpose()?,
        })
    };
    Ok(CacheSpec {
        name: String::from("model"),
        artifacts: wanted
            .artifacts
            .iter()
            .map(artifact)
            .collect::<anyhow::Result<_>>()?,
        sources: wanted
            .sources
            .iter()
            .map(|entry| source(entry, &options.builtin))
            .collect::<anyhow::Result<_>>()?,
    })
}

fn source(entry: &BTreeMap<String, Value>, builtin: &Path) -> anyhow::Result<SourceSpec> {
    let Some((kind, value)) = entry.iter().find(|(_, value)| !value.is_null()) else {
        bail!("a source is empty");
    };
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Ok(match kind.as_str() {
        "builtin" => SourceSpec::File {
            path: builtin.to_path_buf(),
        },
        "http" => SourceSpec::Http {
            url: text("url").context("an http source has no url")?,
        },
        "huggingFace" => SourceSpec::HuggingFace {
            repo: text("repo").context("a huggingFace source has no repo")?,
            revision: text("revision").unwrap_or_else(|| String::from("main")),
            endpoint: text("endpoint"),
        },
        other => bail!("not supported yet: source {other}"),
    })
}

/// Makes the artifact appear under its own path.
fn place(into: &Path, file: &Resolved) -> anyhow::Result<()> {
    let link = into.join(&file.artifact);
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(&file.path, &link)
        .with_context(|| format!("could not place {}", link.display()))
}

fn write_result(path: &Path, found: &[Resolved]) {
    let artifacts: Vec<Value> = found
        .iter()
        .map(|file| {
            json!({"path": file.artifact, "sha256": file.sha256.to_string(), "sizeBytes": file.size,
                "source": file.source, "verifiedAt": file.verified_at.to_string()})
        })
        .collect();
    let mut text = json!({"artifacts": artifacts}).to_string();
    if text.len() > LONGEST_RESULT {
        text = json!({"artifacts": [], "more": found.len()}).to_string();
    }
    if let Err(error) = fs::write(path, text) {
        tracing::warn!(%error, "the result could not be written");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Fetch, run};

    fn options(folder: &std::path::Path, sha256: &str) -> Fetch {
        Fetch {
            spec: format!(
                r#"{{"artifacts": [{{"path": "deep/m.bin", "sha256": "{sha256}"}}], "sources": [{{"builtin": {{}}}}]}}"#
            ),
            into: folder.join("models"),
            builtin: folder.join("builtin"),
            result: Some(folder.join("result")),
        }
    }

    #[tokio::test]
    async fn a_builtin_file_appears_under_its_path_and_only_if_it_is_the_right_one() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("builtin/deep")).expect("made");
        fs::write(folder.path().join("builtin/deep/m.bin"), "weights").expect("written");
        let right = mesh_models::Digest::of(b"weights").to_string();
        run(options(folder.path(), &right)).await.expect("fetched");
        assert_eq!(
            fs::read(folder.path().join("models/deep/m.bin")).expect("there"),
            b"weights"
        );
        assert!(
            fs::read_to_string(folder.path().join("result"))
                .expect("a result")
                .contains(&right)
        );

        let other = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(other.path().join("builtin/deep")).expect("made");
        fs::write(other.path().join("builtin/deep/m.bin"), "weights!").expect("written");
        let refused = run(options(other.path(), &right))
            .await
            .expect_err("refused");
        assert!(format!("{refused:#}").contains("deep/m.bin"), "{refused:#}");
        assert!(!other.path().join("models/deep/m.bin").exists());
    }

    #[tokio::test]
    async fn a_source_that_comes_later_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = options(folder.path(), &"0".repeat(64));
        options.spec = options.spec.replace("builtin", "s3");
        let refused = run(options).await.expect_err("refused");
        assert!(
            refused.to_string().contains("not supported yet: source s3"),
            "{refused}"
        );
    }
}
