//! Which pods are asked how far they are, and whose answers are kept. Anybody may give a pod our labels, so only
//! the pods of Jobs of ModelCaches are asked. In turns: however many pods a namespace has, and however slowly
//! they answer, those of other namespaces are heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use mesh_crds::{Kind, label};

use super::build::{COMPONENT, PROGRESS};
use super::outcome::{Polled, Told};

/// Fetches asked in one round.
pub(super) const ASKED: usize = 256;
/// Of one namespace.
const ASKED_THERE: usize = 8;
/// Answers kept in all; each is a quarter of a megabyte at most.
const KEPT: usize = 256;
/// Of one namespace.
const KEPT_THERE: usize = 32;

/// A pod of a Job of a ModelCache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetcher {
    namespace: String,
    uid: String,
    /// Where it can be asked, if it runs.
    address: Option<SocketAddr>,
}

/// Pods whose controller is a Job whose controller is a ModelCache that is there.
pub(super) fn fetchers(
    pods: &[Arc<Pod>],
    jobs: &[Arc<Job>],
    caches: &[Arc<DynamicObject>],
) -> Vec<Fetcher> {
    let caches: BTreeSet<_> = caches
        .iter()
        .map(|cache| (cache.namespace(), cache.uid()))
        .collect();
    let (api, kind) = (label::API_VERSION, Kind::ModelCache.as_str());
    let jobs: BTreeSet<_> = jobs
        .iter()
        .filter(|job| caches.contains(&(job.namespace(), controller(&***job, api, kind))))
        .map(|job| (job.namespace(), job.uid()))
        .collect();
    pods.iter()
        .filter(|pod| {
            let job = controller(&***pod, "batch/v1", "Job");
            job.is_some() && jobs.contains(&(pod.namespace(), job))
        })
        .filter_map(|pod| {
            Some(Fetcher {
                namespace: pod.namespace()?,
                uid: pod.uid()?,
                address: address(pod),
            })
        })
        .collect()
}

/// The uid of whatever made an object, if it is of this kind.
fn controller<K: Resource>(object: &K, api_version: &str, kind: &str) -> Option<String> {
    let owners = object.owner_references();
    let mut made = owners.iter().filter(|owner| {
        owner.controller == Some(true) && owner.api_version == api_version && owner.kind == kind
    });
    made.next().map(|owner| owner.uid.clone())
}

/// Where a fetch that runs can be asked.
fn address(pod: &Pod) -> Option<SocketAddr> {
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
    (fetches && running).then(|| SocketAddr::new(ip, PROGRESS))
}

/// When whom was asked last, as the number of a round.
#[derive(Default)]
pub(super) struct Turns {
    pods: BTreeMap<String, usize>,
    spaces: BTreeMap<String, usize>,
}

impl Turns {
    /// Whom to ask in a round: who was asked longest ago, in every namespace and of all namespaces.
    pub(super) fn next(&mut self, round: usize, fetchers: &[Fetcher]) -> Vec<(String, SocketAddr)> {
        let mut spaces: BTreeMap<&str, Vec<(&Fetcher, SocketAddr)>> = BTreeMap::new();
        for fetcher in fetchers {
            if let Some(address) = fetcher.address {
                let all = spaces.entry(&fetcher.namespace).or_default();
                all.push((fetcher, address));
            }
        }
        let mut all: Vec<(&str, Vec<(&Fetcher, SocketAddr)>)> = spaces.into_iter().collect();
        all.sort_by_key(|(space, _)| self.spaces.get(*space));
        for (_, pods) in &mut all {
            pods.sort_by_key(|(pod, _)| self.pods.get(&pod.uid));
        }
        let all = all.into_iter().map(|(_, pods)| pods).collect();
        let turn = fair(all, ASKED_THERE, ASKED);
        let there: BTreeSet<&String> = fetchers.iter().map(|one| &one.uid).collect();
        self.pods.retain(|uid, _| there.contains(uid));
        let there: BTreeSet<&String> = fetchers.iter().map(|one| &one.namespace).collect();
        self.spaces.retain(|space, _| there.contains(space));
        for (pod, _) in &turn {
            self.pods.insert(pod.uid.clone(), round);
            self.spaces.insert(pod.namespace.clone(), round);
        }
        let address = |(pod, address): (&Fetcher, SocketAddr)| (pod.uid.clone(), address);
        turn.into_iter().map(address).collect()
    }
}

