//! Networks of a cluster itself: those that its pods and Services get their addresses from. Whoever may make a pod or a
//! Service has an address there, so that it says nothing of who runs the machine behind it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;

/// What is to be done where the API server has no `ServiceCIDR`s.
pub const NO_SERVICE_NETWORKS: &str = "give the networks of Services in the chart's clusterCIDRs, \
     else addresses of Services may count as owned";

/// As nodes and Service networks tell them, and `stated` ones, for a network that allots addresses of pods by itself.
/// What cannot be read is left out: the API server has checked it.
pub fn cluster_networks(
    nodes: &[Arc<Node>],
    services: &[Arc<ServiceCIDR>],
    stated: &[IpNet],
) -> Arc<[IpNet]> {
    let pods = nodes.iter().filter_map(|node| node.spec.as_ref());
    let pods = pods.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    let services = services.iter().filter_map(|cidr| cidr.spec.as_ref());
    let services = services.flat_map(|spec| spec.cidrs.iter().flatten());
    let read = pods.chain(services).filter_map(|text| text.parse().ok());
    let all: Vec<IpNet> = read.chain(stated.iter().copied()).collect();
    // Thousands of nodes are mostly one network.
    let mut all = IpNet::aggregate(&all);
    all.sort();
    all.into()
}

/// A network as the command line and the chart have it, or one address.
///
/// # Errors
/// If it is neither.
pub fn read_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            format!("`{text}` is not a network: use CIDR notation, for example 10.244.0.0/16")
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::{cluster_networks, read_network};

    fn object<K: serde::de::DeserializeOwned>(spec: &Value) -> Arc<K> {
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn networks_are_those_of_nodes_of_services_and_stated_ones_each_once() {
        let nodes = [
            object(
                &json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10::/64"]}),
            ),
            object(&json!({"podCIDR": "10.244.1.0/24"})),
            object(&json!({"podCIDRs": ["nonsense"]})),
            object(&json!({})),
        ];
        let services = [
            object(&json!({"cidrs": ["10.96.0.0/16", "fd00:96::/112"]})),
            object(&json!({"cidrs": ["10.97.0.0/16"]})),
        ];
        let stated = [read_network("172.20.0.0/14").expect("a network")];
        let found = cluster_networks(&nodes, &services, &stated);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "10.96.0.0/15",
                "10.244.0.0/23",
                "172.20.0.0/14",
                "fd00:10::/64",
                "fd00:96::/112"
            ]
        );
        assert!(cluster_networks(&[], &[], &[]).is_empty());
    }

    #[test]
    fn a_stated_network_is_a_network_or_an_address() {
        assert_eq!(
            read_network(" 10.0.0.1 ").map(|net| net.to_string()),
            Ok("10.0.0.1/32".to_owned())
        );
        for wrong in ["", "10.0.0.0/33", "example.com"] {
            assert!(read_network(wrong).is_err(), "{wrong}");
        }
    }
}
