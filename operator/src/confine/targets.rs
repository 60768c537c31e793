//! What a canary tries. Forbidden is what answers the operator, which nothing confines, and what the
//! namespace's NetworkPolicy does not admit; a place that answers nobody would prove nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use futures::future::join_all;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};

use crate::canary::{Answer, Target, addresses, dial};

/// Ports on which API servers listen behind their Service.
const API_PORTS: [u16; 3] = [443, 6443, 8443];

type Labels = BTreeMap<String, String>;

/// A place that an application has no business with.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) target: Target,
    pub(crate) kind: Kind,
}

/// What it is, as far as NetworkPolicies see it.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A pod: the labels of its namespace, and its own.
    Pod { namespace: Labels, pod: Labels },
    /// The API server behind its Service: which addresses that has is not known here.
    ApiServer,
    /// An address.
    Address,
}

/// The places of which the policy admits none and that answer now; and the names of those left out, with why.
pub(super) async fn forbidden(
    places: &[Place],
    policy: &NetworkPolicy,
) -> (Vec<Target>, Vec<String>) {
    let (mut good, mut left_out) = (Vec::new(), Vec::new());
    let answers = join_all(places.iter().map(|place| dial(&place.target))).await;
    for (place, answer) in places.iter().zip(answers) {
        let name = &place.target.name;
        let addresses = addresses(&place.target).await;
        if answer != Answer::Open || addresses.is_empty() {
            left_out.push(format!("{name} does not answer the operator either"));
        } else if addresses.iter().any(|one| admits(policy, place, *one)) {
            left_out.push(format!("{name} is allowed"));
        } else {
            good.push(place.target.clone());
        }
    }
    (good, left_out)
}

/// Whether a NetworkPolicy lets out to a place. Says yes where it cannot tell.
pub(super) fn admits(policy: &NetworkPolicy, place: &Place, address: SocketAddr) -> bool {
    let kind = &place.kind;
    let protocol = if place.target.is_dns() { "UDP" } else { "TCP" };
    let spec = policy.spec.as_ref();
    let rules = spec.and_then(|spec| spec.egress.as_ref());
    rules.into_iter().flatten().any(|rule| {
        let ports = rule.ports.as_deref().unwrap_or_default();
        let at = |number: u16| {
            ports.is_empty() || ports.iter().any(|port| carries(port, protocol, number))
        };
        let peers = rule.to.as_deref().unwrap_or_default();
        // Rules see an API server at its own addresses and ports, not at those of its Service.
        let hidden = matches!(kind, Kind::ApiServer)
            && peers.iter().any(|peer| peer.ip_block.is_some())
            && API_PORTS.into_iter().any(at);
        let open = at(address.port())
            && (peers.is_empty() || peers.iter().any(|peer| reaches(peer, kind, address.ip())));
        hidden || open
    })
}

fn carries(port: &NetworkPolicyPort, protocol: &str, number: u16) -> bool {
    if port.protocol.as_deref().unwrap_or("TCP") != protocol {
        return false;
    }
    match &port.port {
        None | Some(IntOrString::String(_)) => true,
        Some(IntOrString::Int(first)) => {
            let last = port.end_port.unwrap_or(*first);
            (*first..=last).contains(&i32::from(number))
        }
    }
}

fn reaches(peer: &NetworkPolicyPeer, kind: &Kind, address: IpAddr) -> bool {
    if let Some(block) = &peer.ip_block {
        return block
            .cidr
            .parse::<IpNet>()
            .is_ok_and(|block| block.contains(&address));
    }
    let Kind::Pod { namespace, pod } = kind else {
        return false;
    };
    matches(peer.namespace_selector.as_ref(), namespace) && matches(peer.pod_selector.as_ref(), pod)
}

