//! Looks for pods that should carry the sidecar and do not, since they were made before that was asked or while
//! nobody asked the webhook, and for those with a sidecar of another template. Counts them, and tells of them by
//! events. Refuses to restart or to change any of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodOS, PodSpec, PodStatus};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};
use mesh_crds::label;
use serde_json::json;
use tokio::time::Instant;

use super::Metrics;
use super::case::{Asked, asked, namespace_asks};
use super::made::{Made, says_so};
use super::mutate::{self, FOREIGN, TEMPLATE};
use super::template::CONTAINER;
use crate::events::{Events, REMEMBERED, Story};
use crate::pages;
use crate::world::World;

/// Pods are listed this often: the webhook is what sees them come.
const LOOK: Duration = Duration::from_secs(30);
/// Changes that come in a burst are looked at once.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Annotation of pods that the kubelet makes of files.
const MIRROR: &str = "kubernetes.io/config.mirror";
const ACTION: &str = "Inject";
/// Pods of one namespace that a look tells of at most.
const TOLD: usize = 20;
/// Pods of all namespaces together that it tells of, for each of three things that it says.
const ALL: usize = 1000;
// What was told before is remembered for so many only; a quarter is for what else happens.
const _: () = assert!(3 * ALL <= REMEMBERED / 4 * 3);
/// Namespaces whose pods are listed at once.
const AT_ONCE: usize = 4;

/// Of a pod that says it carries the sidecar: whether it does, and of which template.
pub(crate) fn trim(pod: &mut Pod) {
    let annotations = pod.metadata.annotations.take().unwrap_or_default();
    let ours = annotations
        .into_iter()
        .filter(|(key, _)| key == TEMPLATE || key == FOREIGN);
    pod.metadata.annotations = Some(ours.collect());
    pod.metadata.resource_version = None;
    pod.metadata.generation = None;
    let sidecar = |one: Container| Container {
        name: one.name,
        ..Container::default()
    };
    let spec = pod.spec.take().unwrap_or_default();
    let os = windows(&spec).then(|| PodOS {
        name: "windows".to_owned(),
    });
    let init = spec.init_containers.into_iter().flatten();
    pod.spec = Some(PodSpec {
        init_containers: Some(
            init.filter(|one| one.name == CONTAINER)
                .map(sidecar)
                .collect(),
        ),
        host_network: spec.host_network,
        os,
        ..PodSpec::default()
    });
    let phase = pod.status.take().and_then(|status| status.phase);
    pod.status = Some(PodStatus {
        phase,
        ..PodStatus::default()
    });
}

/// What the looks so far found.
#[derive(Default)]
struct Known {
    /// When pods were listed last, and for which namespaces.
    listed: Option<Instant>,
    asking: BTreeMap<String, Asked>,
    /// Pods without a sidecar then.
    missed: usize,
}

/// Looks, while this replica leads.
pub(crate) struct Look {
    pub(crate) client: Client,
    pub(crate) world: World,
    pub(crate) home: String,
    pub(crate) hash: String,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
}

impl Look {
    /// Until dropped.
    pub(crate) async fn run(self) {
        let mut changed = self.world.changed();
        let mut known = Known::default();
        loop {
            changed.borrow_and_update();
            if self.world.missing().is_empty() {
                self.once(&mut known).await;
            }
            tokio::time::sleep(DEBOUNCE).await;
            let news = tokio::time::timeout(LOOK, changed.changed());
            if let Ok(Err(_)) = news.await {
                return;
            }
        }
    }

    async fn once(&self, known: &mut Known) {
        let namespaces = self.namespaces();
        let asking = asking(&self.home, &namespaces);
        let fresh = |when: Instant| when.elapsed() < LOOK;
        if known.asking != asking || !known.listed.is_some_and(fresh) {
            match self.missed(&namespaces, &asking).await {
                Ok(pods) => known.missed = self.tell_missed(pods).await,
                Err(error) => tracing::warn!(%error, "pods without a sidecar were not looked for"),
            }
            known.listed = Some(Instant::now());
            known.asking = asking;
        }
        let (forged, outdated) = self.carrying(&namespaces).await;
        self.metrics.found(known.missed + forged, outdated);
    }

    fn namespaces(&self) -> BTreeMap<String, Arc<Namespace>> {
        let all = self.world.namespaces.state();
        all.into_iter().map(|one| (one.name_any(), one)).collect()
    }

