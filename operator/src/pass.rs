//! One pass: everything that is declared, against everything that is there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, DynamicObject, PostParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use mesh_core::policy::Ownership;
use mesh_core::{Caller, Node, ObjectId, Pod, Snapshot};
use mesh_crds::{
    ConvertInput, PodMap, Problem, condition, label, node_evidence, object_file,
    to_snapshot_lenient,
};
use mesh_routing::join;
use mesh_watch::Scope;
use serde_json::Value;

use crate::apply::{Error, Writer};
use crate::args::Run;
use crate::backend::{Fleet, Images, PodView, view};
use crate::metrics::Metrics;
use crate::world::{Read, World};
use crate::{bootstrap, cache, policy, status};

/// Changes that come in a burst are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Everything is looked at at least this often: claims expire.
const RESYNC: Duration = Duration::from_mins(1);
/// The address of a pod does not matter for its class.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// After something could not be written.
const RETRY: Duration = Duration::from_secs(2);

/// Makes the cluster match what is declared.
pub(crate) struct Pass {
    client: Client,
    pub(crate) options: Run,
    pub(crate) images: Images,
    pub(crate) world: World,
    pub(crate) writer: Writer,
    metrics: Metrics,
    bootstrap: Vec<Value>,
}

/// Everything declared at one moment, read.
pub(crate) struct Seen {
    pub(crate) caches: Vec<Read>,
    backends: Vec<Read>,
    policies: Vec<Read>,
    pub(crate) pods: BTreeMap<(String, String), Vec<PodView>>,
    /// What the nodes have.
    pub(crate) fleet: Fleet,
    pub(crate) snapshot: Snapshot,
    /// What counts as owned.
    pub(crate) ownership: Ownership,
    /// What is wrong with objects beside others.
    problems: Vec<Problem>,
    pub(crate) now: Timestamp,
}

impl Seen {
    /// What keeps an object from being used: its own fault, or what it refers to.
    pub(crate) fn fault(&self, read: &Read) -> Option<(String, String)> {
        if let Some(message) = read.faults() {
            return Some((read.reason().to_owned(), message));
        }
        let own = object_file(&read.raw);
        let problem = self
            .problems
            .iter()
            .find(|problem| problem.error() && problem.file == own)?;
        Some((
            problem.reason().to_owned(),
            format!("{}: {}", problem.field, problem.message),
        ))
    }
}

impl Pass {
    pub(crate) fn new(
        client: Client,
        options: Run,
        world: World,
        metrics: Metrics,
        bootstrap: Vec<Value>,
    ) -> Self {
        Self {
            writer: Writer {
                client: client.clone(),
                metrics: metrics.clone(),
            },
            images: Images::from(&options),
            client,
            options,
            world,
            metrics,
            bootstrap,
        }
    }

    /// Until dropped.
    pub(crate) async fn run(&self) {
        let mut changed = self.world.changed();
        let mut failures = 0;
        loop {
            changed.borrow_and_update();
            let good = if self.world.missing().is_empty() {
                self.once().await
            } else {
                true
            };
            tokio::time::sleep(DEBOUNCE).await;
            failures = if good { 0 } else { failures + 1 };
            let wait = if good { RESYNC } else { rest(failures) };
            if let Ok(Err(_)) = tokio::time::timeout(wait, changed.changed()).await {
                return;
            }
        }
    }

    /// True if everything is as it should be.
    async fn once(&self) -> bool {
        self.metrics.passed();
        bootstrap::ensure(
            &self.client,
            &self.world,
            &self.options.mesh_namespace,
            &self.bootstrap,
        )
        .await;
        let seen = self.look();
        let mut good = true;
        for read in seen.caches.iter().filter(|read| !read.deleted()) {
            let status = cache::status(read, seen.now);
            good &= self.told(read, &self.writer.status(&read.raw, &status).await);
        }
        for read in seen.backends.iter().filter(|read| !read.deleted()) {
            good &= self.told(read, &self.backend(read, &seen).await);
        }
        let judged = policy::judge(&seen.snapshot, seen.now);
        for read in seen.policies.iter().filter(|read| !read.deleted()) {
            good &= self.told(read, &self.policy(read, &seen, &judged).await);
        }
        good
    }

    fn told(&self, read: &Read, outcome: &Result<(), Error>) -> bool {
        let kind = read
            .raw
            .types
            .as_ref()
            .map_or("", |types| types.kind.as_str());
        self.metrics.reconciled(kind, outcome.is_ok());
        if let Err(error) = outcome {
            tracing::warn!(kind, namespace = read.namespace(), name = read.name(), reason = error.reason(), %error, "not reconciled");
        }
        outcome.is_ok()
    }