/// An absent selector is met, and so is one that cannot be read.
fn matches(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else {
        return true;
    };
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
        || Selector::try_from(selector.clone()).is_err()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::{Value, json};

    use super::{Kind, Labels, Place, admits, forbidden};

    fn policy(egress: &Value) -> NetworkPolicy {
        serde_json::from_value(
            json!({"metadata": {"name": "mesh-confine", "namespace": "team"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}}),
        )
        .expect("a policy")
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pairs.collect::<BTreeMap<_, _>>()
    }

    fn place(address: &str, kind: Kind) -> Place {
        Place {
            target: format!("place={address}").parse().expect("a destination"),
            kind,
        }
    }

    fn operator() -> Place {
        let kind = Kind::Pod {
            namespace: labels(&[("kubernetes.io/metadata.name", "mesh-system")]),
            pod: labels(&[("app.kubernetes.io/component", "operator")]),
        };
        place("10.78.1.5:8081", kind)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_pod_is_admitted_by_its_labels_or_its_address_and_port() {
        let out = |egress: &Value| admits(&policy(egress), &operator(), at("10.78.1.5:8081"));
        let home = json!({"matchLabels": {"kubernetes.io/metadata.name": "mesh-system"}});
        let gateway = json!({"matchLabels": {"app.kubernetes.io/component": "gateway"}});
        for closed in [
            json!([]),
            json!([{"to": [{"namespaceSelector": home, "podSelector": gateway}]}]),
            json!([{"to": [{"namespaceSelector": home}], "ports": [{"port": 8443}]}]),
            json!([{"to": [{"namespaceSelector": home}], "ports": [{"port": 8081, "protocol": "UDP"}]}]),
            json!([{"to": [{"ipBlock": {"cidr": "10.79.0.0/16"}}]}]),
        ] {
            assert!(!out(&closed), "{closed}");
        }
        for open in [
            json!([{}]),
            json!([{"ports": [{"port": 8000, "endPort": 9000}]}]),
            json!([{"to": [{"namespaceSelector": home}]}]),
            json!([{"to": [{"namespaceSelector": {}, "podSelector": {}}], "ports": [{"port": 8081}]}]),
            json!([{"to": [{"ipBlock": {"cidr": "10.78.0.0/16"}}], "ports": [{"port": 8081}]}]),
        ] {
            assert!(out(&open), "{open}");
        }
    }

    #[test]
    fn whether_an_address_is_the_api_servers_is_not_known_so_it_counts_as_admitted() {
        let out = |egress: &Value| {
            let api = place("10.0.0.1:443", Kind::ApiServer);
            admits(&policy(egress), &api, at("10.0.0.1:443"))
        };
        let block = |ports: &Value| json!([{"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": ports}]);
        assert!(out(&block(&json!([{"port": 6443}]))));
        assert!(out(&block(&json!([]))));
        assert!(!out(&block(&json!([{"port": 5432}]))));
        assert!(!out(&json!([{"to": [{"podSelector": {}}]}])));
    }

    #[test]
    fn a_way_out_over_tcp_is_none_over_udp_and_the_other_way_round() {
        let open = |protocol: &str| {
            let ports = json!([{"port": 53, "protocol": protocol}]);
            policy(&json!([{"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": ports}]))
        };
        let asked = |address: &str, protocol: &str| {
            let place = place(address, Kind::Address);
            admits(&open(protocol), &place, at("198.51.100.7:53"))
        };
        assert!(asked("dns://198.51.100.7:53", "UDP") && asked("198.51.100.7:53", "TCP"));
        assert!(!asked("dns://198.51.100.7:53", "TCP") && !asked("198.51.100.7:53", "UDP"));
    }

    #[tokio::test]
    async fn what_answers_nobody_is_left_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let there = listener.local_addr().expect("an address");
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let nobody = gone.local_addr().expect("an address");
        drop(gone);
        let place = |name: &str, address: SocketAddr| Place {
            target: format!("{name}={address}").parse().expect("a destination"),
            kind: Kind::Address,
        };
        let places = [place("there", there), place("nobody", nobody)];
        let (good, left_out) = forbidden(&places, &policy(&json!([]))).await;
        assert_eq!(good, [places[0].target.clone()]);
        assert_eq!(left_out, ["nobody does not answer the operator either"]);
        let open = json!([{"to": [{"ipBlock": {"cidr": "127.0.0.0/8"}}]}]);
        let (good, left_out) = forbidden(&places, &policy(&open)).await;
        assert!(good.is_empty());
        assert_eq!(left_out[0], "there is allowed");
    }
}
