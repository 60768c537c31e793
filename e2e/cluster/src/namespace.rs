//! Network and mount namespaces, each kept by a sleeping process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;
use crate::state::State;

/// A pair of namespaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Namespace {
    pub(crate) holder: u32,
}

impl Namespace {
    /// Makes one; `folders` become empty and its own.
    pub(crate) fn create(state: &State, name: &str, folders: &[&str]) -> Result<Self> {
        let child = Command::new("setsid")
            .args([
                "unshare",
                "-n",
                "-m",
                "--propagation",
                "private",
                "sleep",
                "infinity",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not make a namespace: root is needed, and unshare of util-linux")?;
        let holder = child.id();
        std::thread::spawn(move || {
            let mut child = child;
            drop(child.wait());
        });
        state.record(holder, &format!("holder-{name}"))?;
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let theirs = || {
            std::fs::read_link(format!("/proc/{holder}/ns/net"))
                .ok()
                .filter(|ns| *ns != own)
        };
        process::until("a namespace of its own", Duration::from_secs(5), theirs)?;
        let namespace = Self { holder };
        namespace.sh("ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        for folder in folders {
            namespace.sh(&format!(
                "mkdir -p {folder} && mount -t tmpfs tmpfs {folder}"
            ))?;
        }
        Ok(namespace)
    }

    /// A shell line inside.
    pub(crate) fn sh(self, line: &str) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.holder.to_string(),
            "-n",
            "-m",
            "sh",
            "-ec",
            line,
        ]);
        process::run(&mut command)
    }
}

/// A program in the network of a holder, with the files of this process.
pub(crate) fn enter_network(holder: u32, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &holder.to_string(), "-n"]).arg(program);
    command
}