    /// Pods that do not say that they carry it, though somebody asked. Their number is small: what is asked for is
    /// labeled as it is made.
    async fn missed(
        &self,
        namespaces: &BTreeMap<String, Arc<Namespace>>,
        asking: &BTreeMap<String, Asked>,
    ) -> kube::Result<Vec<Pod>> {
        let not_ours = format!("!{}", label::INJECTED);
        let made = Made::of(&self.world);
        let should = |pod: &Pod| self.should(namespaces, &made, pod);
        let lists = asking.keys().map(|namespace| {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let (labels, should) = (&not_ours, &should);
            async move { list(&pods, labels, should).await }
        });
        let lists: Vec<_> = lists.collect();
        let lists = futures::stream::iter(lists).buffer_unordered(AT_ONCE);
        let lists: Vec<Vec<Pod>> = lists.try_collect().await?;
        let themselves = format!("{not_ours},{} in (enabled,required)", label::INJECT);
        let pods: Api<Pod> = Api::all(self.client.clone());
        let elsewhere = |pod: &Pod| {
            let namespace = pod.namespace().unwrap_or_default();
            !asking.contains_key(&namespace) && should(pod)
        };
        let themselves = list(&pods, &themselves, elsewhere).await?;
        Ok(lists.into_iter().flatten().chain(themselves).collect())
    }

    /// True if somebody asked that it carry the sidecar, and it can.
    fn should(
        &self,
        namespaces: &BTreeMap<String, Arc<Namespace>>,
        made: &Made,
        pod: &Pod,
    ) -> bool {
        let name = pod.namespace().unwrap_or_default();
        let Some(namespace) = namespaces.get(&name) else {
            return false;
        };
        let mut asked = asked(&self.home, (&name, namespace.labels()), pod.labels());
        if says_so(pod) && !made.makes(pod) {
            // To be taken for the operator's own is a way to opt out.
            let of_all = namespace_asks(&self.home, &name, namespace.labels());
            asked = of_all.filter(|asked| *asked == Asked::Required);
        }
        let gone = pod.metadata.deletion_timestamp.is_some() || ended(pod);
        let fit = !unfit(pod) || asked == Some(Asked::Required);
        asked.is_some() && !gone && fit && !pod.annotations().contains_key(MIRROR)
    }

    /// Tells of some, counts all.
    async fn tell_missed(&self, pods: Vec<Pod>) -> usize {
        for pod in few(pods.iter()) {
            const NOTE: &str = "this pod should carry the mesh's sidecar and does not: it was made before that was asked, or while the webhook was not; delete it, and what is made in its place has one";
            const POSES: &str = "this pod should carry the mesh's sidecar and does not: its label app.kubernetes.io/managed-by says that it is the operator's, which did not make it; take the label off whatever makes it";
            let note = if says_so(pod) { POSES } else { NOTE };
            self.tell(pod, ("SidecarMissing", note)).await;
        }
        pods.len()
    }

    async fn tell(&self, pod: &Pod, (reason, note): (&'static str, &str)) {
        let story = Story::warning(reason, ACTION, note);
        self.events.tell_of(&pod.object_ref(&()), &story).await;
    }

    /// Of those that say they carry it: how many do not, and how many are of another template.
    async fn carrying(&self, namespaces: &BTreeMap<String, Arc<Namespace>>) -> (usize, usize) {
        let (mut forged, mut outdated) = (Vec::new(), 0);
        let made = Made::of(&self.world);
        let all = self.world.injected.state();
        let foreign = |pod: &&Pod| pod.annotations().contains_key(FOREIGN);
        for pod in few(all.iter().map(|pod| &**pod).filter(foreign)) {
            let hosts = &pod.annotations()[FOREIGN];
            let note = format!(
                "containers send past the mesh by an OPENAI_BASE_URL of their own: {hosts}"
            );
            self.tell(pod, ("ForeignBaseUrl", &note)).await;
        }
        for pod in all {
            let annotations = pod.annotations();
            let init = pod
                .spec
                .iter()
                .flat_map(|spec| spec.init_containers.iter().flatten());
            let carries = init.into_iter().any(|one| one.name == CONTAINER);
            match annotations.get(TEMPLATE) {
                Some(hash) if carries => {
                    outdated += usize::from(*hash != self.hash && !ended(&pod));
                }
                _ if self.should(namespaces, &made, &pod) => forged.push((*pod).clone()),
                _ => {}
            }
        }
        (self.tell_missed(forged).await, outdated)
    }
}

/// Living pods with these labels of which this is true, without what they are made of.
async fn list(
    api: &Api<Pod>,
    labels: &str,
    wanted: impl Fn(&Pod) -> bool,
) -> kube::Result<Vec<Pod>> {
    let living = "status.phase!=Succeeded,status.phase!=Failed";
    let params = ListParams::default().labels(labels).fields(living);
    let mut found = Vec::new();
    let see = |mut pod: Pod| {
        if wanted(&pod) {
            (pod.spec, pod.status) = (None, None);
            pod.metadata.managed_fields = None;
            found.push(pod);
        }
    };
    pages::each(api, params, see).await?;
    Ok(found)
}

fn ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// True if no sidecar can be in it.
fn unfit(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_some_and(|spec| spec.host_network == Some(true) || windows(spec))
}

/// What the webhook says of the same.
fn windows(spec: &PodSpec) -> bool {
    let nodes = spec
        .affinity
        .as_ref()
        .and_then(|one| one.node_affinity.as_ref());
    mutate::windows(&json!({
        "os": spec.os, "nodeSelector": spec.node_selector, "affinity": {"nodeAffinity": nodes},
    }))
}

/// The first by name of each namespace, so that the next look finds the same; fewer of each where there are many.
fn few<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<&'a Pod> {
    let mut all: Vec<&Pod> = pods.collect();
    all.sort_by_cached_key(|pod| (pod.namespace(), pod.name_any()));
    let mut told: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for pod in &all {
        told.insert(pod.namespace(), 0);
    }
    let each = (ALL / told.len().max(1)).clamp(1, TOLD);
    all.retain(|pod| {
        let number = told.entry(pod.namespace()).or_default();
        *number += 1;
        *number <= each
    });
    all.truncate(ALL);
    all
}

