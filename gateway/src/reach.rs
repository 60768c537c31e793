//! Whether the network lets this pod reach the workers and, where a policy asks for records, the ledger yet. A network that enforces policies learns of a new
//! pod's address some time after it runs, and drops until then what it sends; callers must not be sent here before.
//!
//! Only the pods that are there at the start are tried, by opening a connection and closing it; a backend none of whose pods
//! can be reached holds a gateway up for [`PATIENCE`] and no longer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use mesh_core::{BackendId, Place, Snapshot};
use mesh_dataplane::SnapshotStore;
use mesh_runtime::Shutdown;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long pods are tried. Networks take seconds; a worker that never answers must not keep an installation waiting.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// Backends tried at once.
const AT_ONCE: usize = 32;
/// Pods tried of one backend in one round.
const PODS: usize = 2;

/// A backend and where its pods listen.
type Target = (BackendId, Vec<SocketAddr>);

/// Whether workers and the ledger have been reached. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    done: Arc<AtomicBool>,
}

impl Reach {
    /// Tries the workers of the first snapshot that is put into the store, and waits while `unrecorded`: what a policy wants
    /// recorded would go to the floor, or nowhere.
    pub(crate) fn start(
        snapshots: &SnapshotStore,
        unrecorded: impl Fn() -> bool + Send + Sync + 'static,
        shutdown: &Shutdown,
    ) -> Self {
        let reach = Self::default();
        let (own, snapshots, token) = (reach.clone(), snapshots.clone(), shutdown.token.clone());
        let mut made = snapshots.subscribe();
        let work = async move {
            if made.wait_for(|generation| *generation > 0).await.is_err() {
                return;
            }
            let targets = targets(&snapshots.current());
            let (silent, recorded) =
                tokio::join!(all(targets, PATIENCE), not(unrecorded, PATIENCE));
            for backend in silent {
                tracing::warn!(%backend, "none of its pods could be reached; ready without it");
            }
            if !recorded {
                tracing::warn!("the ledger could not be reached; ready without it");
            }
            own.done.store(true, Ordering::Release);
        };
        shutdown.spawn(async move {
            token.run_until_cancelled(work).await;
        });
        reach
    }

    /// What is missing before callers may come.
    pub(crate) fn missing(&self) -> Option<String> {
        let trying = !self.done.load(Ordering::Acquire);
        trying.then(|| {
            String::from("the workers, or the ledger of the audit, have not been reached yet")
        })
    }
}

fn targets(snapshot: &Snapshot) -> Vec<Target> {
    let with_pods = snapshot.backends.iter().filter_map(|backend| {
        let Place::Pods(pods) = &backend.place else {
            return None;
        };
        let addresses: Vec<_> = pods.pods.iter().map(|pod| pod.address).take(PODS).collect();
        (!addresses.is_empty()).then(|| (backend.id.clone(), addresses))
    });
    with_pods.collect()
}

/// Waits until it is not so; false if it is after `patience`.
async fn not(so: impl Fn() -> bool, patience: Duration) -> bool {
    let waiting = async {
        while so() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(patience, waiting).await.is_ok()
}

/// Tries until a pod of each backend was reached. Gives those of whom none was within `patience`.
async fn all(mut targets: Vec<Target>, patience: Duration) -> Vec<BackendId> {
    let until = Instant::now() + patience;
    loop {
        let left: Vec<BackendId> = targets.iter().map(|(backend, _)| backend.clone()).collect();
        let round = stream::iter(targets)
            .map(async |target| (!any(&target.1).await).then_some(target))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect();
        // However many there are: one round over all may take longer than there is time.
        let Ok(silent) = tokio::time::timeout_at(until, round).await else {
            return left;
        };
        targets = silent;
        if targets.is_empty() {
            return Vec::new();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn any(pods: &[SocketAddr]) -> bool {
    for pod in pods {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(pod)).await;
        if matches!(connected, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use jiff::Timestamp;
    use mesh_core::{BackendId, Snapshot};
    use mesh_dataplane::SnapshotStore;
    use mesh_runtime::Shutdown;
    use tokio::net::TcpListener;

    use super::{Reach, all};

    const LONG: Duration = Duration::from_mins(1);

    /// A port where nobody listens yet.
    async fn closed() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        listener.expect("a port").local_addr().expect("bound")
    }

    fn backend(name: &str) -> BackendId {
        BackendId::home("team", name)
    }

    #[tokio::test]
    async fn it_waits_for_a_pod_of_each_backend_and_one_of_its_pods_is_enough() {
        let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let open = (open.local_addr().expect("bound"), open);
        let (late, dead) = (closed().await, closed().await);
        let targets = vec![
            (backend("a"), vec![dead, open.0]),
            (backend("b"), vec![late]),
        ];
        let mut trying = Box::pin(all(targets, LONG));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut trying).await;
        assert!(early.is_err(), "nobody listens for b yet");
        let _late = TcpListener::bind(late).await.expect("the port is free");
        assert_eq!(trying.await, []);
    }

    #[tokio::test]
    async fn a_backend_that_cannot_be_reached_is_named_and_holds_nobody_up_for_ever() {
        let targets = vec![(backend("gone"), vec![closed().await])];
        assert_eq!(all(targets, Duration::ZERO).await, [backend("gone")]);
    }

    #[tokio::test]
    async fn it_is_not_ready_before_there_is_a_snapshot_and_a_ledger_where_one_is_asked_for() {
        let empty = || Snapshot::empty("mesh-system", Timestamp::UNIX_EPOCH);
        let snapshots = SnapshotStore::new(empty());
        let shutdown = Shutdown::new();
        let unrecorded = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&unrecorded);
        let reach = Reach::start(&snapshots, move || asked.load(Ordering::Acquire), &shutdown);
        tokio::task::yield_now().await;
        assert!(reach.missing().is_some());
        snapshots.replace(empty());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(reach.missing().is_some(), "nothing could be recorded");
        unrecorded.store(false, Ordering::Release);
        tokio::time::timeout(LONG, async {
            while reach.missing().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("ready");
        shutdown.token.cancel();
    }
}
