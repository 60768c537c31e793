//! Everything the operator looks at, kept in memory, and only as much of it as is looked at.

mod changes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Namespace, Node, NodeCondition, NodeSpec, NodeStatus,
    PersistentVolumeClaim, Pod, PodSpec, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use mesh_crds::{
    Document, InferenceBackend, ModelCache, Object, Parsed, SovereigntyPolicy, label, parse_object,
};
use mesh_runtime::Shutdown;
use mesh_watch::{Progress, Scope, Watches, strip};
use tokio::sync::watch;

use changes::Collector;
pub(crate) use changes::{Changes, Id};

use crate::backend::Claims;
use crate::metrics::Standing;

/// Label and value of everything that the operator makes.
pub(crate) const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "mesh-operator");

/// What selects the pods of gateways.
const GATEWAYS: &str =
    "app.kubernetes.io/part-of=inference-mesh,app.kubernetes.io/component=gateway";

/// Everything that is watched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) caches: Store<DynamicObject>,
    pub(crate) backends: Store<DynamicObject>,
    pub(crate) policies: Store<DynamicObject>,
    pub(crate) revisions: Store<ControllerRevision>,
    pub(crate) nodes: Store<Node>,
    pub(crate) namespaces: Store<Namespace>,
    /// Networks of Services.
    pub(crate) service_networks: Store<ServiceCIDR>,
    pub(crate) pods: Store<Pod>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) stateful_sets: Store<StatefulSet>,
    pub(crate) services: Store<Service>,
    pub(crate) accounts: Store<ServiceAccount>,
    pub(crate) budgets: Store<PodDisruptionBudget>,
    /// All of them: those of others may open what ours close.
    pub(crate) networks: Store<NetworkPolicy>,
    /// Pods in their node's network, where no NetworkPolicy holds.
    pub(crate) host_pods: Store<Pod>,
    pub(crate) claims: Claims,
    /// What fills volumes and finds out digests.
    pub(crate) jobs: Store<Job>,
    /// Volumes with models.
    pub(crate) volumes: Store<PersistentVolumeClaim>,
    /// Pods of the Jobs of caches.
    pub(crate) fetchers: Store<Pod>,
    /// Pods that try to get out of confined namespaces.
    pub(crate) canaries: Store<Pod>,
    /// What members are told to trust.
    pub(crate) trusts: Store<ConfigMap>,
    /// Pods of gateways, which know how backends do.
    pub(crate) gateways: Store<Pod>,
    /// Pods that say they carry the sidecar.
    pub(crate) injected: Store<Pod>,
    progress: Progress,
    collector: Collector,
    /// What the objects said when they were last read.
    said: Arc<Mutex<HashMap<Key, Read>>>,
}