/// The first of every list, then the second of every list, and so on.
fn fair<T>(lists: Vec<Vec<T>>, of_each: usize, most: usize) -> Vec<T> {
    let each = lists
        .into_iter()
        .flat_map(|list| list.into_iter().take(of_each).enumerate());
    let mut all: Vec<(usize, T)> = each.collect();
    all.sort_by_key(|(rank, _)| *rank);
    all.into_iter().take(most).map(|(_, one)| one).collect()
}

/// What fetches told, and in which round they did last.
#[derive(Default)]
pub(super) struct Answers(BTreeMap<String, (usize, Arc<Told>)>);

impl Answers {
    /// What a fetch told last.
    pub(super) fn of(&self, uid: &str) -> Arc<Told> {
        self.0
            .get(uid)
            .map_or_else(Arc::default, |(_, told)| Arc::clone(told))
    }

    /// Adds those of a round, and forgets those of pods that went, and the oldest where there are too many.
    pub(super) fn add(
        &mut self,
        round: usize,
        new: Vec<(String, Arc<Told>)>,
        fetchers: &[Fetcher],
    ) {
        let new = new.into_iter().map(|(uid, told)| (uid, (round, told)));
        self.0.extend(new);
        let mut spaces: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
        for Fetcher { namespace, uid, .. } in fetchers {
            if let Some((round, _)) = self.0.get(uid) {
                spaces.entry(namespace).or_default().push((uid, *round));
            }
        }
        let mut spaces: Vec<Vec<(&str, usize)>> = spaces.into_values().collect();
        for all in &mut spaces {
            all.sort_by_key(|(_, round)| std::cmp::Reverse(*round));
        }
        let kept = fair(spaces, KEPT_THERE, KEPT);
        let kept: BTreeSet<&str> = kept.into_iter().map(|(uid, _)| uid).collect();
        self.0.retain(|uid, _| kept.contains(uid.as_str()));
    }

