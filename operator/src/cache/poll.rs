//! Asks running fetches how far they are. Their pods read bytes of strangers, so what they answer is bounded
//! in size and time, and none of it is believed further than a report is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::build::{COMPONENT, PROGRESS};
use super::outcome::{Polled, Told};
use super::report::{self, Report};

/// Between two rounds: so often at most does a status change.
const ROUND: Duration = Duration::from_secs(3);
/// For one answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest answer.
const LONGEST: usize = 256 * 1024;
/// Fetches asked at once.
const AT_ONCE: usize = 16;
/// Fetches asked in one round.
const MOST: usize = 256;

/// What running fetches told last; all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Poll {
    told: Arc<Mutex<Polled>>,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("could not connect")]
    Connect(#[from] std::io::Error),
    #[error("the answer is not HTTP")]
    Http(#[from] hyper::Error),
    #[error("the question is not HTTP")]
    Question(#[from] http::Error),
    #[error("the answer is too long or was cut")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

impl Default for Poll {
    fn default() -> Self {
        Self {
            told: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
        }
    }
}

impl Poll {
    /// Tells of news.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is known.
    pub(crate) fn told(&self) -> Polled {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Until dropped.
    pub(crate) async fn run(&self, pods: &Store<Pod>) {
        loop {
            tokio::time::sleep(ROUND).await;
            let running: Vec<(String, SocketAddr)> = pods
                .state()
                .iter()
                .filter_map(|pod| address(pod))
                .take(MOST)
                .collect();
            let old = self.told();
            if running.is_empty() && old.is_empty() {
                continue;
            }
            let known: Vec<String> = pods.state().iter().filter_map(|pod| pod.uid()).collect();
            let mut new: Polled = old
                .iter()
                .filter(|(uid, _)| known.contains(uid))
                .map(|(uid, told)| (uid.clone(), told.clone()))
                .collect();
            new.extend(self.round(running, &old).await);
            if new != old {
                *self.told.lock().unwrap_or_else(PoisonError::into_inner) = new;
                self.changed.send_modify(|number| *number += 1);
            }
        }
    }

    async fn round(
        &self,
        running: Vec<(String, SocketAddr)>,
        old: &Polled,
    ) -> BTreeMap<String, Told> {
        let asked = futures::stream::iter(running).map(|(uid, address)| {
            let before = old.get(&uid).cloned().unwrap_or_default();
            async move { (uid, told(address, before).await) }
        });
        asked.buffer_unordered(AT_ONCE).collect().await
    }
}

/// Where a fetch that runs can be asked.
fn address(pod: &Pod) -> Option<(String, SocketAddr)> {
    let fetches = pod
        .labels()
        .get(COMPONENT)
        .is_some_and(|value| value == "fetch");
    let status = pod.status.as_ref()?;
    let running = status.container_statuses.iter().flatten().any(|container| {
        container
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some())
    });
    let ip: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    (fetches && running).then(|| (pod.uid().unwrap_or_default(), SocketAddr::new(ip, PROGRESS)))
}

/// Whoever does not answer is still there: what it told before stays.
async fn told(address: SocketAddr, before: Told) -> Told {
    let progress = ask(address, "/progress").await;
    let report = ask(address, "/result").await;
    if let Err(error) = &progress {
        tracing::debug!(%address, %error, "a fetch did not tell how far it is");
    }
    let progress = progress.ok().flatten();
    let report = report.ok().flatten();
    Told {
        progress: progress
            .and_then(|text| report::progress(&text))
            .or(before.progress),
        report: report
            .and_then(|text| Report::read(&text))
            .or(before.report),
    }
}

/// One answer; none if there is nothing to tell yet.
async fn ask(address: SocketAddr, path: &str) -> Result<Option<String>, Error> {
    tokio::time::timeout(LIMIT, exchange(address, path)).await?
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Option<String>, Error> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let question = Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(question).await?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        let body = body.map_err(Error::Body)?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).ok())
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            // The other side closed; what it sent before is still there.
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::{LONGEST, ask, told};
    use crate::cache::outcome::Told;

    /// Answers every connection with `answer`; hangs if there is none.
    async fn serving(answer: Option<Vec<u8>>, test: impl AsyncFnOnce(SocketAddr)) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serve = async {
            let mut kept = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).await.is_ok());
                if let Some(answer) = &answer {
                    // Whoever asks may have had enough.
                    drop(stream.write_all(answer).await);
                } else {
                    kept.push(stream);
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = test(address) => {}
        }
    }

    fn http(status: &str, body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    #[tokio::test]
    async fn a_fetch_tells_how_far_it_is() {
        let body = r#"{"artifact": "m", "source": "s", "bytesDone": 3, "bytesTotal": 9, "bytesPerSecond": 1}"#;
        serving(Some(http("200 OK", body)), async |address| {
            let told = told(address, Told::default()).await;
            assert_eq!(told.progress.and_then(|one| one.bytes_total), Some(9));
        })
        .await;
    }

    #[tokio::test]
    async fn who_has_nothing_to_tell_yet_keeps_what_was_known() {
        serving(Some(http("404 Not Found", "")), async |address| {
            assert!(ask(address, "/result").await.expect("an answer").is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut() {
        let body = "x".repeat(LONGEST + 1);
        serving(Some(http("200 OK", &body)), async |address| {
            assert!(ask(address, "/progress").await.is_err());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_is_left() {
        let begun = tokio::time::Instant::now();
        serving(None, async |address| {
            assert!(ask(address, "/progress").await.is_err());
        })
        .await;
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}
