//! The folder of a cluster: what was started, by process id and start time, so that it can be ended by
//! somebody who did not start it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{Options, sweep, tool};

/// One line of the file `processes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) pid: u32,
    /// Field 22 of `/proc/PID/stat`: tells a process from a later one of the same number.
    pub(crate) started: u64,
    pub(crate) name: String,
}

/// The folder of one cluster.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) folder: PathBuf,
    pub(crate) name: String,
}

/// Whoever makes or sweeps a cluster's folder has this lock: a name may have a new owner at any moment.
pub(crate) const TURN: &str = "clusters.lock";

/// Waits until nobody else on this machine has the lock of that name; holds it as long as the value lives.
pub(crate) fn lock(name: &str) -> Result<File> {
    let cache = tool::cache()?;
    fs::create_dir_all(&cache)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(cache.join(name))?;
    file.lock()
        .with_context(|| format!("could not lock {name}"))?;
    Ok(file)
}

/// Where all clusters are kept.
pub(crate) fn root() -> Result<PathBuf> {
    Ok(tool::cache()?.join("clusters"))
}

/// The folder of the cluster of that name.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    ensure!(
        !name.is_empty() && name.len() <= 12 && name.chars().all(plain),
        "a cluster's name has 1 to 12 lower-case letters and digits, not {name}"
    );
    Ok(root()?.join(name))
}

pub(crate) fn names() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(root()?) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // A hidden one is just being made.
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl State {
    pub(crate) fn create(options: &Options) -> Result<Self> {
        let folder = folder(&options.name)?;
        let _turn = lock(TURN)?;
        if folder.exists() {
            if !sweep::dead_owner(&folder) {
                bail!(
                    "a cluster {} runs already: `cargo xtask cluster down --name {}` ends it",
                    options.name,
                    options.name
                );
            }
            sweep::sweep(&folder)?;
        }
        // The folder appears with its owner in it: one without counts as abandoned, and other clusters
        // may start at this moment.
        let pid = std::process::id();
        let root = root()?;
        let hidden = root.join(format!(".{}-{pid}", options.name));
        fs::create_dir_all(&hidden)
            .with_context(|| format!("could not create {}", hidden.display()))?;
        let owner = format!("{pid} {}", started(pid).unwrap_or_default());
        fs::write(hidden.join("owner"), owner)?;
        fs::rename(&hidden, &folder)?;
        Ok(Self {
            folder,
            name: options.name.clone(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// From now on it lives as long as anything of it does.
    pub(crate) fn detach(&self) -> Result<()> {
        Ok(fs::write(self.path("owner"), "detached")?)
    }

    /// Notes a process before anything can go wrong with it.
    pub(crate) fn record(&self, pid: u32, name: &str) -> Result<()> {
        let started = started(pid).with_context(|| format!("{name} ended at once"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("processes"))?;
        writeln!(file, "{pid} {started} {name}")?;
        Ok(())
    }
}

/// All processes of a cluster that were noted.
pub(crate) fn recorded(folder: &Path) -> Vec<Recorded> {
    let text = fs::read_to_string(folder.join("processes")).unwrap_or_default();
    let read = |line: &str| {
        let mut words = line.split(' ');
        Some(Recorded {
            pid: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    };
    text.lines().filter_map(read).collect()
}

/// The process that holds a namespace, if it lives.
pub(crate) fn holder(folder: &Path, name: &str) -> Option<u32> {
    let wanted = format!("holder-{name}");
    recorded(folder)
        .into_iter()
        .find(|process| process.name == wanted && started(process.pid) == Some(process.started))
        .map(|process| process.pid)
}

/// When a process started, in clock ticks after boot; none if there is no such process.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces.
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
