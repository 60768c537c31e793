//! What can be done to a cluster that was started here: its daemons, pods and links end and come back.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Daemon};
use crate::{Cluster, sweep};

/// Length of a uid in its text form (RFC 9562).
const UID: usize = 36;

impl Cluster {
    /// Ends a daemon as a crash would: `kill -9`. `etcd`, `kube-apiserver`, `kubelet-n1`, `containerd-n1`, ….
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn kill(&self, daemon: &str) -> Result<()> {
        self.daemon(daemon)?.kill()
    }

    /// Starts a daemon again on its data.
    ///
    /// # Errors
    /// If there is none of that name, or it does not start.
    pub fn restart(&self, daemon: &str) -> Result<()> {
        self.daemon(daemon)?.start(&self.state)
    }

    fn daemon(&self, name: &str) -> Result<&Daemon> {
        let own = self.own()?;
        let nodes = own.nodes.iter().flat_map(|node| &node.daemons);
        let found = own
            .plane
            .daemons
            .iter()
            .chain(nodes)
            .find(|daemon| daemon.name == name);
        found.with_context(|| format!("there is no daemon {name}"))
    }

    /// `kill -9` for every process of a pod but its sandbox; gives how many there were.
    ///
    /// # Errors
    /// If this is no uid, or the cluster was not started here.
    pub fn kill_pod(&self, uid: &str) -> Result<usize> {
        self.own()?;
        ensure!(uid.len() == UID, "{uid} is not the uid of a pod");
        let ours = format!("/{}", sweep::prefix(&self.state.name));
        let plain = uid.replace('-', "_");
        Ok(process::kill_in_cgroups(|path| {
            path.contains(&ours) && (path.contains(uid) || path.contains(&plain))
        }))
    }

    /// Puts a file system of so many mebibytes at a folder, as nodes see it; another number makes it larger or smaller.
    /// It goes with the nodes, or by [`Cluster::take_disk`].
    ///
    /// # Errors
    /// If it cannot be mounted, or the cluster was not started here.
    pub fn put_disk(&self, folder: &Path, mebibytes: u32) -> Result<()> {
        let (folder, size) = (folder.display(), format!("size={mebibytes}m"));
        self.shell(&format!(
            "if mountpoint -q {folder}; then mount -o remount,{size} {folder}; else mount -t tmpfs -o {size},mode=0777 tmpfs {folder}; fi"
        ))
    }

    /// Takes it away again, with what is on it.
    ///
    /// # Errors
    /// If there is none, it is in use, or the cluster was not started here.
    pub fn take_disk(&self, folder: &Path) -> Result<()> {
        self.shell(&format!("umount {}", folder.display()))
    }

    /// A path of a node as this machine reaches it.
    ///
    /// # Errors
    /// If there is no such node, or the cluster was not started here.
    pub fn on_node(&self, number: u8, path: &Path) -> Result<PathBuf> {
        let name = format!("n{number}");
        let node = self.own()?.nodes.iter().find(|node| node.name() == name);
        let node = node.with_context(|| format!("there is no node {name}"))?;
        let inside = format!("/proc/{}/root", node.namespace.holder);
        Ok(Path::new(&inside).join(path.strip_prefix("/")?))
    }

    fn shell(&self, line: &str) -> Result<()> {
        let nodes = &self.own()?.nodes;
        let mut each = nodes.iter().map(|node| node.namespace.sh(line));
        each.try_for_each(|said| said.map(drop))
    }

    /// Cuts the link of a node.
    ///
    /// # Errors
    /// If `ip` fails, or the cluster was not started here.
    pub fn cut(&self, node: u8) -> Result<()> {
        self.own()?.plane.link(node, false)
    }

    /// Heals the link of a node.
    ///
    /// # Errors
    /// If `ip` fails, or the cluster was not started here.
    pub fn heal(&self, node: u8) -> Result<()> {
        self.own()?.plane.link(node, true)
    }
}
