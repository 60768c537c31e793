//! Asks running fetches how far they are. Their pods read bytes of strangers, so what they answer is bounded
//! in size and time, and none of it is believed further than a report is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::asked::{Answers, Turns, fetchers};
use super::outcome::{Polled, Told};
use super::report::{self, Report};
use crate::world::World;

/// Between two rounds: so often at most does a status change.
const ROUND: Duration = Duration::from_secs(3);
/// For one answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest answer: all files of a cache and what each of its sources said.
const LONGEST: usize = 1024 * 1024;
/// Fetches asked at once: a round of silent ones is over long before a fetch that is done stops waiting to be asked.
const AT_ONCE: usize = 64;

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
    pub(crate) async fn run(&self, world: &World) {
        let (mut turns, mut answers) = (Turns::default(), Answers::default());
        for round in 0_usize.. {
            tokio::time::sleep(ROUND).await;
            let (pods, jobs) = (world.fetchers.state(), world.jobs.state());
            let fetchers = fetchers(&pods, &jobs, &world.caches.state());
            let new = Self::round(turns.next(round, &fetchers), &answers).await;
            answers.add(round, new, &fetchers);
            self.publish(answers.all());
        }
    }

    fn publish(&self, new: Polled) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if *told == new {
                return;
            }
            *told = new;
        }
        self.changed.send_modify(|number| *number += 1);
    }

    async fn round(
        running: Vec<(String, SocketAddr)>,
        answers: &Answers,
    ) -> Vec<(String, Arc<Told>)> {
        let asked = futures::stream::iter(running).map(|(uid, address)| {
            let before = answers.of(&uid);
            async move { (uid, Arc::new(told(address, &before).await)) }
        });
        asked.buffer_unordered(AT_ONCE).collect().await
    }
}

/// Whoever does not answer is still there: what it told before stays.
async fn told(address: SocketAddr, before: &Told) -> Told {
    let progress = match ask(address, "/progress").await {
        Ok(text) => text.and_then(|text| report::progress(&text)),
        Err(error) => {
            tracing::debug!(%address, %error, "a fetch did not tell how far it is");
            return before.clone();
        }
    };
    let report = ask(address, "/result").await.ok().flatten();
    let report = report.and_then(|text| Report::read(&text)).map(Arc::new);
    Told {
        progress: progress.or_else(|| before.progress.clone()),
        report: report.or_else(|| before.report.clone()),
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
        Ok(String::from_utf8(body.into()).ok())
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
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::{LONGEST, Poll, ask, told};
    use crate::cache::asked::{ASKED, Answers};
    use crate::cache::build::LINGER;
    use crate::cache::outcome::{Polled, Told};
    use crate::cache::report::Report;

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
            let told = told(address, &Told::default()).await;
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

    #[tokio::test(start_paused = true)]
    async fn a_round_of_silent_fetches_ends_before_a_finished_one_is_gone() {
        let begun = tokio::time::Instant::now();
        serving(None, async |address| {
            let silent = (0..ASKED).map(|one| (one.to_string(), address)).collect();
            let told = Poll::round(silent, &Answers::default()).await;
            assert_eq!(told.len(), ASKED);
        })
        .await;
        let lingers: u64 = LINGER.parse().expect("seconds");
        assert!(begun.elapsed().as_secs() < lingers / 2);
    }

    #[tokio::test]
    async fn who_answers_nonsense_keeps_what_was_known() {
        let before = Told {
            progress: None,
            report: Report::read("{}").map(Arc::new),
        };
        for answer in [http("200 OK", "<html>"), http("500 No", ""), b"no".to_vec()] {
            serving(Some(answer), async |address| {
                assert_eq!(told(address, &before).await, before);
            })
            .await;
        }
    }

    #[test]
    fn what_is_known_is_shared_and_news_are_told_once() {
        let poll = Poll::default();
        let mut changed = poll.changed();
        let news = || Polled::from([(String::from("a"), Arc::<Told>::default())]);
        poll.publish(news());
        assert!(changed.has_changed().expect("it lives"));
        changed.borrow_and_update();
        poll.publish(news());
        assert!(!changed.has_changed().expect("it lives"));
        assert!(Arc::ptr_eq(&poll.told()["a"], &poll.told()["a"]));
    }
}
