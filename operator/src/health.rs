//! Whether backends answer, as the gateways have seen it: the leader asks every gateway's pod over mTLS and
//! joins what they say. Refuses to believe a pod that cannot prove to be a gateway, and to take silence for
//! an answer: a gateway that cannot be reached says nothing of any backend.
//!
//! ```text
//!   what those say who know      joined
//!   all Healthy                  Healthy
//!   all Unhealthy                Unhealthy
//!   anything else                Degraded
//!   nobody knows                 Unknown
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use mesh_crds::inference_backend::{HealthState, HealthStatus};
use mesh_crds::{AuthorityState, Standings, condition};
use mesh_identity::{Account, EndpointError, Member, Peer, Trust};
use tokio::sync::watch;

use crate::args::Run;
use crate::keeper::Keeper;
use crate::world::Id;

/// Port of a gateway's API over TLS.
const PORT: u16 = 8443;
/// ServiceAccount of the gateways.
const GATEWAY: &str = "mesh-gateway";
/// Where the operator is told of all backends.
const PATH: &str = "/mesh/v1/backends";
/// For one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer: some hundred bytes for each backend.
const LARGEST: usize = 16 << 20;
/// Gateways asked at once.
const AT_ONCE: usize = 8;
/// Gateways asked in one round.
const MOST: usize = 64;

/// What is said of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) state: HealthState,
    pub(crate) reason: Option<String>,
    /// What became of reading its authority; none if they know of none.
    pub(crate) authority: Option<AuthorityState>,
}

/// One gateway's word on all of them, or all gateways' on all of them.
type View = BTreeMap<Id, Word>;

/// What the gateways said last; all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    said: Arc<Mutex<View>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            said: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
        }
    }
}

/// Who asks, and what is taken as proof.
pub(crate) struct Asker {
    member: Arc<Member>,
    trust: Arc<Trust>,
    mesh_namespace: String,
    /// Between two rounds.
    interval: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("the answer is not what a gateway answers")]
    Answer(#[from] serde_json::Error),
}

impl Health {
    /// Tells of news.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is said of a backend.
    pub(crate) fn of(&self, id: &Id) -> Option<Word> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.get(id).cloned()
    }

    /// Until dropped. `pods`: the gateways'.
    pub(crate) async fn run(&self, asker: &Asker, pods: &Store<Pod>) {
        loop {
            tokio::time::sleep(asker.interval).await;
            let gateways = gateways(&pods.state(), &asker.mesh_namespace);
            let views = asker.round(gateways).await;
            if views.is_empty() {
                // Nobody said anything: what was said stays.
                continue;
            }
            self.hear(join(&views));
        }
    }

    fn hear(&self, view: View) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != view {
            *said = view;
            self.changed.send_modify(|number| *number += 1);
        }
    }
}

impl Asker {
    /// The leading operator.
    pub(crate) fn new(keeper: &Keeper, options: &Run) -> Self {
        Self {
            member: Arc::clone(&keeper.serving),
            trust: Arc::clone(&keeper.signer.trust),
            mesh_namespace: options.mesh_namespace.clone(),
            interval: Duration::from_secs(options.health_seconds.into()),
        }
    }

    async fn round(&self, gateways: Vec<SocketAddr>) -> Vec<View> {
        let asked = futures::stream::iter(gateways).map(|address| async move {
            let told = self.ask(address).await;
            if let Err(error) = &told {
                tracing::debug!(%address, %error, "a gateway did not tell how backends do");
            }
            told.ok()
        });
        let told = asked.buffer_unordered(AT_ONCE);
        told.filter_map(std::future::ready).collect().await
    }

