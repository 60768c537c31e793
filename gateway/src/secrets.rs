//! Keys of backends, from Secrets. Read by name, never listed, and only where the gateway was told that
//! it may; a backend gets Secrets of its own namespace and no other's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use mesh_backends::{Backends, Keys};
use mesh_core::{Credential, Sensitive, Snapshot};
use tokio::time::Instant;

use crate::args::Args;

/// The Secret of the mesh's certificate authority.
const AUTHORITY: &str = "mesh-ca";
/// How often every key is read again, whatever else happens.
const RENEW: Duration = Duration::from_secs(30);
/// Longest time for one of them.
const LIMIT: Duration = Duration::from_secs(5);
/// Read at the same time.
const AT_ONCE: usize = 8;

/// Reads keys and hands them to the clients.
pub(crate) struct Secrets {
    client: Client,
    namespaces: BTreeSet<String>,
    backends: Arc<Backends>,
    keys: Keys,
    renewed: Option<Instant>,
}

/// What came of reading an entry of a Secret.
enum Found {
    /// It is there.
    Key(Sensitive<String>),
    /// It is not there, or may not be read any more.
    Gone,
    /// Nobody could be asked: what was known stays.
    Unknown,
}

impl Secrets {
    pub(crate) fn new(client: Client, args: &Args, backends: Arc<Backends>) -> Self {
        let mut namespaces: BTreeSet<String> = args.credential_namespaces.iter().cloned().collect();
        namespaces.insert(args.mesh_namespace.clone());
        Self {
            client,
            namespaces,
            backends,
            keys: Keys::new(),
            renewed: None,
        }
    }

    /// Reads the keys that this snapshot refers to and that are not known, and every so often all of them:
    /// one that was revoked must not live as long as the cluster is busy. A key that cannot be read because
    /// the API server is away stays as it was.
    pub(crate) async fn refresh(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let again = self
            .renewed
            .is_none_or(|at| now.duration_since(at) >= RENEW);
        if again {
            self.renewed = Some(now);
        }
        let wanted: BTreeSet<Id> = snapshot
            .backends
            .iter()
            .filter_map(|backend| reference(backend))
            .filter(|id| self.namespaces.contains(&id.namespace))
            // The mesh's own authority is nobody's key.
            .filter(|id| id.name != AUTHORITY)
            .collect();
        let this = &*self;
        let renewals = wanted.into_iter().map(|id| this.renewed(id, again));
        let keys: Keys = futures::stream::iter(renewals)
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        self.backends.set_keys(keys.clone());
        self.keys = keys;
    }

    async fn renewed(&self, id: Id, again: bool) -> Option<(Credential, Sensitive<String>)> {
        let credential = Credential::Secret {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            key: id.key.clone(),
        };
        let known = self.keys.get(&credential).cloned();
        if !again && known.is_some() {
            return known.map(|known| (credential, known));
        }
        let found = match self.read(&id).await {
            Found::Key(key) => Some(key),
            Found::Gone => None,
            Found::Unknown => known,
        };
        found.map(|found| (credential, found))
    }

    async fn read(&self, id: &Id) -> Found {
        match secret(&self.client, &id.namespace, &id.name).await {
            Ok(secret) => {
                let value = secret.and_then(|secret| secret.data?.remove(&id.key));
                let text = value.and_then(|value| String::from_utf8(value.0).ok());
                text.map_or(Found::Gone, |text| Found::Key(Sensitive::new(text)))
            }
            Err(Away::Refused) => Found::Gone,
            Err(Away::Unreachable) => Found::Unknown,
        }
    }
}

/// Why a Secret could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// The API server says that it may not be.
    Refused,
    /// The API server is away.
    Unreachable,
}

/// Reads a Secret; `None` if there is none.
pub(crate) async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Secret>, Away> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match tokio::time::timeout(LIMIT, secrets.get_opt(name)).await {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(error)) => {
            tracing::warn!(namespace, secret = name, %error, "could not read a key");
            match error {
                kube::Error::Api(status) if matches!(status.code, 401 | 403) => Err(Away::Refused),
                _ => Err(Away::Unreachable),
            }
        }
        Err(_) => {
            tracing::warn!(namespace, secret = name, "reading a key took too long");
            Err(Away::Unreachable)
        }
    }
}

/// An entry of a Secret.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    namespace: String,
    name: String,
    key: String,
}

fn reference(backend: &mesh_core::Backend) -> Option<Id> {
    match backend.endpoint()?.credentials.as_ref()? {
        Credential::Secret {
            namespace,
            name,
            key,
        } => Some(Id {
            namespace: namespace.clone(),
            name: name.clone(),
            key: key.clone(),
        }),
        Credential::Env(_) | Credential::File(_) => None,
    }
}

#[cfg(test)]
mod tests;
