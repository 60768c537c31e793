//! Whether what one NetworkPolicy lets out is inside what another does. Says no where it cannot tell.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// True if every way out that `network` opens is open by `wider` already. Both are of one namespace, and
/// `wider` selects all its pods.
pub(super) fn inside(network: &NetworkPolicy, wider: &NetworkPolicy) -> bool {
    let open = rules(wider);
    rules(network).iter().all(|rule| covered(rule, &open))
}

/// The rules for what goes out; none if the policy is about ingress only.
fn rules(network: &NetworkPolicy) -> Vec<NetworkPolicyEgressRule> {
    let spec = network.spec.as_ref();
    let egress = spec.and_then(|spec| spec.egress.clone());
    let types = spec.and_then(|spec| spec.policy_types.as_ref());
    let about = types.is_none_or(|types| types.iter().any(|one| one == "Egress"));
    egress.filter(|_| about).unwrap_or_default()
}

/// True if each pair of peer and port is open by some rule.
fn covered(rule: &NetworkPolicyEgressRule, open: &[NetworkPolicyEgressRule]) -> bool {
    let peers = each(rule.to.as_deref());
    let ports = each(rule.ports.as_deref());
    peers.iter().all(|peer| {
        ports.iter().all(|port| {
            open.iter()
                .any(|wide| reaches(wide, *peer) && carries(wide, *port))
        })
    })
}

/// The entries of a list; an absent or empty list is everything, which is one entry.
fn each<T>(list: Option<&[T]>) -> Vec<Option<&T>> {
    match list {
        Some(list) if !list.is_empty() => list.iter().map(Some).collect(),
        _ => vec![None],
    }
}

fn reaches(wide: &NetworkPolicyEgressRule, peer: Option<&NetworkPolicyPeer>) -> bool {
    each(wide.to.as_deref())
        .into_iter()
        .any(|open| match (open, peer) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(open), Some(peer)) => open == peer || network_inside(peer, open),
        })
}

fn network_inside(peer: &NetworkPolicyPeer, open: &NetworkPolicyPeer) -> bool {
    let (Some(small), Some(large)) = (&peer.ip_block, &open.ip_block) else {
        return false;
    };
    let read = |text: &str| text.parse::<IpNet>().ok();
    let within = match (read(&small.cidr), read(&large.cidr)) {
        (Some(small), Some(large)) => large.contains(&small),
        _ => false,
    };
    within && large.except.as_ref().is_none_or(Vec::is_empty)
}

fn carries(wide: &NetworkPolicyEgressRule, port: Option<&NetworkPolicyPort>) -> bool {
    each(wide.ports.as_deref())
        .into_iter()
        .any(|open| match (open, port) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(open), Some(port)) => protocol(open) == protocol(port) && numbers(open, port),
        })
}

fn protocol(port: &NetworkPolicyPort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// True if the ports of `small` are among those of `large`; a name is only like itself.
fn numbers(large: &NetworkPolicyPort, small: &NetworkPolicyPort) -> bool {
    let range = |port: &NetworkPolicyPort| match port.port {
        Some(IntOrString::Int(first)) => Some((first, port.end_port.unwrap_or(first))),
        _ => None,
    };
    match (&large.port, range(large), range(small)) {
        (None, ..) => true,
        (_, Some(large), Some(small)) => large.0 <= small.0 && small.1 <= large.1,
        _ => large == small,
    }
}
