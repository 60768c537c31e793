//! Reading an audit wherever it is, as one stream of lines.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::{Buf, Bytes};
use mesh_ledger::log::{Segments, segments};
use tokio::sync::mpsc::{Receiver, channel};

use super::Place;
use crate::catalog;
use crate::cluster::Cluster;

/// Pieces that wait to be read.
const AHEAD: usize = 16;

/// A log that is read.
pub(super) type Text = Box<dyn Read + Send>;

/// Has `work` read the log. It may block.
pub(super) async fn read<T: Send + 'static>(
    place: &Place,
    work: impl FnOnce(Text) -> T + Send + 'static,
) -> anyhow::Result<T> {
    if place.cluster {
        let cluster = Cluster::connect(place.context.as_deref()).await?;
        return from_far(&cluster, &place.mesh_namespace, work).await;
    }
    let text = near(place)?;
    Ok(tokio::task::spawn_blocking(move || work(text)).await?)
}

fn near(place: &Place) -> anyhow::Result<Text> {
    match &place.path {
        Some(path) if path.as_os_str() == "-" => Ok(Box::new(io::stdin())),
        Some(path) => file_or_folder(path),
        None => {
            let folder = catalog::audit_dir(&place.audit);
            let folder = folder.context("nobody has a home directory: name a folder")?;
            file_or_folder(&folder)
        }
    }
}

fn file_or_folder(path: &Path) -> anyhow::Result<Text> {
    let unread = || format!("{} cannot be read", path.display());
    if !path.is_dir() {
        let file = File::open(path).with_context(unread)?;
        return Ok(Box::new(file));
    }
    let files = segments(path).with_context(unread)?;
    if files.is_empty() {
        bail!(
            "there is no audit in {}: it begins when a policy asks for one (spec.audit)",
            path.display()
        );
    }
    Ok(Box::new(Segments::new(files)))
}

async fn from_far<T: Send + 'static>(
    cluster: &Cluster,
    namespace: &str,
    work: impl FnOnce(Text) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = channel(AHEAD);
    let feed = Feed {
        receiver,
        piece: Bytes::new(),
    };
    let working = tokio::task::spawn_blocking(move || work(Box::new(feed)));
    let (sent, done) = tokio::join!(cluster.read_log(namespace, sender), working);
    sent?;
    Ok(done?)
}

/// Pieces that come from elsewhere, as one text.
struct Feed {
    receiver: Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
