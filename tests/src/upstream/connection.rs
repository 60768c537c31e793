//! Connections of a scripted upstream: counted, recorded byte by byte, and breakable from outside.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::record::Record;

/// Accepts connections.
pub(super) struct Connections {
    listener: TcpListener,
    record: Record,
    stop: CancellationToken,
}

impl Connections {
    pub(super) const fn new(
        listener: TcpListener,
        record: Record,
        stop: CancellationToken,
    ) -> Self {
        Self {
            listener,
            record,
            stop,
        }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Tokens must leave as they come; without it the kernel would hold them back.
        let _small_writes_at_once = stream.set_nodelay(true).is_ok();
        let break_off = self.stop.child_token();
        let connection = Connection {
            stream,
            seen: self.record.connection(),
            broken: Box::pin(break_off.clone().cancelled_owned()),
            break_off,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    /// What came in; `None` = not kept.
    seen: Option<Arc<Mutex<Vec<u8>>>>,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
    break_off: CancellationToken,
}

/// The handler's grip on its connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    break_off: CancellationToken,
}

impl Peer {
    /// Breaks the connection: nothing more is sent.
    pub(super) fn break_off(&self) {
        self.break_off.cancel();
    }
}

impl Connected<IncomingStream<'_, Connections>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        Self {
            break_off: stream.io().break_off.clone(),
        }
    }
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let (Poll::Ready(Ok(())), Some(seen)) = (&read, &self.seen) {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
