use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use mesh_core::Caller;
use mesh_core::pushed::BEAT;
use tokio::time::{Duration, Instant};

use super::{AGAIN, ASK, Standing, spread};
use crate::Unrecognized;
use crate::auth::Callers;

/// Knows one account and says this of its token.
#[derive(Debug)]
struct Script {
    ended: AtomicBool,
    says: Mutex<Result<(), Unrecognized>>,
    asked: AtomicU32,
}

impl Script {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ended: AtomicBool::new(false),
            says: Mutex::new(Ok(())),
            asked: AtomicU32::new(0),
        })
    }

    fn says(&self, what: Result<(), Unrecognized>) {
        *self.says.lock().expect("words") = what;
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    async fn stream(self: &Arc<Self>) -> Standing {
        let callers: Arc<dyn Callers> = Arc::clone(self) as Arc<dyn Callers>;
        let begun = Standing::begin(callers, b"token").await;
        begun.expect("let in").expect("an account")
    }
}

impl Callers for Script {
    fn caller(&self, _bearer: &[u8]) -> Result<Caller, Unrecognized> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(Unrecognized::Nobody);
        }
        Ok(Caller {
            service_account: Some(String::from("app")),
            ..Caller::local("team")
        })
    }

    fn confirm_stream<'a>(
        &'a self,
        _caller: &'a Caller,
        _bearer: &'a [u8],
    ) -> Option<BoxFuture<'a, Result<(), Unrecognized>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let says = *self.says.lock().expect("words");
        Some(std::future::ready(says).boxed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_asks_once_in_a_while_and_not_at_every_line() {
    let script = Script::new();
    let mut stream = script.stream().await;
    assert_eq!(script.asked(), 1, "when it begins");
    let begun = Instant::now();
    while begun.elapsed() + Duration::from_secs(1) < ASK / 2 {
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(stream.caller().await.is_some());
    }
    assert_eq!(script.asked(), 1);
    tokio::time::advance(ASK).await;
    assert!(stream.caller().await.is_some());
    assert!(stream.caller().await.is_some());
    assert_eq!(script.asked(), 2);
    assert!(ASK + BEAT <= Duration::from_mins(1), "what the docs say");
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_in_vain_ends_no_stream_and_who_refuses_does() {
    let script = Script::new();
    let mut stream = script.stream().await;
    script.says(Err(Unrecognized::Unconfirmed));
    tokio::time::advance(ASK).await;
    assert!(stream.caller().await.is_some());
    assert!(stream.caller().await.is_some());
    assert_eq!(script.asked(), 2, "not at once again");
    tokio::time::advance(AGAIN).await;
    assert!(stream.caller().await.is_some());
    assert_eq!(script.asked(), 3, "but soon");
    script.says(Err(Unrecognized::Nobody));
    assert!(stream.caller().await.is_some(), "nobody was asked");
    tokio::time::advance(AGAIN).await;
    assert!(stream.caller().await.is_none());
    // A token that ended needs no question.
    script.says(Ok(()));
    let mut stream = script.stream().await;
    script.ended.store(true, Ordering::Relaxed);
    assert!(stream.caller().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_only_with_an_answer() {
    for refusal in [Unrecognized::Nobody, Unrecognized::Unconfirmed] {
        let script = Script::new();
        script.says(Err(refusal));
        let callers: Arc<dyn Callers> = script;
        let begun = Standing::begin(callers, b"token").await;
        assert_eq!(begun.err(), Some(refusal));
    }
}

#[test]
fn streams_that_began_together_do_not_ask_together() {
    let waits: Vec<_> = (0..64).map(|_| spread(ASK)).collect();
    assert!(waits.iter().all(|wait| *wait >= ASK / 2 && *wait <= ASK));
    assert!(waits.iter().any(|wait| *wait != waits[0]));
}
