//! Which pods serve which backend, and which addresses are the mesh's own.
//!
//! Only the pod itself is believed: its address and node are what the kubelet and the scheduler wrote, and
//! it counts only if it runs as the ServiceAccount that the operator made for its backend. EndpointSlices,
//! which everybody with `edit` may write, are not looked at.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;
use mesh_core::own_machine;
use mesh_crds::{PodMap, child_name, label, node_evidence};

/// Port of the API of a pod: TLS, by which it proves whose it is.
const API: u16 = 8444;
/// Port of a worker's metrics and health.
pub(crate) const ADMIN: u16 = 8081;
/// Label of every pod of the mesh.
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of=inference-mesh";

const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "worker");
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "mesh-operator");

/// Pods that serve, by backend, with what is known of their nodes. Where none of a backend is ready, those
/// that would be but for their node: the API server calls a node lost, and all its pods, when it has not heard
/// of it, which after an outage of its own is every node.
pub(crate) fn serving(pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> PodMap {
    let nodes: BTreeMap<String, Arc<mesh_core::Node>> = nodes
        .iter()
        .map(|node| (node.name_any(), Arc::new(node_evidence(node))))
        .collect();
    let (mut map, mut doubtful) = (PodMap::new(), PodMap::new());
    for pod in pods {
        let Some((id, address, state)) = worker(pod) else {
            continue;
        };
        let map = match state {
            State::Ready => &mut map,
            State::NodeLost => &mut doubtful,
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        map.entry(id).or_default().push(Arc::new(mesh_core::Pod {
            name: pod.name_any(),
            address: SocketAddr::new(address, API),
            node: node.and_then(|name| nodes.get(name).cloned()),
        }));
    }
    for (id, list) in doubtful {
        map.entry(id).or_insert(list);
    }
    for list in map.values_mut() {
        list.sort_by_key(|pod| pod.address);
        list.dedup_by_key(|pod| pod.address);
    }
    map
}

/// How sure it is that a pod answers.
#[derive(Clone, Copy)]
enum State {
    Ready,
    /// Its containers were ready when its node was last heard of.
    NodeLost,
}

/// The backend that a pod serves, and where; none if it is not ready, or of another's making.
fn worker(pod: &Pod) -> Option<((String, String), IpAddr, State)> {
    let labels = pod.labels();
    let ours = [COMPONENT, MANAGED_BY]
        .iter()
        .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
    let (namespace, backend) = (pod.namespace()?, labels.get(label::BACKEND)?);
    let spec = pod.spec.as_ref()?;
    let account = spec.service_account_name.as_deref()?;
    // Of a pod in the node's network the address is the node's, and no NetworkPolicy holds.
    let aside = spec.host_network.unwrap_or_default();
    if !ours || aside || account != child_name(backend) {
        return None;
    }
    let state = state(pod)?;
    let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    (!own_machine(address)).then(|| ((namespace, backend.clone()), address, state))
}

/// The node lifecycle controller sets `Ready` of the pods of a lost node to false and leaves `ContainersReady` as
/// the kubelet wrote it last; a kubelet that is there sets both, since workers have no readiness gates.
fn state(pod: &Pod) -> Option<State> {
    let holds = |kind: &str| {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        conditions.any(|one| one.type_ == kind && one.status == "True")
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if holds("Ready") {
        return Some(State::Ready);
    }
    holds("ContainersReady").then_some(State::NodeLost)
}

/// Addresses of all pods of the mesh and of the Services of its namespace.
pub(crate) fn own_addresses(pods: &[Arc<Pod>], services: &[Arc<Service>]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for status in pods.iter().filter_map(|pod| pod.status.as_ref()) {
        let further = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        found.extend(further.chain(status.pod_ip.as_deref()).filter_map(read));
    }
    for service in services {
        let spec = service.spec.iter();
        let declared = spec.flat_map(|spec| {
            let lists = spec.cluster_ips.iter().chain(&spec.external_ips).flatten();
            lists.chain(&spec.cluster_ip)
        });
        found.extend(declared.filter_map(|address| read(address)));
        let balancer = service
            .status
            .iter()
            .filter_map(|status| status.load_balancer.as_ref())
            .flat_map(|balancer| balancer.ingress.iter().flatten());
        found.extend(balancer.filter_map(|entry| read(entry.ip.as_ref()?)));
    }
    found
}

fn read(address: &str) -> Option<IpAddr> {
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod, Service};
    use serde_json::{Value, json};

    use super::{own_addresses, serving};

    fn pod(change: &Value) -> Arc<Pod> {
        let mut whole = json!({
            "metadata": {"name": "floor-worker-1", "namespace": "mesh-system", "labels": {
                "app.kubernetes.io/component": "worker", "app.kubernetes.io/managed-by": "mesh-operator",
                "app.kubernetes.io/part-of": "inference-mesh", "inferencemesh.dev/backend": "floor"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "floor-worker", "containers": []},
            "status": {"podIP": "10.78.1.7", "podIPs": [{"ip": "10.78.1.7"}, {"ip": "fd00::7"}], "conditions": [{"type": "Ready", "status": "True"}]},
        });
        merge(&mut whole, change);
        let mut pod = serde_json::from_value(whole).expect("a pod");
        // As it is kept: what is not, nothing can be told from.
        mesh_watch::strip::pod(&mut pod);
        Arc::new(pod)
    }

    /// RFC 7396, as far as it is needed.
    fn merge(target: &mut Value, change: &Value) {
        match change {
            Value::Object(fields) => {
                for (key, value) in fields {
                    merge(&mut target[key.as_str()], value);
                }
            }
            other => *target = other.clone(),
        }
    }

    fn nodes() -> Vec<Arc<Node>> {
        let node = json!({"metadata": {"name": "n1", "labels": {"owned": "true"}}});
        vec![Arc::new(serde_json::from_value(node).expect("a node"))]
    }

    #[test]
    fn a_ready_pod_of_the_operator_serves_at_its_own_address_on_its_own_node() {
        let map = serving(&[pod(&json!({}))], &nodes());
        let id = (String::from("mesh-system"), String::from("floor"));
        let [one] = &map[&id][..] else {
            panic!("one pod: {map:?}")
        };
        assert_eq!(one.address, ([10, 78, 1, 7], super::API).into());
        assert_eq!(one.node.as_ref().expect("a node").labels["owned"], "true");
    }

    #[test]
    fn a_pod_of_another_making_serves_nobody() {
        for change in [
            json!({"spec": {"serviceAccountName": "default"}}),
            json!({"spec": {"serviceAccountName": "other-worker"}}),
            json!({"spec": {"hostNetwork": true}}),
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}),
            json!({"metadata": {"labels": {"app.kubernetes.io/component": "gateway"}}}),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            json!({"status": {"conditions": null}}),
            json!({"status": {"podIP": null}}),
            json!({"status": {"podIP": "127.0.0.1"}}),
        ] {
            let map = serving(&[pod(&change)], &nodes());
            assert!(map.is_empty(), "{change}: {map:?}");
        }
    }

    #[test]
    fn pods_whose_node_is_lost_serve_only_where_no_other_does() {
        let lost = |ip: &str, containers: &str| {
            pod(
                &json!({"status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": containers}]}}),
            )
        };
        let addresses = |pods: &[Arc<Pod>]| -> Vec<String> {
            let map = serving(pods, &nodes());
            let all = map.values().flatten();
            all.map(|pod| pod.address.ip().to_string()).collect()
        };
        let (away, broken) = (lost("10.78.1.8", "True"), lost("10.78.1.9", "False"));
        assert_eq!(addresses(&[away.clone(), broken.clone()]), ["10.78.1.8"]);
        assert_eq!(addresses(&[away, pod(&json!({})), broken]), ["10.78.1.7"]);
    }

    #[test]
    fn a_pod_on_a_node_that_nobody_knows_has_no_evidence() {
        let map = serving(&[pod(&json!({"spec": {"nodeName": "gone"}}))], &nodes());
        assert!(map.values().flatten().all(|pod| pod.node.is_none()));
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn every_address_of_the_mesh_is_known() {
        let service = json!({"spec": {"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9", "fd01::9"], "externalIPs": ["198.51.100.1"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}, {"hostname": "a.example"}]}}});
        let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        let services: Vec<Arc<Service>> = [service, headless]
            .into_iter()
            .map(|service| Arc::new(serde_json::from_value(service).expect("a service")))
            .collect();
        let unready = json!({"status": {"conditions": null}, "metadata": {"labels": {"app.kubernetes.io/component": "gateway"}}});
        let mut found: Vec<String> = own_addresses(&[pod(&unready)], &services)
            .iter()
            .map(ToString::to_string)
            .collect();
        found.sort();
        found.dedup();
        assert_eq!(
            found,
            [
                "10.0.0.9",
                "10.78.1.7",
                "198.51.100.1",
                "203.0.113.5",
                "fd00::7",
                "fd01::9"
            ]
        );
    }
}