    fn look(&self) -> Seen {
        let others = self.world.own_meshes();
        let read = |store: &Store<DynamicObject>| -> Vec<Read> {
            let mut all = store.state();
            all.retain(|object| !object.namespace().is_some_and(|own| others.contains(&own)));
            all.into_iter().map(Read::new).collect()
        };
        let (caches, backends, policies) = (
            read(&self.world.caches),
            read(&self.world.backends),
            read(&self.world.policies),
        );
        let mut pods: BTreeMap<(String, String), Vec<PodView>> = BTreeMap::new();
        for pod in self.world.pods.state() {
            if let (Some(namespace), Some(backend)) =
                (pod.namespace(), pod.labels().get(label::BACKEND))
            {
                pods.entry((namespace, backend.clone()))
                    .or_default()
                    .push(view(&pod));
            }
        }
        let ready = self.ready(&pods);
        let now = Timestamp::now();
        let input = ConvertInput {
            mesh_namespace: &self.options.mesh_namespace,
            generation: 0,
            now,
            // The gateways resolve names and check them at every connection; here a name is a name.
            resolve: &|_| Vec::<IpAddr>::new(),
            pods: Some(&ready),
        };
        let documents = [&caches, &backends, &policies]
            .into_iter()
            .flatten()
            .filter_map(|read| read.document.clone())
            .collect();
        let (mut converted, problems) = to_snapshot_lenient(documents, &input, &|_| None);
        if self.options.scope == Scope::Namespaced {
            converted.snapshot.forget_nodes();
        }
        let everybody = Caller::local(&self.options.mesh_namespace);
        Seen {
            caches,
            backends,
            policies,
            pods,
            fleet: Fleet::new(&self.world.nodes.state()),
            ownership: join(&converted.snapshot, &everybody).ownership().clone(),
            snapshot: converted.snapshot,
            problems,
            now,
        }
    }

    /// Pods that serve, with what is known of their nodes.
    fn ready(&self, pods: &BTreeMap<(String, String), Vec<PodView>>) -> PodMap {
        let nodes: BTreeMap<String, Arc<Node>> = self
            .world
            .nodes
            .state()
            .iter()
            .map(|node| (node.name_any(), Arc::new(node_evidence(node))))
            .collect();
        let serving = |list: &[PodView]| -> Vec<Arc<Pod>> {
            let mut serving: Vec<Arc<Pod>> = list
                .iter()
                .filter(|pod| pod.ready)
                .map(|pod| {
                    Arc::new(Pod {
                        name: pod.name.clone(),
                        // Nobody is sent to from here.
                        address: NOWHERE,
                        node: pod.node.as_ref().and_then(|name| nodes.get(name).cloned()),
                    })
                })
                .collect();
            serving.sort_by(|a, b| a.name.cmp(&b.name));
            serving
        };
        pods.iter()
            .map(|(id, list)| (id.clone(), serving(list)))
            .collect()
    }

    async fn policy(&self, read: &Read, seen: &Seen, judged: &policy::Judged) -> Result<(), Error> {
        let (namespace, name) = (read.namespace(), read.name());
        let id = if namespace == self.options.mesh_namespace {
            ObjectId::home(&namespace, &name)
        } else {
            ObjectId::foreign(&namespace, &name)
        };
        let found = seen.snapshot.policies.iter().find(|policy| policy.id == id);
        let fault = seen.fault(read);
        let verdict = policy::verdict(fault, found.map(AsRef::as_ref), judged, &id);
        let mut kept = self.kept(read);
        if let Some(revision) = policy::revision(read, &verdict, &kept) {
            self.keep(&revision).await?;
            kept.push(revision);
        }
        for old in kept.iter().rev().skip(policy::KEPT) {
            self.writer.delete(old).await?;
        }
        let ready = |floor: &(String, String)| {
            let backend = seen
                .backends
                .iter()
                .find(|read| (read.namespace(), read.name()) == *floor);
            backend.is_some_and(|read| status::holds(&read.raw, condition::READY))
        };
        let status = policy::status(read, &verdict, &kept, &ready, seen.now);
        self.writer.status(&read.raw, &status).await
    }

    /// Accepted versions of a policy, oldest first.
    fn kept(&self, read: &Read) -> Vec<ControllerRevision> {
        let uid = read.raw.metadata.uid.as_deref();
        let own = |revision: &ControllerRevision| {
            revision
                .metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let all = self.world.revisions.state();
        let mut kept: Vec<ControllerRevision> = all
            .iter()
            .filter(|revision| own(revision))
            .map(|revision| (**revision).clone())
            .collect();
        kept.sort_by_key(|revision| revision.revision);
        kept
    }

    async fn keep(&self, revision: &ControllerRevision) -> Result<(), Error> {
        let api: Api<ControllerRevision> = Api::namespaced(
            self.client.clone(),
            &revision.namespace().unwrap_or_default(),
        );
        self.metrics.wrote("ControllerRevision");
        match api.create(&PostParams::default(), revision).await {
            Ok(_) => Ok(()),
            // Made by a pass whose memory had not caught up.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(source) => Err(Error::Write {
                what: format!("ControllerRevision {}", revision.name_any()),
                source: Box::new(source),
            }),
        }
    }
}

/// Ever longer, so that what is refused again and again costs little.
fn rest(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.min(5)).min(RESYNC)
}
