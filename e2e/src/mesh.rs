//! A running `mesh up`: started from the built binary, found by the addresses it prints, ended with
//! this value. Refuses to wait forever for a start.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{self, Output, end, signal};

/// The first start hashes the model; on a slow disk that takes a while.
const START: Duration = Duration::from_mins(2);
const STOP: Duration = Duration::from_secs(20);
const API: &str = "listening on ";
const ADMIN: &str = "admin on ";

/// The environment variable that names the built binary for this crate's tests.
pub const BINARY: &str = "MESH_BINARY";

/// A child process that serves; ended when dropped.
#[derive(Debug)]
pub struct Mesh {
    child: Child,
    output: Output,
    /// `http://127.0.0.1:PORT` of the API.
    pub api: String,
    /// The same of the admin port.
    pub admin: String,
}

/// How a process that should not keep running has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output and standard error, each in order.
    pub output: String,
}

/// The binary under test: `MESH_BINARY`, as set by `cargo xtask test`.
pub fn binary() -> Option<PathBuf> {
    std::env::var_os(BINARY).map(PathBuf::from)
}

fn spawn<S: AsRef<OsStr>>(binary: &Path, args: &[S]) -> Result<(Child, Output)> {
    let mut command = Command::new(binary);
    command
        .args(args)
        .env_remove("MESH_LISTEN")
        .env_remove("MESH_ADMIN_LISTEN")
        .env_remove("MESH_API_KEYS");
    child::spawn(&mut command)
}

/// Runs the binary to its end.
pub fn run<S: AsRef<OsStr>>(binary: &Path, args: &[S]) -> Result<Ended> {
    let (mut child, output) = spawn(binary, args)?;
    let text = output.wait(START, |_| false);
    if child.try_wait()?.is_none() && output.open() {
        end(&mut child);
        bail!("the process did not end by itself; it wrote:\n{text}");
    }
    Ok(Ended {
        status: child.wait()?,
        output: text,
    })
}

impl Mesh {
    /// Starts `mesh up DIR` on free ports and waits until it listens and its models are loaded, or it
    /// says that they cannot be.
    pub fn start(binary: &Path, dir: &Path, more: &[&OsStr]) -> Result<Self> {
        let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut args = vec![OsStr::new("up"), dir.as_os_str()];
        args.extend(ports.map(OsStr::new));
        args.extend_from_slice(more);
        let (mut child, output) = spawn(binary, &args)?;
        let text = output.wait(START, settled);
        let (Some(api), Some(admin)) = (address(&text, API), address(&text, ADMIN)) else {
            end(&mut child);
            bail!("mesh up did not print `{API}http://…` and `{ADMIN}http://…`; it wrote:\n{text}");
        };
        Ok(Self {
            child,
            output,
            api,
            admin,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote so far.
    pub fn written(&self) -> String {
        self.output.text()
    }

    /// Waits for a line that contains `part`.
    pub fn wait_for(&self, part: &str, limit: Duration) -> Result<()> {
        let text = self.output.wait(limit, |text| text.contains(part));
        if !text.contains(part) {
            bail!("`{part}` was not written within {limit:?}; it wrote:\n{text}");
        }
        Ok(())
    }

    /// Ends the process without a warning.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the process to end as Ctrl-C does and gives what it wrote.
    pub fn interrupt(mut self) -> Result<Ended> {
        signal(self.pid(), "INT")?;
        let output = self.output.wait(STOP, |_| false);
        if self.output.open() {
            bail!("the process was still running {STOP:?} after Ctrl-C; it wrote:\n{output}");
        }
        Ok(Ended {
            status: self.child.wait()?,
            output,
        })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Politely first, so that what it holds is released in order.
        if signal(self.pid(), "TERM").is_ok() {
            let deadline = Instant::now() + STOP;
            self.output.wait(deadline - Instant::now(), |_| false);
        }
        end(&mut self.child);
    }
}

/// True once the start is over: a line `ready`, or one that begins with `not ready`.
fn settled(text: &str) -> bool {
    text.lines()
        .any(|line| line == "ready" || line.starts_with("not ready"))
}

/// The URL behind a label on some line.
fn address(text: &str, label: &str) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.contains(&format!("{label}http://")))?;
    let url = line.split(label).nth(1)?.split_whitespace().next()?;
    Some(url.trim_end_matches('/').to_owned())
}

/// Copies a folder of samples, so that a test may edit it.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in
        std::fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))?
    {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_a_line_with_other_words() {
        let text = "warn something\n2026 info listening on http://127.0.0.1:4711/ (any key)\nadmin on http://127.0.0.1:1\n";
        assert_eq!(address(text, API).as_deref(), Some("http://127.0.0.1:4711"));
        assert_eq!(address(text, ADMIN).as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(address("listening on a port\n", API), None);
        assert!(!settled(text) && settled("loaded\nready\n") && settled("not ready: nothing\n"));
    }
}
