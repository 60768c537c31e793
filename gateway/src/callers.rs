//! Who is calling: a ServiceAccount of this cluster by its token, or an API key. Nobody is anonymous, and
//! nobody is served before the labels of their namespace are known: by those, policies select.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use mesh_core::Caller;
use mesh_dataplane::{ApiKeys, Callers, Unrecognized};
use mesh_identity::{AUDIENCE, TokenVerifier};
use mesh_runtime::Shutdown;
use mesh_watch::{Scope, issuer};
use prometheus_client::registry::Registry;

use crate::reviews::{Asker, Reviews};
use crate::secrets::{Away, secret};
use crate::watch::Cluster;

/// The Secret whose entries are API keys, by their hashes.
const KEYS: &str = "mesh-api-keys";
/// How often keys of either sort are looked at again.
const REFRESH: Duration = Duration::from_secs(30);
/// The same while the API server's keys are not known: nobody can be served.
const RETRY: Duration = Duration::from_secs(1);
/// Longest time to ask for the API server's keys.
const LIMIT: Duration = Duration::from_secs(10);
/// If it did not answer for so long, what is known is no longer called the present.
const SILENCE: SignedDuration = SignedDuration::from_secs(75);

type Labels = BTreeMap<String, String>;
type Confirming<'a> = BoxFuture<'a, Result<(), Unrecognized>>;

/// Labels of a namespace, as they are now; `None` if it is not known.
pub(crate) type Namespaces = Box<dyn Fn(&str) -> Option<Labels> + Send + Sync>;

/// Tells callers apart.
pub(crate) struct ClusterCallers {
    mesh_namespace: String,
    scope: Scope,
    verifier: ArcSwapOption<TokenVerifier>,
    keys: ArcSwapOption<ApiKeys>,
    namespaces: Namespaces,
    /// Labels of the own namespace, where no other can be seen.
    own: ArcSwapOption<Labels>,
    /// Who is asked whether tokens still hold, if anybody is.
    reviews: Option<Reviews>,
    /// When the API server answered last, in seconds since 1970; 0 = never.
    heard: AtomicI64,
}

impl fmt::Debug for ClusterCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCallers")
            .field("ready", &self.ready())
            .finish_non_exhaustive()
    }
}

/// What a watch knows of namespaces.
pub(crate) fn watched(cluster: &Cluster) -> Namespaces {
    let namespaces = cluster.namespaces.clone();
    Box::new(move |name| {
        let found = namespaces.get(&ObjectRef::new(name))?;
        Some(found.labels().clone())
    })
}

impl ClusterCallers {
    pub(crate) fn new(
        (scope, mesh_namespace): (Scope, &str),
        namespaces: Namespaces,
        reviews: Option<Reviews>,
    ) -> Self {
        Self {
            mesh_namespace: mesh_namespace.to_owned(),
            scope,
            verifier: ArcSwapOption::empty(),
            keys: ArcSwapOption::empty(),
            namespaces,
            own: ArcSwapOption::empty(),
            reviews,
            heard: AtomicI64::new(0),
        }
    }

    /// Enters how often the API server is asked for tokens, if it is.
    pub(crate) fn register(&self, registry: &mut Registry) {
        if let Some(reviews) = &self.reviews {
            reviews.register(registry);
        }
    }

    /// Of when that is what is known at `now`: a watch that hears nothing cannot tell whether there is nothing
    /// to hear, but the API server is asked for its keys all the time.
    pub(crate) fn as_of(&self, now: Timestamp) -> Timestamp {
        let heard = Timestamp::from_second(self.heard.load(Ordering::Relaxed)).unwrap_or_default();
        if now.duration_since(heard) > SILENCE {
            heard
        } else {
            now
        }
    }

    /// True once tokens can be verified.
    pub(crate) fn ready(&self) -> bool {
        self.verifier.load().is_some()
    }

    /// A mesh of one namespace serves that one: it cannot see by which labels policies select others.
    fn serves(&self, namespace: &str) -> bool {
        self.scope == Scope::Cluster || namespace == self.mesh_namespace
    }

