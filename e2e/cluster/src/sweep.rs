//! Ends what a cluster started, also after a crash of whoever started it. Knows its own by the process
//! numbers and start times that were noted, by the mount namespaces of its nodes, and by the cgroups
//! named after it. Refuses to touch anything else.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{all, signal};
use crate::state::{self, recorded, started};

const ROUNDS: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);
const CGROUPS: &str = "/sys/fs/cgroup";

/// What the names of a cluster's cgroups begin with.
pub(crate) fn prefix(cluster: &str) -> String {
    format!("mesh-{cluster}-")
}

/// Name of the cgroup below which a node's pods are.
pub(crate) fn cgroup(cluster: &str, node: u8) -> String {
    format!("{}n{node}", prefix(cluster))
}

/// Ends all clusters whose owner died without ending them.
///
/// # Errors
/// If something of one cannot be ended.
pub fn abandoned() -> Result<()> {
    let _turn = state::lock(state::TURN)?;
    for name in state::names()? {
        let folder = state::root()?.join(&name);
        if dead_owner(&folder) {
            sweep(&folder)?;
        }
    }
    Ok(())
}

/// True if the process that a cluster belongs to is gone.
pub(crate) fn dead_owner(folder: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(folder.join("owner")) else {
        return true;
    };
    if owner.trim() == "detached" {
        // It lives as long as anything of it does.
        return recorded(folder)
            .iter()
            .all(|process| started(process.pid) != Some(process.started));
    }
    let mut words = owner.split(' ').map(|word| word.trim().parse::<u64>().ok());
    let (Some(Some(pid)), Some(Some(since))) = (words.next(), words.next()) else {
        return true;
    };
    u32::try_from(pid).ok().and_then(started) != Some(since)
}

/// Ends everything of one cluster and removes its folder.
///
/// # Errors
/// If processes survive, or the folder cannot be removed.
pub fn sweep(folder: &Path) -> Result<()> {
    let name = folder
        .file_name()
        .context("a cluster's folder has a name")?
        .to_string_lossy()
        .into_owned();
    let prefix = prefix(&name);
    let namespaces = mount_namespaces(folder);
    for round in 0..ROUNDS {
        let left = survivors(folder, &namespaces, &prefix);
        if left.is_empty() {
            break;
        }
        if round + 1 == ROUNDS {
            bail!("processes of cluster {name} cannot be ended: {left:?}");
        }
        for pid in &left {
            signal(*pid, "KILL");
        }
        std::thread::sleep(PAUSE);
    }
    for folder in cgroups(&prefix) {
        remove_cgroup(&folder);
    }
    match fs::remove_dir_all(folder) {
        // Somebody else ended it too.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("could not remove {}", folder.display())),
    }
}

/// Mount namespaces of the holders, as `mnt:[…]`; our own is never one of them.
fn mount_namespaces(folder: &Path) -> BTreeSet<PathBuf> {
    let own = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let holders = recorded(folder).into_iter().filter(|process| {
        process.name.starts_with("holder-") && started(process.pid) == Some(process.started)
    });
    let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    holders
        .filter_map(|process| namespace(process.pid))
        .filter(|found| *found != own)
        .collect()
}

fn survivors(folder: &Path, namespaces: &BTreeSet<PathBuf>, prefix: &str) -> BTreeSet<u32> {
    let mut left: BTreeSet<u32> = recorded(folder)
        .into_iter()
        .filter(|process| started(process.pid) == Some(process.started))
        .map(|process| process.pid)
        .collect();
    let state = format!("{}/", folder.display());
    for pid in all() {
        let inside = fs::read_link(format!("/proc/{pid}/ns/mnt"))
            .is_ok_and(|found| namespaces.contains(&found));
        let grouped = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|text| text.contains(&format!("/{prefix}")));
        // A shim whose holder died first: its arguments name our folder.
        let shim = || {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            command.contains("containerd-shim") && command.contains(&state)
        };
        if (inside || grouped || shim()) && started(pid).is_some() {
            left.insert(pid);
        }
    }
    left
}

/// Our folders in every hierarchy.
fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from(CGROUPS)];
    roots.extend(
        fs::read_dir(CGROUPS)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    let ours = |root: PathBuf| {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
    };
    roots.into_iter().flat_map(ours).collect()
}

/// Depth first: a cgroup with children cannot be removed.
fn remove_cgroup(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    drop(fs::remove_dir(folder));
}
