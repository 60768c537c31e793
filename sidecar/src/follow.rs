//! The stream of snapshots: opened again whenever it ends, so that it is also how a gateway that is back is
//! noticed first.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use mesh_core::pushed::{BEAT, LONGEST, Line, PATH};

use crate::Shared;
use crate::ask::absent;
use crate::peer::Failure;

/// Longest time until the stream begins.
const BEGIN: Duration = Duration::from_secs(5);
/// First wait before it is opened again; it doubles.
const AGAIN: Duration = Duration::from_millis(250);
/// Longest wait, and the wait for a gateway that has no snapshots.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why the stream is not there.
enum Ended {
    /// There was one.
    Served,
    /// No gateway answers, or there is no token to show.
    Away,
    /// A gateway answers, but has none for us.
    Refused(StatusCode),
}

/// Until dropped.
pub(crate) async fn follow(shared: &Shared) {
    let mut wait = AGAIN;
    let mut said = None;
    loop {
        match once(shared).await {
            Ended::Served => {
                wait = AGAIN;
                said = None;
            }
            Ended::Away => wait = (wait * 2).min(LONGEST_WAIT),
            Ended::Refused(status) => {
                wait = LONGEST_WAIT;
                if said != Some(status) {
                    tracing::warn!(%status, "the gateway gives no snapshot: everything is restricted without one");
                    said = Some(status);
                }
            }
        }
        tokio::time::sleep(spread(wait)).await;
    }
}

/// Not all pods of a cluster at once.
fn spread(wait: Duration) -> Duration {
    let id = mesh_door::id::new(jiff::Timestamp::now());
    let random = id.bytes().last().map_or(0, u32::from) % 32;
    wait + wait * random / 64
}

async fn once(shared: &Shared) -> Ended {
    let Some(bearer) = shared.token.bearer().await else {
        return Ended::Away;
    };
    let request = Request::get(PATH)
        .header(header::AUTHORIZATION, bearer)
        .header(header::ACCEPT, "application/x-ndjson")
        .body(Full::<Bytes>::default());
    let Ok(request) = request else {
        return Ended::Away;
    };
    let answer = match shared.gateway.send(request, BEGIN).await {
        Ok(answer) => answer,
        Err(failure) => {
            if failure == Failure::Timeout {
                hangs(shared);
            }
            return Ended::Away;
        }
    };
    if absent(&answer) {
        return Ended::Away;
    }
    if shared.breaker.answered() {
        tracing::info!("a gateway answers again");
    }
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        // It does not know the policies of this pod yet.
        return Ended::Away;
    }
    if answer.status() != StatusCode::OK {
        return Ended::Refused(answer.status());
    }
    read(shared, answer.into_body()).await;
    Ended::Served
}

fn hangs(shared: &Shared) {
    if shared.breaker.silent() {
        tracing::warn!("the gateway hangs: it is asked again once it tells the policy");
    }
}

async fn read(shared: &Shared, mut body: Incoming) {
    let mut rest = BytesMut::new();
    // False while the gateway's own is one that we do not take.
    let mut same = false;
    loop {
        let Ok(frame) = tokio::time::timeout(BEAT * 3, body.frame()).await else {
            return hangs(shared);
        };
        let Some(Ok(frame)) = frame else { return };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(end + 1);
            same = take(shared, line.trim_ascii(), same).await;
        }
        if rest.len() > LONGEST {
            shared.metrics.rejected();
            tracing::warn!("a snapshot was too long to be taken");
            return;
        }
    }
}

/// True if what is in use is what the gateway has.
async fn take(shared: &Shared, line: &[u8], same: bool) -> bool {
    let now = SystemTime::now();
    match Line::read(line) {
        Ok(Line::Snapshot(pushed)) => {
            shared.below.push(pushed.floor.as_ref());
            if shared.snapshots.take(*pushed, now) {
                tracing::info!("a snapshot was taken");
            }
            // Also one that is the same: its age is the file's.
            shared.snapshots.keep().await;
            true
        }
        Ok(Line::Alive) => {
            if same {
                shared.snapshots.confirm(now);
            }
            same
        }
        Err(error) => {
            shared.metrics.rejected();
            tracing::warn!(reason = error.reason(), %error, "a snapshot was not taken; the one before stays in use");
            false
        }
    }
}