    async fn ask(&self, address: SocketAddr) -> Result<View, Error> {
        let peer = Peer {
            address,
            account: Account::new(&self.mesh_namespace, GATEWAY),
            limit: LIMIT,
            largest: LARGEST,
        };
        let body = peer.get(PATH, &self.member, &self.trust).await?;
        let told: Standings = serde_json::from_slice(&body)?;
        let words = told.backends.into_iter().map(|one| {
            let word = Word {
                state: one.state,
                reason: one.reason.filter(|reason| is_word(reason)),
                authority: one.authority,
            };
            ((one.namespace, one.name), word)
        });
        Ok(words.collect())
    }
}

/// One PascalCase word, as conditions have it.
fn is_word(reason: &str) -> bool {
    reason.len() <= 64
        && reason.starts_with(|first: char| first.is_ascii_uppercase())
        && reason.chars().all(|one| one.is_ascii_alphanumeric())
}

/// Where gateways can be asked.
fn gateways(pods: &[Arc<Pod>], mesh_namespace: &str) -> Vec<SocketAddr> {
    let address = |pod: &Arc<Pod>| {
        let status = pod.status.as_ref()?;
        let runs = status.phase.as_deref() == Some("Running")
            && pod.metadata.deletion_timestamp.is_none()
            && pod.namespace().as_deref() == Some(mesh_namespace);
        let ip: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
        runs.then_some(SocketAddr::new(ip, PORT))
    };
    let mut found: Vec<SocketAddr> = pods.iter().filter_map(address).collect();
    found.sort();
    found.truncate(MOST);
    found
}

/// Joins the views of several gateways. Who does not know a backend says nothing of it.
fn join(views: &[View]) -> View {
    let mut all: BTreeMap<Id, Vec<&Word>> = BTreeMap::new();
    for (id, word) in views.iter().flatten() {
        all.entry(id.clone()).or_default().push(word);
    }
    let joined = all.into_iter().map(|(id, words)| (id, agreed(&words)));
    joined.collect()
}

fn agreed(words: &[&Word]) -> Word {
    let mut knowing = words.to_vec();
    knowing.retain(|word| word.state != HealthState::Unknown);
    let all = |state: HealthState| knowing.iter().all(|word| word.state == state);
    let state = if knowing.is_empty() {
        HealthState::Unknown
    } else if all(HealthState::Healthy) {
        HealthState::Healthy
    } else if all(HealthState::Unhealthy) {
        HealthState::Unhealthy
    } else {
        HealthState::Degraded
    };
    // One gateway that cannot read it is enough.
    let authority = words.iter().filter_map(|word| word.authority).max();
    // The same reason in every round, in whatever order they answered.
    knowing.sort_by(|one, other| one.reason.cmp(&other.reason));
    Word {
        state,
        reason: knowing.into_iter().find_map(|word| word.reason.clone()),
        authority,
    }
}

/// The status to write: its time changes with the state and only then. What was well stays so until somebody
/// sees otherwise: gateways that have just started know nothing yet.
pub(crate) fn status(
    old: Option<&HealthStatus>,
    said: Option<&Word>,
    now: Timestamp,
) -> Option<HealthStatus> {
    let Some(word) = said else {
        return old.cloned();
    };
    if word.state == HealthState::Unknown && old.is_none_or(|old| old.state == HealthState::Healthy)
    {
        return old.cloned();
    }
    Some(since(old, word.clone(), now))
}

/// The status of another mesh, which nobody asks, whatever gateways say: those of the release before may still
/// speak of what the object was.
pub(crate) fn unasked(old: Option<&HealthStatus>, now: Timestamp) -> HealthStatus {
    let word = Word {
        state: HealthState::Unknown,
        reason: Some(condition::REASON_PEER_TRAFFIC_NOT_SERVED.to_owned()),
        authority: None,
    };
    since(old, word, now)
}

/// The time changes with the state and only then.
fn since(old: Option<&HealthStatus>, word: Word, now: Timestamp) -> HealthStatus {
    let same = old.filter(|old| old.state == word.state);
    HealthStatus {
        state: word.state,
        since: same.map_or_else(
            || now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            |old| old.since.clone(),
        ),
        reason: word.reason,
    }
}

#[cfg(test)]
mod tests;