/// Plural, namespace and name.
type Key = (&'static str, String, String);

impl World {
    /// Looks at `namespace` only, if that is the scope.
    pub(crate) fn watch(
        client: &Client,
        shutdown: &Shutdown,
        (scope, namespace): (Scope, &str),
    ) -> Self {
        let collector = Collector::default();
        let watches = Watches::new(
            client.clone(),
            shutdown.tracker.clone(),
            shutdown.token.clone(),
        )
        .within(scope, namespace)
        .told(collector.listener());
        let managed = format!("{}={}", MANAGED.0, MANAGED.1);
        Self {
            caches: watches.raw::<ModelCache>(),
            backends: watches.raw::<InferenceBackend>(),
            policies: watches.raw::<SovereigntyPolicy>(),
            revisions: watches.labeled(label::POLICY),
            nodes: watches.of_cluster_trimmed("", trim_node),
            namespaces: watches.of_cluster_trimmed("", trim_namespace),
            service_networks: watches
                .of_cluster_if_served(strip::service_network, mesh_crds::NO_SERVICE_NETWORKS),
            pods: watches.trimmed(label::BACKEND, trim_pod),
            deployments: watches.labeled(&managed),
            stateful_sets: watches.labeled(&managed),
            services: watches.labeled(&managed),
            accounts: watches.labeled(&managed),
            budgets: watches.labeled(&managed),
            networks: watches.labeled(""),
            host_pods: watches.fields("spec.hostNetwork=true", strip::pod),
            jobs: watches.labeled(&managed),
            volumes: watches.labeled(&managed),
            fetchers: watches.trimmed(
                &format!("{},!{}", label::MODEL_CACHE, label::BACKEND),
                trim_pod,
            ),
            gateways: watches.trimmed(GATEWAYS, strip::pod),
            canaries: watches.trimmed(label::CANARY, trim_pod),
            trusts: watches.fields(&format!("metadata.name={}", crate::trust::NAME), |_| ()),
            injected: watches.trimmed(label::INJECTED, crate::inject::trim),
            progress: watches.progress(),
            collector,
            said: Arc::default(),
            claims: Claims::new(client.clone(), watches),
        }
    }

    /// Tells of every change.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.progress.changed()
    }

    /// Namespaces with a mesh of their own, which a mesh of the whole cluster leaves alone.
    pub(crate) fn own_meshes(&self) -> BTreeSet<String> {
        let all = self.namespaces.state();
        all.iter()
            .filter(|namespace| has_own_mesh(&***namespace))
            .map(|namespace| namespace.name_any())
            .collect()
    }

    /// What is not known yet, or no longer.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut all = self.progress.missing();
        all.extend(self.progress.lost());
        all
    }

    /// What changed since this was last asked.
    pub(crate) fn take_changes(&self) -> Changes {
        self.collector.take()
    }

    /// All objects of our kinds, read: caches, backends, policies. What an object says is read once, however
    /// often its status changes: checking schema and rules is most of a pass.
    pub(crate) fn read(&self) -> [Vec<Read>; 3] {
        let others = self.own_meshes();
        let mut known = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashMap::with_capacity(known.len());
        let mut all = |plural: &'static str, store: &Store<DynamicObject>| -> Vec<Read> {
            let mut objects = store.state();
            objects.retain(|object| !object.namespace().is_some_and(|own| others.contains(&own)));
            objects.sort_by_cached_key(|raw| (raw.namespace(), raw.name_any()));
            let read = |raw: Arc<DynamicObject>| {
                let key = (plural, raw.namespace().unwrap_or_default(), raw.name_any());
                let read = match known.remove(&key) {
                    Some(old) if old.says_the_same(&raw) => old.now(raw),
                    _ => Read::new(raw),
                };
                fresh.insert(key, read.clone());
                read
            };
            objects.into_iter().map(read).collect()
        };
        let found = [
            all("modelcaches", &self.caches),
            all("inferencebackends", &self.backends),
            all("sovereigntypolicies", &self.policies),
        ];
        *known = fresh;
        found
    }

    /// How many objects have which condition.
    pub(crate) fn standing(&self) -> BTreeMap<Standing, i64> {
        let mut counted = BTreeMap::new();
        let kinds = [
            ("ModelCache", &self.caches),
            ("InferenceBackend", &self.backends),
            ("SovereigntyPolicy", &self.policies),
        ];
        for (kind, store) in kinds {
            for object in store.state() {
                // Nothing but a later release makes a peer ready: alerts are about what somebody can mend.
                if object.data.pointer("/spec/peer").is_some() {
                    continue;
                }
                let conditions = object.data.pointer("/status/conditions");
                let conditions = conditions.and_then(serde_json::Value::as_array);
                for condition in conditions.into_iter().flatten() {
                    let word = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
                    let standing = Standing {
                        kind,
                        condition: word("type"),
                        status: word("status"),
                    };
                    *counted.entry(standing).or_default() += 1;
                }
            }
        }
        counted
    }
}

/// True if a namespace says that it has a mesh of its own.
pub(crate) fn has_own_mesh(namespace: &impl ResourceExt) -> bool {
    namespace.labels().get(label::MESH).map(String::as_str) == Some(label::OWN)
}

/// Whose mesh it has is a label.
fn trim_namespace(namespace: &mut Namespace) {
    namespace.status = None;
    namespace.metadata.annotations = None;
    namespace.metadata.resource_version = None;
}

