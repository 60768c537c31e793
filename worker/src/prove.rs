//! `mesh-worker prove`: hashes files that somebody else put into a volume, before a worker reads them. It
//! writes nothing and fetches nothing: what is not as it should be keeps the pod from starting, with words.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use mesh_core::hex;
use mesh_models::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// Settings of `prove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prove {
    /// What must be there, as JSON: `artifacts` with `path` and `sha256`.
    #[arg(long = "spec", env = "MESH_PROVE")]
    spec: String,
    /// Folder with the files.
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    path: String,
    sha256: String,
}

pub(crate) fn run(options: &Prove) -> anyhow::Result<()> {
    let wanted: Wanted =
        serde_json::from_str(&options.spec).context("--spec is not what prove understands")?;
    ensure!(!wanted.artifacts.is_empty(), "--spec names no artifact");
    for artifact in &wanted.artifacts {
        prove(&options.folder, artifact)?;
        tracing::info!(artifact = artifact.path, "proven");
    }
    Ok(())
}

fn prove(folder: &Path, artifact: &Artifact) -> anyhow::Result<()> {
    let path = Path::new(&artifact.path);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    ensure!(
        inside,
        "artifact path {} is not a plain relative path",
        artifact.path
    );
    let wanted: Digest = artifact.sha256.parse()?;
    let found = hash(&folder.join(path))
        .with_context(|| format!("could not read {} in the volume", artifact.path))?;
    if found != wanted.to_string() {
        bail!(
            "DigestMismatch: {} in the volume hashes to {found}, not to {wanted}: it was changed after it was fetched; delete the fetch Job of its ModelCache to have it fetched anew",
            artifact.path
        );
    }
    Ok(())
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        hasher.update(&block[..read]);
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mesh_models::Digest;

    use super::{Prove, run};

    #[expect(
        clippy::unwrap_in_result,
        reason = "a folder that cannot be made ends the test"
    )]
    fn proved(path: &str, written: &str, wanted: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("deep")).expect("made");
        fs::write(folder.path().join("deep/m.bin"), written).expect("written");
        let sha256 = Digest::of(wanted.as_bytes());
        let spec = format!(r#"{{"artifacts": [{{"path": "{path}", "sha256": "{sha256}"}}]}}"#);
        let folder = folder.path().to_path_buf();
        run(&Prove { spec, folder }).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_file_is_proven_by_every_byte_of_it() {
        proved("deep/m.bin", "weights", "weights").expect("proven");
        let refused = proved("deep/m.bin", "weights!", "weights").expect_err("refused");
        assert!(
            refused.starts_with("DigestMismatch: deep/m.bin"),
            "{refused}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_and_a_path_that_leads_away_are_refused() {
        let absent = proved("m.bin", "weights", "weights").expect_err("refused");
        assert!(absent.contains("could not read m.bin"), "{absent}");
        for path in ["../m.bin", "/etc/passwd", "deep/../../m.bin"] {
            let refused = proved(path, "weights", "weights").expect_err("refused");
            assert!(refused.contains("plain relative path"), "{refused}");
        }
    }

    #[test]
    fn an_order_that_names_nothing_proves_nothing() {
        let refused = run(&Prove {
            spec: String::from(r#"{"artifacts": []}"#),
            folder: "/".into(),
        });
        assert!(refused.is_err());
    }
}
