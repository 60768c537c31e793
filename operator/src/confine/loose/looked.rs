//! Looks at the pods of confined namespaces apart from the passes, which take what is known: an API server that
//! answers slowly about one namespace holds up neither a policy nor another namespace. What could not be looked at,
//! or only a while ago, is not known, and nothing counts as proved by it.
//!
//! Pods are listed, not watched: a field selector tells one of the marks only, and to keep every pod of a cluster
//! would cost memory for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::time::Instant;

use super::Loose;
use crate::pages;

/// How long a list counts as new.
pub(crate) const FRESH: Duration = Duration::from_secs(30);
/// After that it says nothing any more.
const OLD: Duration = Duration::from_secs(90);
/// What could not be looked at is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest time for all pods of one namespace.
const LIMIT: Duration = Duration::from_secs(10);
/// Namespaces that are looked at at once.
const AT_ONCE: usize = 8;

/// The pods of confined namespaces, as they were last listed.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    known: Mutex<BTreeMap<String, (Instant, Loose)>>,
}

impl Looked {
    /// What is known now. A namespace that is not in it was never looked at.
    pub(crate) fn known(&self) -> BTreeMap<String, Loose> {
        let one = |(namespace, (at, loose)): (&String, &(Instant, Loose))| {
            let mut loose = loose.clone();
            if at.elapsed() > OLD && loose.unknown.is_none() {
                loose.unknown = Some(format!("not for {} seconds", OLD.as_secs()));
            }
            (namespace.clone(), loose)
        };
        self.all().iter().map(one).collect()
    }

    /// Looks at those of these namespaces that are due, and calls as soon as one is not what it was. Gives how long
    /// there is nothing to do.
    pub(crate) async fn look(
        &self,
        client: &Client,
        folders: &[String],
        namespaces: &BTreeSet<String>,
        changed: impl Fn(),
    ) -> Duration {
        let due = self.due(namespaces);
        let looks = due.into_iter().map(|namespace| async move {
            let found = tokio::time::timeout(LIMIT, list(client, &namespace, folders)).await;
            let late = || Err(format!("no answer within {} seconds", LIMIT.as_secs()));
            let loose = found.unwrap_or_else(|_| late()).unwrap_or_else(|error| {
                tracing::warn!(
                    namespace,
                    error,
                    "pods of a confined namespace could not be looked at"
                );
                Loose {
                    unknown: Some(error),
                    ..Loose::default()
                }
            });
            (namespace, loose)
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        while let Some((namespace, loose)) = looks.next().await {
            let old = self
                .all()
                .insert(namespace, (Instant::now(), loose.clone()));
            if old.is_none_or(|(_, old)| old != loose) {
                changed();
            }
        }
        self.wait()
    }

    /// Those that were never looked at come first, those without an answer last.
    fn due(&self, namespaces: &BTreeSet<String>) -> Vec<String> {
        let mut all = self.all();
        all.retain(|namespace, _| namespaces.contains(namespace));
        let mut due: Vec<(bool, Option<Instant>, &String)> = Vec::new();
        for namespace in namespaces {
            match all.get(namespace) {
                None => due.push((false, None, namespace)),
                Some((at, loose)) if at.elapsed() >= rest(loose) => {
                    due.push((loose.unknown.is_some(), Some(*at), namespace));
                }
                Some(_) => {}
            }
        }
        due.sort();
        due.into_iter().map(|(.., one)| one.clone()).collect()
    }

    fn wait(&self) -> Duration {
        let all = self.all();
        let left = all
            .values()
            .map(|(at, loose)| rest(loose).saturating_sub(at.elapsed()));
        left.min().unwrap_or(FRESH)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Loose)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rest(loose: &Loose) -> Duration {
    if loose.unknown.is_some() {
        AGAIN
    } else {
        FRESH
    }
}

async fn list(client: &Client, namespace: &str, folders: &[String]) -> Result<Loose, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let living = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut all = Loose::default();
    let listed = pages::each(&api, living, |pod| all.add(&pod, folders)).await;
    listed.map(|()| all).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use kube::Client;
    use serde_json::json;
    use tokio::time::Instant;

    use super::{AGAIN, AT_ONCE, FRESH, LIMIT, Looked, OLD};
    use crate::pages::testing::{pods, server};

    /// Answers after a second, of namespace `a-slow` too late; counts who is asked at once at most, and how often.
    fn slow(most: &Arc<AtomicUsize>, asked: &Arc<AtomicUsize>) -> Client {
        let (now, most, asked) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::clone(most),
            Arc::clone(asked),
        );
        server(move |path| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                if path.contains("/namespaces/a-slow") {
                    tokio::time::sleep(LIMIT * 10).await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::Relaxed);
                let wild = json!({"metadata": {"name": "wild"}, "spec": {"hostPID": true, "containers": []}});
                pods(&[wild], "")
            })
        })
    }

    fn names(prefix: &str, number: usize) -> BTreeSet<String> {
        (0..number)
            .map(|one| format!("{prefix}-{one:02}"))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_namespace_without_an_answer_holds_up_no_other_and_is_not_known() {
        let (most, asked) = (Arc::default(), Arc::default());
        let client = slow(&most, &asked);
        let (looked, told) = (Looked::default(), AtomicUsize::new(0));
        let mut all = names("quick", 30);
        all.insert(String::from("a-slow"));
        let begun = Instant::now();
        let tell = || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let look = looked.look(&client, &[], &all, tell);
        let meanwhile = async {
            tokio::time::sleep(LIMIT.mul_f64(0.9)).await;
            looked.known()
        };
        let (wait, known) = tokio::join!(look, meanwhile);
        assert_eq!(
            known.len(),
            30,
            "the quick ones, before the slow one is given up"
        );
        assert!(
            known
                .values()
                .all(|one| one.unknown.is_none() && one.pods.len() == 1)
        );
        assert!(begun.elapsed() < LIMIT + Duration::from_secs(1));
        let slow = looked.known()["a-slow"].told("a-slow").expect("words");
        assert!(
            slow.contains("could not be looked at: no answer within 10 seconds"),
            "{slow}"
        );
        assert_eq!(
            told.load(Ordering::Relaxed),
            31,
            "each is told as it is known"
        );
        let at_once = most.load(Ordering::Relaxed);
        assert!((2..=AT_ONCE).contains(&at_once), "{at_once} at once");
        assert_eq!(wait, AGAIN, "the slow one is tried again soon");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_not_asked_for_again_and_says_nothing_once_it_is_old() {
        let (most, asked) = (Arc::default(), Arc::<AtomicUsize>::default());
        let client = slow(&most, &asked);
        let looked = Looked::default();
        let all = names("quick", 3);
        looked.look(&client, &[], &all, || {}).await;
        let wait = looked.look(&client, &[], &all, || {}).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3, "it is fresh");
        assert!(wait <= FRESH);
        tokio::time::sleep(FRESH).await;
        looked.look(&client, &[], &all, || {}).await;
        assert_eq!(asked.load(Ordering::Relaxed), 6);
        tokio::time::sleep(OLD + Duration::from_secs(1)).await;
        assert!(looked.known().values().all(|one| one.unknown.is_some()));
        looked.look(&client, &[], &names("quick", 1), || {}).await;
        let known = looked.known();
        assert_eq!(
            known.len(),
            1,
            "of namespaces that are open nothing is kept"
        );
        assert!(known["quick-00"].unknown.is_none());
    }
}