/// Whose a node is, what it has for pods, and whether it is there; the rest of it changes every few seconds.
fn trim_node(node: &mut Node) {
    let status = node.status.take().unwrap_or_default();
    let conditions = status.conditions.into_iter().flatten();
    let ready = conditions.filter(|one| one.type_ == "Ready");
    let bare = ready.map(|one| NodeCondition {
        last_heartbeat_time: None,
        last_transition_time: None,
        ..one
    });
    node.status = Some(NodeStatus {
        allocatable: status.allocatable,
        conditions: Some(bare.collect()),
        ..NodeStatus::default()
    });
    node.metadata.annotations = None;
    node.metadata.resource_version = None;
    let spec = node.spec.take().unwrap_or_default();
    node.spec = Some(NodeSpec {
        provider_id: spec.provider_id,
        pod_cidr: spec.pod_cidr,
        pod_cidrs: spec.pod_cidrs,
        ..NodeSpec::default()
    });
}

/// Where a pod is, what its containers may use, and what became of it. What else it was asked to be stands
/// in whatever made it.
fn trim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.resource_version = None;
    let part = |one: Container| Container {
        name: one.name,
        resources: one.resources,
        restart_policy: one.restart_policy,
        ..Container::default()
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        containers: spec.containers.into_iter().map(part).collect(),
        init_containers: spec
            .init_containers
            .map(|all| all.into_iter().map(part).collect()),
        // What keeps a claim from going.
        volumes: spec.volumes.map(|all| {
            all.into_iter()
                .filter(|one| one.persistent_volume_claim.is_some())
                .collect()
        }),
        ..PodSpec::default()
    });
    let conditions = pod.status.iter_mut();
    for condition in conditions.flat_map(|status| status.conditions.iter_mut().flatten()) {
        condition.last_probe_time = None;
    }
}

/// An object of one of the kinds, through the same door as files: schema, rules, and what a cluster does
/// not have. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Read {
    /// The object as it came.
    pub(crate) raw: Arc<DynamicObject>,
    said: Arc<Said>,
}

struct Said {
    /// What it says, if that can be used.
    document: Option<Document>,
    /// What is wrong with it.
    parsed: Parsed,
}

impl Read {
    pub(crate) fn new(raw: Arc<DynamicObject>) -> Self {
        let mut parsed = parse_object(&raw, raw.data.get("spec"), &[]);
        let document = parsed.documents.pop();
        Self {
            raw,
            said: Arc::new(Said { document, parsed }),
        }
    }

    /// True if `raw` differs at most in what is not read: its status.
    fn says_the_same(&self, raw: &DynamicObject) -> bool {
        let (old, new) = (&self.raw.metadata, &raw.metadata);
        old.uid == new.uid
            && old.generation == new.generation
            && old.labels == new.labels
            && old.annotations == new.annotations
            && self.raw.types == raw.types
    }

    fn now(self, raw: Arc<DynamicObject>) -> Self {
        Self { raw, ..self }
    }

    /// What it says and where each field stood, if that can be used.
    pub(crate) fn document(&self) -> Option<&Document> {
        self.said.document.as_ref()
    }

    /// What it says, if that can be used.
    pub(crate) fn object(&self) -> Option<&Object> {
        self.document().map(|document| &document.object)
    }

    pub(crate) fn namespace(&self) -> String {
        self.raw.namespace().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> String {
        self.raw.name_any()
    }

    pub(crate) fn deleted(&self) -> bool {
        self.raw.meta().deletion_timestamp.is_some()
    }

    /// Everything that keeps the object from being used, as one message.
    pub(crate) fn faults(&self) -> Option<String> {
        let faults: Vec<String> = self
            .said
            .parsed
            .problems
            .iter()
            .filter(|problem| problem.error())
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// The reason of the first of them.
    pub(crate) fn reason(&self) -> &'static str {
        let mut faults = self
            .said
            .parsed
            .problems
            .iter()
            .filter(|problem| problem.error());
        faults
            .next()
            .map_or("InvalidSpec", mesh_crds::Problem::reason)
    }
}
