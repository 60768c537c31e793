//! Who is calling: a ServiceAccount of this cluster by its token, or an API key. Nobody is anonymous.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt};
use mesh_core::Caller;
use mesh_dataplane::{ApiKeys, Callers};
use mesh_identity::{AUDIENCE, TokenVerifier};
use mesh_runtime::Shutdown;
use mesh_watch::Scope;
use serde::Deserialize;

use crate::watch::Cluster;

/// The Secret whose entries are API keys, by their hashes.
const KEYS: &str = "mesh-api-keys";
/// How often keys of either sort are looked at again.
const REFRESH: Duration = Duration::from_secs(30);
/// The same while the API server's keys are not known: nobody can be served.
const RETRY: Duration = Duration::from_secs(1);

type Labels = BTreeMap<String, BTreeMap<String, String>>;

/// Tells callers apart.
#[derive(Debug)]
pub(crate) struct ClusterCallers {
    mesh_namespace: String,
    scope: Scope,
    verifier: ArcSwapOption<TokenVerifier>,
    keys: ArcSwapOption<ApiKeys>,
    namespaces: ArcSwapOption<Labels>,
}

impl ClusterCallers {
    pub(crate) fn new(mesh_namespace: &str, scope: Scope) -> Self {
        Self {
            mesh_namespace: mesh_namespace.to_owned(),
            scope,
            verifier: ArcSwapOption::empty(),
            keys: ArcSwapOption::empty(),
            namespaces: ArcSwapOption::empty(),
        }
    }

    /// True once tokens can be verified.
    pub(crate) fn ready(&self) -> bool {
        self.verifier.load().is_some()
    }

    /// Labels by which policies select a namespace.
    pub(crate) fn set_namespaces(&self, labels: Labels) {
        self.namespaces.store(Some(Arc::new(labels)));
    }

    /// A mesh of one namespace serves that one: it cannot see by which labels policies select others.
    fn serves(&self, namespace: &str) -> bool {
        self.scope == Scope::Cluster || namespace == self.mesh_namespace
    }

    fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let namespaces = self.namespaces.load();
        let labels = namespaces.as_ref().and_then(|all| all.get(namespace));
        labels.cloned().unwrap_or_default()
    }
}

impl Callers for ClusterCallers {
    fn caller(&self, bearer: &[u8]) -> Option<Caller> {
        if let Some(name) = self
            .keys
            .load()
            .as_ref()
            .and_then(|keys| keys.name_of(bearer))
        {
            return Some(Caller {
                subject: name.to_owned(),
                tenant_labels: self.labels(&self.mesh_namespace),
                ..Caller::local(&self.mesh_namespace)
            });
        }
        let account = match self.verifier.load().as_ref()?.verify(bearer) {
            Ok(account) => account,
            Err(error) => {
                tracing::debug!(reason = error.reason(), "a caller was not recognized");
                return None;
            }
        };
        if !self.serves(&account.namespace) {
            tracing::debug!(
                reason = "ForeignNamespace",
                "a caller of another namespace was refused"
            );
            return None;
        }
        Some(Caller {
            tenant_labels: self.labels(&account.namespace),
            subject: format!("serviceaccount:{}:{}", account.namespace, account.name),
            service_account: Some(account.name),
            ..Caller::local(account.namespace)
        })
    }
}

/// Keeps keys and labels fresh until the end. What was known stays in use while the API server is away.
pub(crate) fn keep(
    callers: &Arc<ClusterCallers>,
    client: Client,
    cluster: &Cluster,
    shutdown: &Shutdown,
) {
    if callers.scope == Scope::Cluster {
        follow_labels(callers, cluster, shutdown);
    }
    let (callers, token) = (Arc::clone(callers), shutdown.token.clone());
    shutdown.spawn(async move {
        let refresh = async {
            loop {
                refresh(&callers, &client).await;
                let wait = if callers.ready() { REFRESH } else { RETRY };
                tokio::time::sleep(wait).await;
            }
        };
        token.run_until_cancelled(refresh).await;
    });
}

fn follow_labels(callers: &Arc<ClusterCallers>, cluster: &Cluster, shutdown: &Shutdown) {
    let (labels, cluster, mut changed) = (Arc::clone(callers), cluster.clone(), cluster.changed());
    let token = shutdown.token.clone();
    shutdown.spawn(async move {
        let follow = async {
            loop {
                labels.set_namespaces(cluster.namespace_labels());
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        token.run_until_cancelled(follow).await;
    });
}

/// Labels of the own namespace, which a Role can let one read by name.
async fn own_labels(callers: &ClusterCallers, client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.get(&callers.mesh_namespace).await {
        Ok(namespace) => callers.set_namespaces(BTreeMap::from([(
            namespace.name_any(),
            namespace.labels().clone(),
        )])),
        Err(error) => tracing::warn!(%error, "could not read the labels of the namespace"),
    }
}

async fn refresh(callers: &ClusterCallers, client: &Client) {
    if callers.scope == Scope::Namespaced {
        own_labels(callers, client).await;
    }
    match verifier(client).await {
        Ok(verifier) => callers.verifier.store(Some(Arc::new(verifier))),
        Err(error) => tracing::warn!(%error, "could not read the keys of the API server"),
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &callers.mesh_namespace);
    match secrets.get_opt(KEYS).await {
        Ok(secret) => callers
            .keys
            .store(secret.and_then(|secret| keys(&secret)).map(Arc::new)),
        Err(error) => tracing::warn!(%error, "could not read the API keys"),
    }
}

/// Why tokens cannot be verified.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("could not ask the API server")]
    Ask(#[from] kube::Error),
    #[error("could not make the request")]
    Request(#[from] http::Error),
    #[error("the API server does not say who issues its tokens")]
    Issuer(#[from] serde_json::Error),
    #[error(transparent)]
    Keys(#[from] mesh_identity::Error),
}

/// OpenID Connect Discovery 1.0, section 3: what we need of it.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

async fn verifier(client: &Client) -> Result<TokenVerifier, Error> {
    let get = |path: &str| http::Request::get(path).body(Vec::new());
    let discovery = client
        .request_text(get("/.well-known/openid-configuration")?)
        .await?;
    let Discovery { issuer } = serde_json::from_str(&discovery)?;
    let keys = client.request_text(get("/openid/v1/jwks")?).await?;
    Ok(TokenVerifier::new(&keys, &issuer, AUDIENCE)?)
}

/// Entries of the Secret are `<name>: <SHA-256 of the key in hex>`; one that is not understood lets nobody
/// in and leaves the others alone.
fn keys(secret: &Secret) -> Option<ApiKeys> {
    let mut text = String::new();
    for (name, value) in secret.data.iter().flatten() {
        let line = format!("{name} {}", String::from_utf8_lossy(&value.0).trim());
        match ApiKeys::parse(&line) {
            Ok(_) => drop(writeln!(text, "{line}")),
            Err(error) => tracing::warn!(
                key = name,
                reason = error.reason(),
                "an API key is not usable"
            ),
        }
    }
    ApiKeys::parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_of_one_namespace_serves_its_own_and_one_of_the_cluster_everybody() {
        let narrow = ClusterCallers::new("team", Scope::Namespaced);
        assert!(narrow.serves("team") && !narrow.serves("other") && !narrow.serves(""));
        let wide = ClusterCallers::new("mesh-system", Scope::Cluster);
        assert!(wide.serves("team") && wide.serves("mesh-system"));
    }
}
