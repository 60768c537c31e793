//! Everything that is declared at one moment, read and judged together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use mesh_core::policy::Ownership;
use mesh_core::{Caller, Node, Pod, Snapshot};
use mesh_crds::{
    ConvertInput, PodMap, Problem, cluster_networks, label, node_evidence, object_file,
    to_snapshot_lenient,
};
use mesh_routing::join;
use mesh_watch::Scope;

use super::Pass;
use crate::backend::{Fleet, PodView, lost, view_among};
use crate::cache;
use crate::world::{Id, Read};

/// The address of a pod does not matter for its class.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Everything declared at one moment, read.
pub(crate) struct Seen {
    pub(crate) caches: Vec<Read>,
    pub(crate) backends: Vec<Read>,
    pub(crate) policies: Vec<Read>,
    pub(crate) pods: BTreeMap<(String, String), Vec<PodView>>,
    /// What ModelCaches want and have.
    pub(crate) models: BTreeMap<Id, cache::State>,
    pub(crate) around: cache::Around,
    /// What the nodes have.
    pub(crate) fleet: Fleet,
    pub(crate) snapshot: Snapshot,
    /// Where each backend stands in it.
    pub(crate) places: BTreeMap<Id, usize>,
    /// What counts as owned.
    pub(crate) ownership: Ownership,
    /// The first that is wrong with an object beside others, by what [`object_file`] calls it.
    pub(crate) problems: BTreeMap<String, Problem>,
    pub(crate) now: Timestamp,
}

impl Seen {
    /// What keeps an object from being used: its own fault, or what it refers to.
    pub(crate) fn fault(&self, read: &Read) -> Option<(String, String)> {
        if let Some(message) = read.faults() {
            return Some((read.reason().to_owned(), message));
        }
        let problem = self.problems.get(&object_file(&read.raw))?;
        Some((
            problem.reason().to_owned(),
            format!("{}: {}", problem.field, problem.message),
        ))
    }
}

impl Pass {
    pub(crate) fn look(&self) -> Seen {
        let [caches, backends, policies] = self.world.read();
        let nodes = self.world.nodes.state();
        let pods = self.pods_of(&lost(&nodes));
        let ready = self.ready(&pods);
        let now = Timestamp::now();
        let around = cache::Around::new(&self.world, &self.poll);
        let model = |read: &Read| {
            let state = cache::look(read, &self.world, &around, now)?;
            Some(((read.namespace(), read.name()), state))
        };
        let alive = caches.iter().filter(|read| !read.deleted());
        let models = alive.filter_map(model).collect();
        let networks = cluster_networks(
            &nodes,
            &self.world.service_networks.state(),
            &self.options.cluster_networks,
        );
        let input = ConvertInput {
            mesh_namespace: &self.options.mesh_namespace,
            generation: 0,
            now,
            // The gateways resolve names and check them at every connection; here a name is a name.
            resolve: &|_| Vec::<IpAddr>::new(),
            pods: Some(&ready),
            cluster_networks: &networks,
        };
        let documents = [&caches, &backends, &policies]
            .into_iter()
            .flatten()
            .filter_map(|read| read.document().cloned())
            .collect();
        let (mut converted, problems) = to_snapshot_lenient(documents, &input, &|_, _, _| None);
        if self.options.scope == Scope::Namespaced {
            converted.snapshot.forget_nodes();
        }
        let everybody = Caller::local(&self.options.mesh_namespace);
        let place = |(number, backend): (usize, &Arc<mesh_core::Backend>)| {
            let id = (backend.id.namespace.clone(), backend.id.name.clone());
            (id, number)
        };
        let places = converted.snapshot.backends.iter().enumerate();
        let mut first = BTreeMap::new();
        for problem in problems.into_iter().filter(Problem::error) {
            first.entry(problem.file.clone()).or_insert(problem);
        }
        Seen {
            places: places.map(place).collect(),
            caches,
            backends,
            policies,
            pods,
            models,
            around,
            fleet: Fleet::new(&nodes),
            ownership: join(&converted.snapshot, &everybody).ownership().clone(),
            snapshot: converted.snapshot,
            problems: first,
            now,
        }
    }

    /// Pods by backend.
    fn pods_of(&self, lost: &BTreeMap<String, String>) -> BTreeMap<Id, Vec<PodView>> {
        let mut pods: BTreeMap<Id, Vec<PodView>> = BTreeMap::new();
        for pod in self.world.pods.state() {
            if let (Some(namespace), Some(backend)) =
                (pod.namespace(), pod.labels().get(label::BACKEND))
            {
                pods.entry((namespace, backend.clone()))
                    .or_default()
                    .push(view_among(&pod, lost));
            }
        }
        pods
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
}