/// Namespaces that ask for all of their pods.
fn asking(home: &str, namespaces: &BTreeMap<String, Arc<Namespace>>) -> BTreeMap<String, Asked> {
    let asks = |(name, namespace): (&String, &Arc<Namespace>)| {
        let asked = namespace_asks(home, name, namespace.labels())?;
        Some((name.clone(), asked))
    };
    namespaces.iter().filter_map(asks).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    use super::{ALL, Api, TOLD, few, list, trim, unfit};
    use crate::pages::testing::{pods, query, server};

    fn pod(namespace: &str, name: &str, spec: &Value) -> Pod {
        let pod = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn the_same_few_pods_of_each_namespace_are_told_of_however_many_there_are() {
        let spec = json!({"containers": []});
        let mut pods: Vec<Pod> = (0..100)
            .map(|number| pod("many", &format!("p-{number:03}"), &spec))
            .collect();
        pods.push(pod("one", "p", &spec));
        pods.reverse();
        let names = |pods: &[Pod]| -> Vec<String> {
            let told = few(pods.iter());
            told.into_iter().map(ResourceExt::name_any).collect()
        };
        let first = names(&pods);
        assert_eq!(first.len(), TOLD + 1);
        assert!(first.contains(&"p".to_owned()) && first.contains(&"p-019".to_owned()));
        pods.rotate_left(37);
        assert_eq!(names(&pods), first);
    }

    #[test]
    fn of_pods_in_many_namespaces_no_more_are_told_of_than_are_remembered() {
        let spec = json!({"containers": []});
        for (namespaces, each) in [(300, 3), (ALL + 50, 1)] {
            let mut pods: Vec<Pod> = Vec::new();
            for namespace in 0..namespaces {
                let names = (0..TOLD).map(|number| format!("p-{number:02}"));
                pods.extend(names.map(|name| pod(&format!("n-{namespace:04}"), &name, &spec)));
            }
            let told = few(pods.iter());
            assert!(told.len() <= ALL, "{}", told.len());
            assert_eq!(told.len(), (namespaces * each).min(ALL));
            let first: Vec<String> = told.iter().map(|pod| pod.name_any()).collect();
            pods.rotate_left(1234);
            let again: Vec<String> = few(pods.iter()).iter().map(|pod| pod.name_any()).collect();
            assert_eq!(first, again);
        }
    }

    #[tokio::test]
    async fn all_pages_of_pods_are_looked_at_and_no_more_is_kept_than_is_told() {
        let client = server(|path| {
            let spec = json!({"containers": [{"name": "c"}]});
            let named =
                |name: &str| json!({"metadata": {"namespace": "n", "name": name}, "spec": spec});
            let (first, second) = ([named("a"), named("other")], [named("b")]);
            Box::pin(async move {
                match query(&path, "continue") {
                    None => pods(&first, "more"),
                    Some(_) => pods(&second, ""),
                }
            })
        });
        let api: Api<Pod> = Api::namespaced(client, "n");
        let found = list(&api, "x", |pod| {
            pod.spec.is_some() && pod.name_any() != "other"
        });
        let found = found.await.expect("a list");
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(found.iter().all(|pod| pod.spec.is_none()));
    }

    #[test]
    fn a_pod_that_only_windows_nodes_take_is_unfit_also_as_it_is_remembered() {
        let required = |systems: &[&str]| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": systems}]}]}}}})
        };
        for (spec, so) in [
            (json!({"containers": []}), false),
            (json!({"containers": [], "os": {"name": "windows"}}), true),
            (
                json!({"containers": [], "nodeSelector": {"kubernetes.io/os": "windows"}}),
                true,
            ),
            (required(&["windows"]), true),
            (required(&["linux", "windows"]), false),
        ] {
            let mut pod = pod("n", "p", &spec);
            assert_eq!(unfit(&pod), so, "{spec}");
            trim(&mut pod);
            assert_eq!(unfit(&pod), so, "{spec} as it is remembered");
        }
    }
}
