//! Where a canary is sent, and whether that would prove anything.

use std::net::SocketAddr;

use kube::ResourceExt;
use mesh_crds::label;

use super::targets::{Kind, Place};
use crate::args::Run;
use crate::backend::condition;
use crate::canary::Target;
use crate::world::World;

/// The operator's own port of metrics and health.
const OWN: &str = "operator-admin";
/// Port of metrics and health of a gateway.
const GATEWAY_ADMIN: u16 = 8081;
/// Gateways that are tried: one may end meanwhile.
const GATEWAYS: usize = 2;

/// Everything that an application of a confined namespace has no business with.
pub(super) async fn places(options: &Run, world: &World) -> Vec<Place> {
    let mut places = Vec::new();
    if let Some(address) = api_server().await {
        places.push(place("api-server", address, Kind::ApiServer));
    }
    let home = &options.mesh_namespace;
    let namespaces = world.namespaces.state();
    let labels = namespaces.iter().find(|one| one.name_any() == *home);
    let mut namespace = labels.map(|one| one.labels().clone()).unwrap_or_default();
    namespace.insert(label::NAMESPACE_NAME.to_owned(), home.clone());
    if let Some(ip) = options.canary.pod_ip {
        let pod = [
            ("app.kubernetes.io/part-of", "inference-mesh"),
            ("app.kubernetes.io/component", "operator"),
        ];
        let pod = pod.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let kind = Kind::Pod {
            namespace: namespace.clone(),
            pod: pod.into(),
        };
        let address = SocketAddr::new(ip, options.admin_listen.port());
        places.push(place(OWN, address.to_string(), kind));
    }
    for (number, (address, pod)) in gateways(world, home).into_iter().enumerate() {
        let kind = Kind::Pod {
            namespace: namespace.clone(),
            pod,
        };
        let name = format!("gateway-admin-{}", number + 1);
        places.push(place(&name, address.to_string(), kind));
    }
    let more = options.canary.canary_forbidden.iter().map(|target| Place {
        target: target.clone(),
        kind: Kind::Address,
    });
    places.extend(more);
    places
}

/// True if some place over TCP is not the operator itself. It reaches its own port whatever the network says, so a
/// canary that does not may have met a policy that closes the port to everybody.
pub(super) fn enough(forbidden: &[Target]) -> bool {
    let mut all = forbidden.iter();
    all.any(|target| target.name != OWN && !target.is_dns())
}

fn place(name: &str, address: String, kind: Kind) -> Place {
    let target = Target {
        name: name.to_owned(),
        address,
    };
    Place { target, kind }
}

/// Addresses and labels of gateways that serve.
fn gateways(
    world: &World,
    home: &str,
) -> Vec<(SocketAddr, std::collections::BTreeMap<String, String>)> {
    let mut pods = world.gateways.state();
    pods.retain(|pod| pod.namespace().as_deref() == Some(home));
    pods.sort_by_key(|pod| pod.name_any());
    let serving = pods.iter().filter_map(|pod| {
        let status = pod.status.as_ref()?;
        condition(status, "Ready").filter(|ready| ready.0)?;
        let ip = status.pod_ip.as_ref()?.parse().ok()?;
        let gone = pod.metadata.deletion_timestamp.is_some();
        (!gone).then(|| (SocketAddr::new(ip, GATEWAY_ADMIN), pod.labels().clone()))
    });
    serving.take(GATEWAYS).collect()
}

/// `HOST:PORT` of the API server as every pod sees it.
async fn api_server() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let (Some(host), Some(port)) = (
        variable("KUBERNETES_SERVICE_HOST"),
        variable("KUBERNETES_SERVICE_PORT"),
    ) {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        return Some(format!("{host}:{port}"));
    }
    let config = kube::Config::infer().await.ok()?;
    let host = config.cluster_url.host()?;
    Some(format!(
        "{host}:{}",
        config.cluster_url.port_u16().unwrap_or(443)
    ))
}

#[cfg(test)]
mod tests {
    use super::enough;
    use crate::canary::Target;

    #[test]
    fn the_operators_own_port_alone_proves_nothing() {
        let target = |text: &str| -> Target { text.parse().expect("a destination") };
        let own = target("operator-admin=10.0.0.7:8081");
        assert!(!enough(&[]));
        assert!(!enough(std::slice::from_ref(&own)));
        assert!(enough(&[own, target("gateway-admin-1=10.0.0.8:8081")]));
        assert!(enough(&[target("api-server=10.0.0.1:443")]));
    }
}
