//! A scripted proxy: passes on what it is asked to by CONNECT, or refuses, and keeps what it was asked and every byte that went up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest head of a CONNECT that is read.
const HEAD: usize = 16 << 10;

/// What a proxy does with a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Passes on.
    Go,
    /// Answers this status.
    Status(u16),
    /// Hangs up without a word.
    Nothing,
    /// Says nothing, and holds on.
    Silence,
    /// Begins an answer whose head has no end.
    Endless,
}

/// A scripted proxy. Stops, and cuts its connections, when dropped.
#[derive(Debug)]
pub struct ScriptedProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    says: Mutex<Says>,
    heads: Mutex<Vec<String>>,
    up: Mutex<Vec<u8>>,
}

impl ScriptedProxy {
    /// Starts one that passes everything on to `to`, whatever name it is asked for: so a test may use names that nobody else knows.
    ///
    /// # Errors
    /// If no loopback port can be had.
    pub async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("could not open a loopback port")?;
        let proxy = Self {
            address: listener.local_addr()?,
            shared: Arc::new(Shared {
                to,
                says: Mutex::new(Says::Go),
                heads: Mutex::default(),
                up: Mutex::default(),
            }),
            stop: CancellationToken::new(),
        };
        let (shared, stop, tasks) = (
            Arc::clone(&proxy.shared),
            proxy.stop.clone(),
            TaskTracker::new(),
        );
        let each = tasks.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let work = async move {
                    // A caller who leaves is no fault of the proxy.
                    let _whole = shared.serve(stream).await.is_ok();
                };
                each.spawn(stop.clone().run_until_cancelled_owned(work));
            }
        }));
        Ok(proxy)
    }

    /// Its address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a backend declares it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it does from now on.
    pub fn says(&self, says: Says) {
        *held(&self.shared.says) = says;
    }

    /// The heads of everything that it was asked, in order of arrival.
    pub fn heads(&self) -> Vec<String> {
        held(&self.shared.heads).clone()
    }

    /// Whether this text went up through it, or was said to it, in plain.
    pub fn saw(&self, text: &str) -> bool {
        let up = held(&self.shared.up);
        let passed = up.windows(text.len()).any(|part| part == text.as_bytes());
        passed || self.heads().iter().any(|head| head.contains(text))
    }

    /// Bytes that went up through it.
    pub fn passed(&self) -> usize {
        held(&self.shared.up).len()
    }
}

impl Drop for ScriptedProxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn held<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    async fn serve(&self, mut near: TcpStream) -> std::io::Result<()> {
        let head = head(&mut near).await?;
        held(&self.heads).push(head);
        let says = *held(&self.says);
        match says {
            Says::Nothing => return Ok(()),
            Says::Status(status) => {
                let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n");
                return near.write_all(answer.as_bytes()).await;
            }
            Says::Silence => return std::future::pending().await,
            Says::Endless => return endless(&mut near).await,
            Says::Go => {}
        }
        let mut far = TcpStream::connect(self.to).await?;
        near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
        let (near_in, near_out) = near.split();
        let (far_in, far_out) = far.split();
        let up = pass(near_in, far_out, Some(&self.up));
        let down = pass(far_in, near_out, None);
        tokio::try_join!(up, down)?;
        Ok(())
    }
}

async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Until whoever asked has had enough.
async fn endless(stream: &mut TcpStream) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 Connection established\r\nx-more: ")
        .await?;
    loop {
        stream.write_all(b"of the same, ").await?;
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    kept: Option<&Mutex<Vec<u8>>>,
) -> std::io::Result<()> {
    let mut piece = [0; 4096];
    loop {
        let size = from.read(&mut piece).await?;
        if size == 0 {
            return to.shutdown().await;
        }
        if let Some(kept) = kept {
            held(kept).extend_from_slice(&piece[..size]);
        }
        to.write_all(&piece[..size]).await?;
    }
}
