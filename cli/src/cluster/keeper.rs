//! Reading the log of a cluster's ledger, through the API server. No port of this machine is opened for it: everybody here
//! could read the audit meanwhile.

use std::io;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::Sender;

use super::Cluster;
use super::tunnel::{LEDGER, find, forward};

/// Where the ledger's pod shows its log.
const LOG: &str = "/v1/log";
/// Most of an answer that is repeated.
const WORDS: usize = 200;

impl Cluster {
    /// Gives the log of the mesh in `namespace`, piece by piece; ends where nobody takes more.
    ///
    /// # Errors
    /// If there is no ledger, or it may not be reached, or refuses.
    pub(crate) async fn read_log(
        &self,
        namespace: &str,
        sink: Sender<io::Result<Bytes>>,
    ) -> anyhow::Result<()> {
        let (pods, pod) = find(&self.client, namespace, LEDGER).await?;
        let mut way = forward(&pods, (namespace, &pod), LEDGER.port).await?;
        let stream = way.take_stream(LEDGER.port);
        let stream = stream.context("the way to the pod has no stream")?;
        let read = over(stream, sink).await;
        read.with_context(|| format!("the ledger {namespace}/{pod} did not show its log"))
    }
}

async fn over<S>(stream: S, sink: Sender<io::Result<Bytes>>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    let (read, ended) = tokio::join!(read(sender, sink), connection);
    if let Err(error) = ended {
        tracing::debug!(%error, "the way to the ledger is closed");
    }
    read
}

async fn read(
    mut sender: SendRequest<Empty<Bytes>>,
    sink: Sender<io::Result<Bytes>>,
) -> anyhow::Result<()> {
    let request = Request::get(LOG)
        .header("host", "mesh-ledger")
        .body(Empty::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
            Err(error) => Err(io::Error::other(error)),
        };
        if !status.is_success() {
            let words = piece?;
            let words = String::from_utf8_lossy(&words);
            bail!(
                "{status}: {}",
                words.trim().chars().take(WORDS).collect::<String>()
            );
        }
        let failed = piece.is_err();
        // Who reads may have found enough.
        if sink.send(piece).await.is_err() || failed {
            return Ok(());
        }
    }
    if status.is_success() {
        Ok(())
    } else {
        bail!("{status}")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc::channel;

    use super::over;

    /// Answers with this and ends.
    async fn answer(mut far: DuplexStream, text: &str) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            far.read_exact(&mut byte).await.expect("a head");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"GET /v1/log "));
        far.write_all(text.as_bytes()).await.expect("sent");
    }

    async fn told(text: &str) -> (anyhow::Result<()>, Vec<Result<String, String>>) {
        let (near, far) = duplex(4096);
        let (sender, mut receiver) = channel(100);
        let (read, ()) = tokio::join!(over(near, sender), answer(far, text));
        let mut pieces = Vec::new();
        while let Some(piece) = receiver.recv().await {
            let piece = piece.map_err(|error| error.to_string());
            pieces.push(piece.map(|piece| String::from_utf8_lossy(&piece).into_owned()));
        }
        (read, pieces)
    }

    #[tokio::test]
    async fn a_log_comes_whole_or_it_is_told_that_it_does_not() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let (read, pieces) = told(&format!("{chunked}0\r\n\r\n")).await;
        assert!(read.is_ok());
        assert_eq!(pieces, [Ok(String::from("hello"))]);
        let (read, pieces) = told(chunked).await;
        assert!(read.is_ok(), "who reads is told");
        assert!(matches!(&pieces[..], [Ok(_), Err(_)]), "{pieces:?}");
        let refused = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull";
        let (read, pieces) = told(refused).await;
        let said = read.expect_err("refused").to_string();
        assert!(said.contains("503") && said.contains("full"), "{said}");
        assert!(pieces.is_empty());
    }

    #[tokio::test]
    async fn who_has_read_enough_ends_it() {
        let (near, far) = duplex(4096);
        let (sender, receiver) = channel(1);
        drop(receiver);
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let (read, ()) = tokio::join!(over(near, sender), answer(far, text));
        assert!(read.is_ok());
    }
}
