//! Files that are written by code and committed: the manifests of the kinds and the reference pages.
//! Refuses to touch anything it does not itself write.

#[cfg(feature = "gen")]
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::context::Context;

/// Without the product crates: build this program again with them and let that do it.
#[cfg(not(feature = "gen"))]
pub(crate) fn run(context: &Context, check: bool) -> Result<bool> {
    let mut cargo = context.shared_cargo();
    cargo.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "xtask",
        "--features",
        "gen",
        "--",
        "gen",
    ]);
    if check {
        cargo.arg("--check");
    }
    crate::process::succeeds(&mut cargo)
}

/// Writes every generated file, or with `check` says which would change. False on drift.
#[cfg(feature = "gen")]
pub(crate) fn run(context: &Context, check: bool) -> Result<bool> {
    let mut current = true;
    for (path, text) in files()? {
        let there = std::fs::read_to_string(context.root.join(&path)).ok();
        if there.as_deref() == Some(text.as_str()) {
            continue;
        }
        if check {
            println!(
                "{} is not what the code generates; run `cargo xtask gen`",
                path.display()
            );
            current = false;
        } else {
            write(&context.root.join(&path), &text)?;
            println!("wrote {}", path.display());
        }
    }
    Ok(current)
}

/// Paths in the checkout and what they must contain.
#[cfg(feature = "gen")]
fn files() -> Result<Vec<(PathBuf, String)>> {
    let into = |folder: &'static str| {
        move |(name, text): (String, String)| (Path::new(folder).join(name), text)
    };
    Ok(mesh_crds::manifests()?
        .into_iter()
        .map(into("crds/manifests"))
        .collect())
}

#[cfg(feature = "gen")]
fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, text)?)
}
