//! The gateway's way to the ledger. One connection, one request at a time: whatever came meanwhile goes in the next one, so
//! that many requests share one write.
//!
//! Nothing is sent twice: whether the ledger has heard a request whose answer did not come is not known, and who appended is
//! told so. While it is known to be away everybody is told at once, and nothing waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use http::{Request, StatusCode};
use jiff::Timestamp;
use mesh_identity::{Account, EndpointError, Member, Place, Session, Trust, words_of};
use mesh_ledger::{Entry, Ledger, Line, NotDurable, Pending, Receipt, State, settled};
use mesh_runtime::Shutdown;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::wire::{ENTRIES, Kept, LARGEST, LEDGER, STATE, Standing};

/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(3);
/// First wait after a failure; it doubles.
const RETRY: Duration = Duration::from_millis(100);
/// Longest wait after a failure to reach it.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// The same for one that does not answer in time: what it was given may be written all the same, and then again.
const LONGEST_REST: Duration = Duration::from_mins(1);
/// How often a silent connection is tried; the ledger closes one that is silent for 30 seconds.
const PING: Duration = Duration::from_secs(10);
/// A connection is made anew this often, so that who is at its other end is proven again.
const AGE: Duration = Duration::from_hours(1);
/// Bytes of entries that may wait.
const WAITING: usize = 16 << 20;
/// Most bytes of one request, but for what is larger by itself.
const BATCH: usize = 2 << 20;
/// Largest answer in bytes.
const ANSWER: usize = 64 << 10;

/// The ledger, as gateways see it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    shared: Arc<Shared>,
}

/// How entries get there.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    /// Where the ledger is, `host:port`.
    pub(crate) address: String,
    /// Longest time for one request to it. How long somebody waits for an entry is that one's matter, and shorter: a slow
    /// ledger that is given the same again and again is never done.
    pub(crate) limit: Duration,
    /// Whose ledger.
    pub(crate) mesh_namespace: String,
    /// As whom.
    pub(crate) member: Arc<Member>,
    /// What proves that it is the ledger.
    pub(crate) trust: Arc<Trust>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner {
    waiting: Vec<Waiting>,
    bytes: usize,
    state: State,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    text: Vec<u8>,
    count: u64,
    answer: oneshot::Sender<Result<Receipt, NotDurable>>,
}

/// What is on the way, by one task.
struct Way {
    shared: Arc<Shared>,
    place: Place,
    writing: Writing,
}

