//! What is kept of an object in memory. Clusters have many pods, and a pod is mostly its template.

use k8s_openapi::api::core::v1::PodIP;
use k8s_openapi::api::core::v1::{
    Namespace, Node, NodeSpec, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ObjectMeta;

/// Of a pod: who it is, where it runs and as whom, and whether it serves, or would but for its node.
pub fn pod(pod: &mut Pod) {
    metadata(&mut pod.metadata);
    let spec = pod.spec.take().unwrap_or_default();
    pod.spec = Some(PodSpec {
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        ..PodSpec::default()
    });
    let status = pod.status.take().unwrap_or_default();
    let ready =
        |condition: &PodCondition| ["Ready", "ContainersReady"].contains(&condition.type_.as_str());
    let bare = |condition: PodCondition| PodCondition {
        type_: condition.type_,
        status: condition.status,
        ..PodCondition::default()
    };
    let conditions = status.conditions.into_iter().flatten();
    let ips = status.pod_ips.into_iter().flatten();
    pod.status = Some(PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: Some(ips.map(|ip| PodIP { ip: ip.ip }).collect()),
        conditions: Some(conditions.filter(ready).map(bare).collect()),
        ..PodStatus::default()
    });
}

/// Of a node: its name, its labels, who rents it out, and which addresses its pods get.
pub fn node(node: &mut Node) {
    metadata(&mut node.metadata);
    let spec = node.spec.take().unwrap_or_default();
    node.spec = Some(NodeSpec {
        provider_id: spec.provider_id,
        pod_cidr: spec.pod_cidr,
        pod_cidrs: spec.pod_cidrs,
        ..NodeSpec::default()
    });
    node.status = None;
}

/// Of a network of Services: the network.
pub fn service_network(network: &mut ServiceCIDR) {
    metadata(&mut network.metadata);
    network.metadata.labels = None;
    network.status = None;
}

/// Of a namespace: its name and its labels.
pub fn namespace(namespace: &mut Namespace) {
    metadata(&mut namespace.metadata);
    namespace.spec = None;
    namespace.status = None;
}

fn metadata(metadata: &mut ObjectMeta) {
    metadata.annotations = None;
    metadata.managed_fields = None;
    metadata.finalizers = None;
    // A change in what is not kept is none.
    metadata.resource_version = None;
    metadata.generation = None;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    #[test]
    fn of_a_pod_is_kept_what_tells_where_it_serves_and_nothing_else() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {"long": "text"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "s", "containers": [{"name": "c", "env": [{"name": "KEY", "value": "v"}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}], "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}, {"type": "Initialized", "status": "True"},
                {"type": "ContainersReady", "status": "True", "reason": "r"}],
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]},
        }))
        .expect("a pod");
        super::pod(&mut pod);
        let mut kept = serde_json::to_value(&pod).expect("JSON");
        kept["spec"]
            .as_object_mut()
            .expect("a spec")
            .remove("containers");
        assert_eq!(
            kept,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
                "spec": {"nodeName": "n1", "serviceAccountName": "s"},
                "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}], "conditions": [
                    {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]},
            })
        );
        assert_ne!(kept, Value::Null);
    }
}