    /// What is known.
    pub(super) fn all(&self) -> Polled {
        let each = self.0.iter();
        each.map(|(uid, (_, told))| (uid.clone(), Arc::clone(told)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::DynamicObject;
    use serde_json::{Value, json};

    use super::{ASKED, ASKED_THERE, Answers, Fetcher, KEPT, KEPT_THERE, Told, Turns, fetchers};

    fn owner(api: &str, kind: &str, uid: &str, controller: bool) -> Value {
        json!([{"apiVersion": api, "kind": kind, "name": "n", "uid": uid, "controller": controller}])
    }

    fn job(uid: &str, owner: &Value) -> Arc<Job> {
        let job = json!({"metadata": {"name": uid, "namespace": "a", "uid": uid, "ownerReferences": owner}});
        Arc::new(serde_json::from_value(job).expect("a Job"))
    }

    fn pod(uid: &str, namespace: &str, owner: &Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": namespace, "uid": uid, "ownerReferences": owner,
                "labels": {"inferencemesh.dev/model-cache": "m", "app.kubernetes.io/component": "fetch"}},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{"name": "fetch", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {}}}]},
        }))
        .expect("a pod"))
    }

    #[test]
    fn only_pods_of_jobs_of_caches_are_asked() {
        const OURS: &str = "inferencemesh.dev/v1alpha1";
        let cache: DynamicObject = serde_json::from_value(json!({
            "apiVersion": OURS, "kind": "ModelCache", "metadata": {"name": "m", "namespace": "a", "uid": "cache"}}))
        .expect("a cache");
        let jobs = [
            job("right", &owner(OURS, "ModelCache", "cache", true)),
            job("of-no-cache", &owner(OURS, "ModelCache", "gone", true)),
            job("of-nobody", &json!([])),
            job("not-made", &owner(OURS, "ModelCache", "cache", false)),
            job("of-others", &owner("apps/v1", "Deployment", "cache", true)),
        ];
        let of = |job: &str| owner("batch/v1", "Job", job, true);
        let pods = [
            pod("asked", "a", &of("right")),
            pod("labels-only", "a", &json!([])),
            pod("of-no-job", "a", &of("unknown")),
            pod("of-no-cache", "a", &of("of-no-cache")),
            pod("of-nobody", "a", &of("of-nobody")),
            pod("not-made", "a", &of("not-made")),
            pod("of-others", "a", &of("of-others")),
            pod("elsewhere", "b", &of("right")),
            pod("owned", "a", &owner("batch/v1", "Job", "right", false)),
        ];
        let found = fetchers(&pods, &jobs, &[Arc::new(cache)]);
        let uids: Vec<&str> = found.iter().map(|one| one.uid.as_str()).collect();
        assert_eq!(uids, ["asked"]);
        assert_eq!(Turns::default().next(0, &found).len(), 1);
    }

    fn many(namespace: &str, number: usize) -> Vec<Fetcher> {
        let one = |number| Fetcher {
            namespace: namespace.to_owned(),
            uid: format!("{namespace}-{number}"),
            address: Some(SocketAddr::from(([10, 0, 0, 1], 8082))),
        };
        (0..number).map(one).collect()
    }

    #[test]
    fn a_namespace_with_many_fetches_does_not_keep_others_from_being_asked() {
        let mut all = many("hostile", 10_000);
        all.extend(many("small", 2));
        let asked = Turns::default().next(0, &all);
        assert_eq!(asked.len(), ASKED_THERE + 2);
        let of_small = asked.iter().filter(|(uid, _)| uid.starts_with("small"));
        assert_eq!(of_small.count(), 2);
    }

    #[test]
    fn everybody_is_asked_in_the_end() {
        // Only the first of a namespace in a round, and not of every namespace.
        let fetches: Vec<Fetcher> = (0..2 * ASKED)
            .flat_map(|space| many(&format!("space-{space}"), 2))
            .collect();
        let (mut turns, mut asked) = (Turns::default(), BTreeSet::new());
        for round in 0..4 {
            let turn = turns.next(round, &fetches);
            assert_eq!(turn.len(), ASKED);
            asked.extend(turn.into_iter().map(|(uid, _)| uid));
        }
        assert_eq!(asked.len(), fetches.len());

        let alone = many("large", 5 * ASKED_THERE);
        let rounds = (4..9).flat_map(|round| turns.next(round, &alone));
        let heard: BTreeSet<String> = rounds.map(|(uid, _)| uid).collect();
        assert_eq!(heard.len(), alone.len());
        assert_eq!(
            turns.pods.len(),
            alone.len(),
            "those that went are forgotten"
        );
    }

    #[test]
    fn the_newest_answers_are_kept_of_every_namespace() {
        let (hostile, small) = (many("hostile", 1000), many("small", 3));
        let everybody = [hostile.clone(), small.clone()].concat();
        let told = |from: &[Fetcher]| -> Vec<(String, Arc<Told>)> {
            let each = from.iter();
            each.map(|one| (one.uid.clone(), Arc::default())).collect()
        };
        let mut answers = Answers::default();
        answers.add(0, told(&small), &everybody);
        answers.add(1, told(&hostile[..500]), &everybody);
        answers.add(2, told(&hostile[500..510]), &everybody);
        let all = answers.all();
        assert_eq!(all.len(), KEPT_THERE + 3);
        assert!(
            hostile[500..510]
                .iter()
                .all(|one| all.contains_key(&one.uid))
        );

        let spaces = (0..KEPT).flat_map(|space| many(&format!("space-{space}"), 2));
        let spaces: Vec<Fetcher> = spaces.collect();
        answers.add(3, told(&spaces), &spaces);
        assert_eq!(answers.all().len(), KEPT);
        answers.add(4, Vec::new(), &[]);
        assert!(answers.all().is_empty(), "their pods are gone");
    }
}
