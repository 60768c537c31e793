//! A port of this machine behind which a gateway's pod is, through the API server: like `kubectl port-forward`,
//! for as long as one command runs. Only this machine can reach it, and a gateway serves nobody without a token.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::io::{DuplexStream, copy_bidirectional};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Which pods are gateways.
const GATEWAYS: &str =
    "app.kubernetes.io/part-of=inference-mesh,app.kubernetes.io/component=gateway";
/// Where they serve the API.
const PORT: u16 = 8080;

/// An open way to a gateway; dropping it closes it.
pub(super) struct Tunnel {
    address: SocketAddr,
    pod: String,
    end: CancellationToken,
}

impl Tunnel {
    /// A way to a gateway of the mesh in `namespace` that is ready.
    ///
    /// # Errors
    /// If there is none, or the way may not be taken.
    pub(super) async fn open(client: &Client, namespace: &str) -> anyhow::Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let found = pods
            .list(&ListParams::default().labels(GATEWAYS))
            .await
            .with_context(|| format!("the pods of namespace {namespace} cannot be listed"))?;
        let Some(pod) = found.items.iter().find(|pod| ready(pod)) else {
            bail!(
                "no gateway in namespace {namespace} is ready ({} found): name the mesh's namespace with --mesh-namespace",
                found.items.len()
            );
        };
        let pod = pod.name_any();
        // Now, so that a missing right is told as such.
        let mut first = pods.portforward(&pod, &[PORT]).await.with_context(|| {
            format!("no way to pod {namespace}/{pod}: it takes the right to create pods/portforward there")
        })?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (end, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (ending, name) = (end.clone(), pod.clone());
        let mut stream = first.take_stream(PORT);
        let forwarding = async move {
            let _first = first;
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = match stream.take() {
                    Some(far) => far,
                    None => match another(&pods, &name).await {
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

async fn another(pods: &Api<Pod>, name: &str) -> Option<DuplexStream> {
    match pods.portforward(name, &[PORT]).await {
        Ok(mut forwarder) => forwarder.take_stream(PORT),
        Err(error) => {
            tracing::warn!(pod = name, %error, "the way to the gateway is closed");
            None
        }
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True")
}
