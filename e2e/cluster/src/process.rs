//! Daemons: started apart from their caller's terminal, logged into files, ended by number.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::state::{State, started};

const STEP: Duration = Duration::from_millis(50);

/// A long-running program of a cluster.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<String>,
    /// Holder of the namespaces it runs in, and whether the mount namespace too.
    pub(crate) inside: Option<(u32, bool)>,
    environment: Vec<(String, String)>,
    pid: Mutex<Option<u32>>,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn new(name: &str, program: &Path, args: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_path_buf(),
            args,
            inside: None,
            environment: Vec::new(),
            pid: Mutex::new(None),
            log: PathBuf::new(),
        }
    }

    pub(crate) fn inside(mut self, holder: u32, mounts: bool) -> Self {
        self.inside = Some((holder, mounts));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn logged(mut self, state: &State) -> Self {
        self.log = state.path(&format!("{}.log", self.name));
        self
    }

    pub(crate) fn start(&self, state: &State) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match self.inside {
            Some((holder, mounts)) => {
                let mut command = Command::new("nsenter");
                command.args(["-t", &holder.to_string(), "-n"]);
                if mounts {
                    command.arg("-m");
                }
                command.arg("setsid");
                command
            }
            None => Command::new("setsid"),
        };
        let child = command
            .arg(&self.program)
            .args(&self.args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", self.name))?;
        let pid = child.id();
        // Whoever ends first, the child must not stay a zombie.
        std::thread::spawn(move || {
            let mut child = child;
            drop(child.wait());
        });
        state.record(pid, &self.name)?;
        *self.lock() = Some(pid);
        Ok(())
    }

    pub(crate) fn kill(&self) -> Result<()> {
        let Some(pid) = self.lock().take() else {
            bail!("{} does not run", self.name);
        };
        let before = started(pid);
        signal(pid, "KILL");
        // A zombie may have threads that still hold its port: gone is who was waited for.
        let folder = PathBuf::from(format!("/proc/{pid}"));
        until("a killed process is gone", Duration::from_secs(10), || {
            let another = started(pid).is_some_and(|since| Some(since) != before);
            (another || !folder.exists()).then_some(())
        })
    }

    /// An error with the end of its log if it has ended.
    pub(crate) fn alive(&self) -> Result<()> {
        let running = self.lock().is_some_and(|pid| started(pid).is_some());
        if running {
            return Ok(());
        }
        bail!(
            "{} has ended; its log ends with:\n{}",
            self.name,
            self.tail()
        );
    }

    pub(crate) fn tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u32>> {
        self.pid
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Sends a signal; a process that is gone already is fine.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    drop(sent);
}

/// Looks until `found` gives something.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut found: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = found() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(STEP);
    }
}

/// Runs a command to its end; a failure is an error with what it wrote.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", command.get_program().display()))?;
    if !done.status.success() {
        let words: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy())
            .collect();
        let said = String::from_utf8_lossy(&done.stderr);
        bail!(
            "{} {} failed: {}",
            command.get_program().display(),
            words.join(" "),
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Every process, by number.
pub(crate) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Ends every process whose cgroup path is `wanted`, except the sandboxes, which do nothing.
pub(crate) fn kill_in_cgroups(wanted: impl Fn(&str) -> bool) -> usize {
    let mut killed = 0;
    for pid in all() {
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            continue;
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if cgroups.lines().any(&wanted) && name.trim() != "pause" {
            signal(pid, "KILL");
            killed += 1;
        }
    }
    killed
}
