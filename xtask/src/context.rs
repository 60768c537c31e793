//! Where things are: the checkout, the cache outside it, the target folder; and how strict to be.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// About three times what one cold run leaves.
const SHARED_TARGET_BYTES: u64 = 24 << 30;

/// The surroundings of one run.
#[derive(Debug)]
pub(crate) struct Context {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// `$HOME/.cache/inference-mesh`: survives checkouts.
    pub(crate) cache: PathBuf,
    /// True with `CI=true`: what cannot run is a failure.
    pub(crate) ci: bool,
    cargo: PathBuf,
}

impl Context {
    pub(crate) fn new() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .parent()
            .context("xtask lies in the checkout")?
            .to_path_buf();
        let Some(home) = std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) else {
            bail!("no home folder is known: set HOME");
        };
        let ci = std::env::var("CI").is_ok_and(|value| matches!(value.as_str(), "true" | "1"));
        let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        Ok(Self {
            root,
            cache: home.join(".cache/inference-mesh"),
            ci,
            cargo,
        })
    }

    /// cargo in the checkout.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root);
        // What `cargo xtask` sets for this process must not leak into what it builds.
        for (name, _) in std::env::vars_os() {
            let ours = name.to_string_lossy();
            if ours.starts_with("CARGO_PKG_")
                || ours.starts_with("CARGO_MANIFEST")
                || ours == "CARGO_PRIMARY_PACKAGE"
            {
                command.env_remove(&name);
            }
        }
        command
    }

    /// cargo with a target folder outside the checkout, so that a fresh clone builds warm.
    pub(crate) fn shared_cargo(&self) -> Command {
        let mut command = self.cargo();
        if std::env::var_os("CARGO_TARGET_DIR").is_none() {
            command.env("CARGO_TARGET_DIR", self.shared_target());
        }
        if self.ci {
            command
                .env("CARGO_INCREMENTAL", "0")
                .env("CARGO_TERM_COLOR", "never");
        }
        command
    }

    fn shared_target(&self) -> PathBuf {
        self.cache.join("target")
    }

    /// Empties the shared target folder when it has grown too large: every checkout leaves builds of
    /// its own crates there, and cargo never removes any.
    pub(crate) fn trim_shared_target(&self) -> Result<()> {
        let folder = self.shared_target();
        let size = size_of(&folder)?;
        if size > SHARED_TARGET_BYTES {
            println!(
                "{} holds {} GiB and is emptied",
                folder.display(),
                size >> 30
            );
            std::fs::remove_dir_all(&folder)?;
        }
        Ok(())
    }

    /// Runs cargo's own build of the product and gives the binary.
    pub(crate) fn build_release(&self, mut cargo: Command) -> Result<PathBuf> {
        let target = target_dir(&cargo, &self.root);
        cargo.args(["build", "--release", "--locked", "-p", "mesh"]);
        crate::process::run(&mut cargo)?;
        Ok(target.join("release/mesh"))
    }

    /// Where `cargo test` leaves the binary of a package that has integration tests.
    pub(crate) fn tested_binary(&self, name: &str) -> PathBuf {
        target_dir(&self.shared_cargo(), &self.root)
            .join("debug")
            .join(name)
    }

    /// The product as the tests build it.
    pub(crate) fn release_binary(&self) -> Result<PathBuf> {
        self.build_release(self.shared_cargo())
    }
}

/// Bytes of all files in a folder; 0 if there is none. Links are not followed.
fn size_of(folder: &Path) -> Result<u64> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(0);
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        // A file that another build removes meanwhile takes no room.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += if metadata.is_dir() {
            size_of(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

/// The target folder that a prepared cargo will use.
fn target_dir(cargo: &Command, root: &Path) -> PathBuf {
    let set = cargo
        .get_envs()
        .find(|(name, _)| *name == "CARGO_TARGET_DIR")
        .and_then(|(_, value)| value.map(PathBuf::from));
    let folder = set.or_else(|| std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    root.join(folder.unwrap_or_else(|| PathBuf::from("target")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_folder_is_that_of_all_files_below() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("a"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("deep/b"), [0; 5]).unwrap();
        assert_eq!(size_of(folder.path()).unwrap(), 15);
        assert_eq!(size_of(&folder.path().join("absent")).unwrap(), 0);
    }

    #[test]
    fn a_target_folder_that_is_set_wins() {
        let mut cargo = Command::new("cargo");
        cargo.env("CARGO_TARGET_DIR", "/elsewhere");
        assert_eq!(
            target_dir(&cargo, Path::new("/checkout")),
            Path::new("/elsewhere")
        );
    }
}