    fn ask<'a>(
        &'a self,
        asker: Asker,
        caller: &'a Caller,
        bearer: &'a [u8],
    ) -> Option<Confirming<'a>> {
        let reviews = self.reviews.as_ref()?;
        // An API key is taken back by its entry in the Secret.
        let account = caller.service_account.as_ref()?;
        Some(reviews.confirm(asker, (&caller.tenant, account), bearer))
    }

    fn labels(&self, namespace: &str) -> Result<Labels, Unrecognized> {
        let found = match self.scope {
            Scope::Cluster => (self.namespaces)(namespace),
            Scope::Namespaced => self.own.load().as_ref().map(|labels| (**labels).clone()),
        };
        found.ok_or_else(|| {
            tracing::debug!(namespace, "a caller's namespace is not known");
            Unrecognized::NotYet
        })
    }
}

impl Callers for ClusterCallers {
    fn caller(&self, bearer: &[u8]) -> Result<Caller, Unrecognized> {
        if let Some(name) = self
            .keys
            .load()
            .as_ref()
            .and_then(|keys| keys.name_of(bearer))
        {
            return Ok(Caller {
                subject: name.to_owned(),
                tenant_labels: self.labels(&self.mesh_namespace)?,
                ..Caller::local(&self.mesh_namespace)
            });
        }
        let verifier = self.verifier.load();
        let verifier = verifier.as_ref().ok_or(Unrecognized::Nobody)?;
        let account = verifier.verify(bearer).map_err(|error| {
            tracing::debug!(reason = error.reason(), "a caller was not recognized");
            Unrecognized::Nobody
        })?;
        if !self.serves(&account.namespace) {
            tracing::debug!(
                reason = "ForeignNamespace",
                "a caller of another namespace was refused"
            );
            return Err(Unrecognized::Nobody);
        }
        Ok(Caller {
            tenant_labels: self.labels(&account.namespace)?,
            subject: format!("serviceaccount:{}:{}", account.namespace, account.name),
            service_account: Some(account.name),
            ..Caller::local(account.namespace)
        })
    }

    fn confirm<'a>(&'a self, caller: &'a Caller, bearer: &'a [u8]) -> Option<Confirming<'a>> {
        self.ask(Asker::Request, caller, bearer)
    }

    fn confirm_stream<'a>(
        &'a self,
        caller: &'a Caller,
        bearer: &'a [u8],
    ) -> Option<Confirming<'a>> {
        self.ask(Asker::Stream, caller, bearer)
    }
}

/// Keeps keys fresh until the end. What was known stays in use while the API server is away.
pub(crate) fn keep(callers: &Arc<ClusterCallers>, client: Client, shutdown: &Shutdown) {
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

/// Labels of the own namespace, which a Role can let one read by name.
async fn own_labels(callers: &ClusterCallers, client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match tokio::time::timeout(LIMIT, namespaces.get(&callers.mesh_namespace)).await {
        Ok(Ok(namespace)) => callers
            .own
            .store(Some(Arc::new(namespace.labels().clone()))),
        Ok(Err(error)) => tracing::warn!(%error, "could not read the labels of the namespace"),
        Err(_) => tracing::warn!("reading the labels of the namespace took too long"),
    }
}

async fn refresh(callers: &ClusterCallers, client: &Client) {
    if callers.scope == Scope::Namespaced {
        own_labels(callers, client).await;
    }
    match tokio::time::timeout(LIMIT, verifier(client)).await {
        Ok(Ok(verifier)) => {
            callers.verifier.store(Some(Arc::new(verifier)));
            let now = Timestamp::now().as_second();
            callers.heard.store(now, Ordering::Relaxed);
        }
        Ok(Err(error)) => tracing::warn!(%error, "could not read the keys of the API server"),
        Err(_) => tracing::warn!("reading the keys of the API server took too long"),
    }
    match secret(client, &callers.mesh_namespace, KEYS).await {
        Ok(secret) => callers
            .keys
            .store(secret.and_then(|secret| keys(&secret)).map(Arc::new)),
        Err(Away::Refused) => callers.keys.store(None),
        Err(Away::Unreachable) => {}
    }
}

/// Why tokens cannot be verified.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Issuer(#[from] issuer::Error),
    #[error(transparent)]
    Keys(#[from] mesh_identity::Error),
}

async fn verifier(client: &Client) -> Result<TokenVerifier, Error> {
    let issuer = issuer::read(client).await?;
    Ok(TokenVerifier::new(&issuer.keys, &issuer.name, AUDIENCE)?)
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
mod tests;
