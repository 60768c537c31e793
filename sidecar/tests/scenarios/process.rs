//! The sidecar as its own process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::world::World;

pub(crate) struct Process {
    child: Child,
    stderr: BufReader<ChildStderr>,
    pub(crate) address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    pub(crate) fn start(program: &Path, world: &World) -> Self {
        let mut child = Command::new(program)
            .args(world.pod.args(world.gateway.address))
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let address = loop {
            let mut text = String::new();
            assert!(stderr.read_line(&mut text).expect("text") > 0, "it ended");
            let said: Value = serde_json::from_str(&text).expect("JSON");
            if said["message"] == "serving" {
                break said["address"]
                    .as_str()
                    .expect("an address")
                    .parse()
                    .expect("an address");
            }
        };
        Self {
            child,
            stderr,
            address,
        }
    }

    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("kill").success());
    }

    /// Reads what it says to its end, which is that of the process.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let mut rest = String::new();
        drop(std::io::Read::read_to_string(&mut self.stderr, &mut rest));
        self.child.wait().expect("ended")
    }

    /// Memory that it holds, as Linux counts it.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: f64 = kib.expect("a number").parse().expect("a number");
        kib / 1024.0
    }
}