impl Remote {
    /// Begins to reach for the ledger, until [`end`](Self::end); the shutdown waits for that.
    ///
    /// # Errors
    /// If the address is none.
    pub(crate) fn start(writing: Writing, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let parts = writing.address.rsplit_once(':');
        let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty()) else {
            anyhow::bail!("--ledger `{}`: write HOST:PORT", writing.address);
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                waiting: Vec::new(),
                bytes: 0,
                state: State {
                    durable: false,
                    since: Timestamp::now(),
                    reason: Some(String::from("it was not reached yet")),
                },
                closed: false,
            }),
            wake: Notify::new(),
        });
        let way = Way {
            shared: Arc::clone(&shared),
            place: Place {
                host: host.to_owned(),
                port,
                account: Account::new(&writing.mesh_namespace, LEDGER),
            },
            writing,
        };
        shutdown.spawn(way.keep());
        Ok(Self { shared })
    }

    /// Takes nothing more; what waits is still sent.
    pub(crate) fn end(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Ledger for Remote {
    fn append(&self, entries: Vec<Entry>) -> Pending {
        let mut text = Vec::new();
        for entry in &entries {
            match Line::try_from(entry) {
                Ok(line) => text.extend_from_slice(line.bytes()),
                Err(error) => return settled(Err(NotDurable::Refused(error.to_string()))),
            }
            text.push(b'\n');
        }
        if text.is_empty() || text.len() > LARGEST {
            let message = format!("{} bytes at once", text.len());
            return settled(Err(NotDurable::Refused(message)));
        }
        let mut inner = self.shared.lock();
        if inner.closed {
            return settled(Err(NotDurable::Closed));
        }
        if let Some(reason) = &inner.state.reason {
            return settled(Err(NotDurable::Unreachable(reason.clone())));
        }
        if inner.bytes + text.len() > WAITING {
            return settled(Err(NotDurable::Busy));
        }
        let (answer, told) = oneshot::channel();
        inner.bytes += text.len();
        inner.waiting.push(Waiting {
            text,
            count: entries.len() as u64,
            answer,
        });
        drop(inner);
        self.shared.wake.notify_one();
        Box::pin(told.map(|told| told.unwrap_or(Err(NotDurable::Closed))))
    }

    fn state(&self) -> State {
        self.shared.lock().state.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, as much as goes into one request.
    fn take(&self) -> Vec<Waiting> {
        let mut inner = self.lock();
        let mut bytes = 0;
        let fits = inner.waiting.iter().take_while(|waiting| {
            let first = bytes == 0;
            bytes += waiting.text.len();
            first || bytes <= BATCH
        });
        let count = fits.count();
        let batch: Vec<Waiting> = inner.waiting.drain(..count).collect();
        inner.bytes -= batch
            .iter()
            .map(|waiting| waiting.text.len())
            .sum::<usize>();
        batch
    }

    /// True once nothing more will come and nothing waits.
    fn done(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.waiting.is_empty()
    }

    fn up(&self) {
        let mut inner = self.lock();
        if !inner.state.durable {
            tracing::info!("the ledger keeps the audit");
            inner.state = State {
                durable: true,
                since: Timestamp::now(),
                reason: None,
            };
        }
    }

    /// Tells everybody who waits, and from now on everybody at once.
    fn down(&self, error: &NotDurable) {
        let mut inner = self.lock();
        let reason = error.to_string();
        if inner.state.reason.as_ref() != Some(&reason) {
            tracing::warn!(%reason, "the audit is not durable: confidential requests go to the floor only");
        }
        if inner.state.durable {
            inner.state.since = Timestamp::now();
        }
        inner.state = State {
            durable: false,
            since: inner.state.since,
            reason: Some(reason),
        };
        inner.bytes = 0;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        fail(waiting, error);
    }
}

impl Way {
    async fn keep(self) {
        let (mut wait, mut rest) = (RETRY, RETRY);
        while !self.shared.done() {
            let (begun, mut served) = (Instant::now(), false);
            let error = match self.connect().await {
                Ok(mut session) => {
                    self.shared.up();
                    wait = RETRY;
                    self.write(&mut session, &mut served).await
                }
                Err(error) => Some(error),
            };
            if served {
                rest = RETRY;
            }
            let Some(error) = error else {
                // No faster than this, whatever the other side does.
                if begun.elapsed() < RETRY {
                    sleep(RETRY).await;
                }
                continue;
            };
            self.shared.down(&error);
            let slow = error == NotDurable::Timeout;
            self.rest(if slow { rest } else { wait }).await;
            rest = if slow {
                (rest * 2).min(LONGEST_REST)
            } else {
                RETRY
            };
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    /// Waits, unless it is told that nothing more will come.
    async fn rest(&self, wait: Duration) {
        let ended = async {
            while !self.shared.done() {
                self.shared.wake.notified().await;
            }
        };
        // The time being over is what is waited for.
        drop(timeout(wait, ended).await);
    }

    /// A connection to a ledger that keeps what it is given.
    async fn connect(&self) -> Result<Session, NotDurable> {
        let Writing { member, trust, .. } = &self.writing;
        let connecting = async {
            let mut session = Session::open(&self.place, member, trust).await?;
            let state = ask_state(&mut session).await?;
            Ok((session, state))
        };
        let connected: Result<_, EndpointError> = timeout(CONNECT, connecting)
            .await
            .unwrap_or(Err(EndpointError::Answer));
        let (session, state) = connected.map_err(|error| unreachable(&error))?;
        state.map(|()| session)
    }

    /// Writes what comes, and says whether anything was kept. Ends without an error where another connection is needed.
    async fn write(&self, session: &mut Session, served: &mut bool) -> Option<NotDurable> {
        let begun = Instant::now();
        loop {
            if self.shared.done() {
                return None;
            }
            if session.over() || session.outdated(&self.writing.member) || begun.elapsed() > AGE {
                return None;
            }
            let batch = self.shared.take();
            if batch.is_empty() {
                tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = session.ended() => {}
                    () = sleep(PING) => match timeout(self.writing.limit, ask_state(session)).await {
                        Ok(Ok(Ok(()))) => {}
                        Ok(Ok(Err(error))) => return Some(error),
                        Ok(Err(error)) => return Some(unreachable(&error)),
                        Err(_) => return Some(NotDurable::Timeout),
                    },
                }
                continue;
            }
            if let Err(error) = self.send(session, batch).await {
                return Some(error);
            }
            *served = true;
        }
    }

    /// Sends these together. One that the ledger refuses does not take the others with it.
    async fn send(&self, session: &mut Session, batch: Vec<Waiting>) -> Result<(), NotDurable> {
        let several = batch.len() > 1;
        let parts = match self.post(session, &batch).await {
            Err(NotDurable::Refused(_)) if several => batch,
            answer => return settle(batch, answer),
        };
        let mut parts = parts.into_iter();
        while let Some(part) = parts.next() {
            let answer = self.post(session, std::slice::from_ref(&part)).await;
            if let Err(error) = settle(vec![part], answer) {
                fail(parts.collect(), &error);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn post(&self, session: &mut Session, batch: &[Waiting]) -> Result<Receipt, NotDurable> {
        let text: Vec<&[u8]> = batch
            .iter()
            .map(|waiting| waiting.text.as_slice())
            .collect();
        let request =
            Request::post(ENTRIES).header(http::header::CONTENT_TYPE, "application/x-ndjson");
        let asking = session.ask(request, Bytes::from(text.concat()), ANSWER);
        let answered = timeout(self.writing.limit, asking).await;
        let (status, body) = answered
            .map_err(|_| NotDurable::Timeout)?
            .map_err(|error| unreachable(&error))?;
        let strange =
            || NotDurable::Unreachable(format!("it answered {status}: {}", words_of(&body)));
        match status {
            StatusCode::OK => {
                let kept: Kept = serde_json::from_slice(&body).map_err(|_| strange())?;
                Ok(Receipt {
                    first: kept.first,
                    size: kept.size,
                })
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                Err(NotDurable::Refused(words_of(&body)))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(NotDurable::Busy),
            StatusCode::GATEWAY_TIMEOUT => Err(NotDurable::Timeout),
            StatusCode::SERVICE_UNAVAILABLE => Err(NotDurable::Disk(words_of(&body))),
            _ => Err(strange()),
        }
    }
}

/// Whether it keeps what it is given.
async fn ask_state(session: &mut Session) -> Result<Result<(), NotDurable>, EndpointError> {
    let (status, body) = session
        .ask(Request::get(STATE), Bytes::new(), ANSWER)
        .await?;
    let standing: Option<Standing> = serde_json::from_slice(&body).ok();
    Ok(match standing.filter(|_| status.is_success()) {
        Some(standing) if standing.durable => Ok(()),
        Some(standing) => Err(NotDurable::Disk(standing.reason.unwrap_or_default())),
        None => Err(NotDurable::Unreachable(format!(
            "it answered {status}: {}",
            words_of(&body)
        ))),
    })
}

/// Tells each its own; an error is given back if this connection is of no more use.
fn settle(batch: Vec<Waiting>, answer: Result<Receipt, NotDurable>) -> Result<(), NotDurable> {
    match answer {
        Ok(receipt) => {
            let mut first = receipt.first;
            for waiting in batch {
                let own = Receipt { first, ..receipt };
                first += waiting.count;
                // Who asked may have gone.
                let _ = waiting.answer.send(Ok(own));
            }
            Ok(())
        }
        Err(error) => {
            fail(batch, &error);
            match error {
                NotDurable::Refused(_) | NotDurable::Busy => Ok(()),
                error => Err(error),
            }
        }
    }
}

fn fail(batch: Vec<Waiting>, error: &NotDurable) {
    for waiting in batch {
        let _ = waiting.answer.send(Err(error.clone()));
    }
}

fn unreachable(error: &EndpointError) -> NotDurable {
    NotDurable::Unreachable(error.to_string())
}
