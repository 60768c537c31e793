//! A port of this machine behind which a pod of the mesh is, through the API server: like `kubectl port-forward`,
//! for as long as one command runs. Only this machine can reach it, and a gateway serves nobody without a token.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Portforwarder};
use kube::{Api, Client, ResourceExt};
use tokio::io::{DuplexStream, copy_bidirectional};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Which pods are the mesh's.
const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";

/// Which pod is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    component: &'static str,
    pub(super) port: u16,
    /// True if it is of use only while it is ready.
    ready: bool,
}

/// A gateway, and where it serves the API.
pub(super) const GATEWAY: Target = Target {
    component: "gateway",
    port: 8080,
    ready: true,
};
/// The ledger, and where it shows its log: also while it cannot write.
pub(super) const LEDGER: Target = Target {
    component: "ledger",
    port: 8445,
    ready: false,
};

/// An open way to a pod; dropping it closes it.
pub(super) struct Tunnel {
    address: SocketAddr,
    pod: String,
    end: CancellationToken,
}

impl Tunnel {
    /// A way to such a pod of the mesh in `namespace`.
    ///
    /// # Errors
    /// If there is none, or the way may not be taken.
    pub(super) async fn open(
        client: &Client,
        namespace: &str,
        target: Target,
    ) -> anyhow::Result<Self> {
        let port = target.port;
        let (pods, pod) = find(client, namespace, target).await?;
        // Now, so that a missing right is told as such.
        let mut first = forward(&pods, (namespace, &pod), port).await?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (end, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (ending, name) = (end.clone(), pod.clone());
        let mut stream = first.take_stream(port);
        let forwarding = async move {
            let _first = first;
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = match stream.take() {
                    Some(far) => far,
                    None => match another(&pods, &name, port).await {
                        Some(far) => far,
                        None => continue,
                    },
                };
                // An end of either side is the end of both; who reads finds out.
                drop(copy_bidirectional(&mut near, &mut far).await);
            }
        };
        tracker.spawn(async move { ending.run_until_cancelled(forwarding).await });
        Ok(Self { address, pod, end })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pod(&self) -> &str {
        &self.pod
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// The pods of a namespace, and the name of one that is meant.
pub(super) async fn find(
    client: &Client,
    namespace: &str,
    target: Target,
) -> anyhow::Result<(Api<Pod>, String)> {
    let component = target.component;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = format!("{OURS},app.kubernetes.io/component={component}");
    let found = pods
        .list(&ListParams::default().labels(&labels))
        .await
        .with_context(|| format!("the pods of namespace {namespace} cannot be listed"))?;
    let Some(pod) = found.items.iter().find(|pod| useful(pod, target)) else {
        bail!(
            "no {component} in namespace {namespace} is {} ({} found): name the mesh's namespace with --mesh-namespace",
            if target.ready { "ready" } else { "running" },
            found.items.len()
        );
    };
    let name = pod.name_any();
    Ok((pods, name))
}

/// A way to a port of a pod.
pub(super) async fn forward(
    pods: &Api<Pod>,
    (namespace, pod): (&str, &str),
    port: u16,
) -> anyhow::Result<Portforwarder> {
    pods.portforward(pod, &[port]).await.with_context(|| {
        format!(
            "no way to pod {namespace}/{pod}: it takes the right to create pods/portforward there"
        )
    })
}

async fn another(pods: &Api<Pod>, name: &str, port: u16) -> Option<DuplexStream> {
    match pods.portforward(name, &[port]).await {
        Ok(mut forwarder) => forwarder.take_stream(port),
        Err(error) => {
            tracing::warn!(pod = name, %error, "the way to the pod is closed");
            None
        }
    }
}

fn useful(pod: &Pod, target: Target) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let mut conditions = status.conditions.iter().flatten();
    let running = status.phase.as_deref() == Some("Running");
    let ready = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
    pod.metadata.deletion_timestamp.is_none() && running && (ready || !target.ready)
}
