//! Keys of backends, from Secrets, and the authorities that they prove themselves by, from Secrets and ConfigMaps. Read by name,
//! never listed, and only where the gateway was told that it may; a backend gets those of its own namespace and no other's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use mesh_backends::{Authorities, Backends, Keys};
use mesh_core::{Authority, Backend, Credential, Kept, Sensitive, Snapshot};
use tokio::time::Instant;

use crate::args::Args;

/// The Secret of the mesh's certificate authority.
const AUTHORITY: &str = "mesh-ca";
/// How often everything is read again, whatever else happens.
const RENEW: Duration = Duration::from_secs(30);
/// Longest time for one of them.
const LIMIT: Duration = Duration::from_secs(5);
/// Read at the same time.
const AT_ONCE: usize = 8;

/// Reads keys and authorities, and hands them to the clients.
pub(crate) struct Secrets {
    client: Client,
    namespaces: BTreeSet<String>,
    backends: Arc<Backends>,
    known: BTreeMap<Id, Sensitive<String>>,
    renewed: Option<Instant>,
}

/// What came of reading an entry.
enum Found {
    /// It is there.
    Text(Sensitive<String>),
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
            known: BTreeMap::new(),
            renewed: None,
        }
    }

    /// Reads what this snapshot refers to and is not known, and every so often all of it: a key that was
    /// revoked must not live as long as the cluster is busy. What cannot be read because the API server is away
    /// stays as it was.
    pub(crate) async fn refresh(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let again = self
            .renewed
            .is_none_or(|at| now.duration_since(at) >= RENEW);
        if again {
            self.renewed = Some(now);
        }
        let mut keys = BTreeSet::new();
        let mut authorities = BTreeSet::new();
        for backend in &snapshot.backends {
            keys.extend(self.allowed(of_keys(backend)));
            authorities.extend(self.allowed(of_authority(backend)));
        }
        let wanted: BTreeSet<Id> = keys.union(&authorities).cloned().collect();
        let this = &*self;
        let renewals = wanted.into_iter().map(|id| this.renewed(id, again));
        self.known = futures::stream::iter(renewals)
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let known = |id: Id| Some((self.known.get(&id)?.clone(), id));
        let found = keys.into_iter().filter_map(known);
        let keys: Keys = found.map(|(text, id)| (id.credential(), text)).collect();
        let found = authorities.into_iter().filter_map(known);
        let authorities: Authorities = found
            .map(|(text, id)| (id.authority(), text.expose().as_str().into()))
            .collect();
        self.backends.set_keys(keys);
        self.backends.set_authorities(authorities);
    }

    /// Those that may be read. The mesh's own authority is nobody's key.
    fn allowed(&self, named: impl Iterator<Item = Id>) -> impl Iterator<Item = Id> {
        named.filter(|id| {
            let own = id.kept == Kept::Secret && id.name == AUTHORITY;
            self.namespaces.contains(&id.namespace) && !own
        })
    }

    async fn renewed(&self, id: Id, again: bool) -> Option<(Id, Sensitive<String>)> {
        let known = self.known.get(&id).cloned();
        if !again && known.is_some() {
            return known.map(|known| (id, known));
        }
        let found = match self.read(&id).await {
            Found::Text(text) => Some(text),
            Found::Gone => None,
            Found::Unknown => known,
        };
        found.map(|found| (id, found))
    }

    async fn read(&self, id: &Id) -> Found {
        let (client, namespace, name) = (&self.client, &id.namespace, &id.name);
        let found = match id.kept {
            Kept::Secret => secret(client, namespace, name).await.map(|secret| {
                let value = secret?.data?.remove(&id.key)?;
                String::from_utf8(value.0).ok()
            }),
            Kept::ConfigMap => config_map(client, namespace, name)
                .await
                .map(|map| map?.data?.remove(&id.key)),
        };
        match found {
            Ok(text) => text.map_or(Found::Gone, |text| Found::Text(Sensitive::new(text))),
            Err(Away::Refused) => Found::Gone,
            Err(Away::Unreachable) => Found::Unknown,
        }
    }
}

/// Why an object could not be read.
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
    answer(Kept::Secret, (namespace, name), secrets.get_opt(name)).await
}

/// Reads a ConfigMap; `None` if there is none.
async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<ConfigMap>, Away> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    answer(Kept::ConfigMap, (namespace, name), maps.get_opt(name)).await
}

async fn answer<T>(
    kept: Kept,
    (namespace, name): (&str, &str),
    asked: impl Future<Output = kube::Result<Option<T>>>,
) -> Result<Option<T>, Away> {
    let kind = kept.kind();
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::warn!(namespace, kind, name, %error, "could not read what a backend refers to");
            match error {
                kube::Error::Api(status) if matches!(status.code, 401 | 403) => Err(Away::Refused),
                _ => Err(Away::Unreachable),
            }
        }
        Err(_) => {
            tracing::warn!(
                namespace,
                kind,
                name,
                "reading what a backend refers to took too long"
            );
            Err(Away::Unreachable)
        }
    }
}

/// An entry of a Secret or a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    kept: Kept,
    namespace: String,
    name: String,
    key: String,
}

impl Id {
    fn of_key(credential: &Credential) -> Option<Self> {
        match credential {
            Credential::Secret {
                namespace,
                name,
                key,
            } => Some(Self {
                kept: Kept::Secret,
                namespace: namespace.clone(),
                name: name.clone(),
                key: key.clone(),
            }),
            Credential::Env(_) | Credential::File(_) => None,
        }
    }

    fn credential(self) -> Credential {
        Credential::Secret {
            namespace: self.namespace,
            name: self.name,
            key: self.key,
        }
    }

    fn authority(self) -> Authority {
        Authority::Entry {
            kept: self.kept,
            namespace: self.namespace,
            name: self.name,
            key: self.key,
        }
    }
}

/// A backend's key, and the one for its proxy.
fn of_keys(backend: &Backend) -> impl Iterator<Item = Id> {
    let endpoint = backend.endpoint();
    let own = endpoint.and_then(|endpoint| endpoint.credentials.as_ref());
    let proxy = endpoint.and_then(|endpoint| endpoint.proxy.as_ref()?.credentials.as_ref());
    own.into_iter().chain(proxy).filter_map(Id::of_key)
}

/// By whom a backend proves itself.
fn of_authority(backend: &Backend) -> impl Iterator<Item = Id> {
    let authority = backend.endpoint().and_then(|one| one.authority.clone());
    authority
        .into_iter()
        .filter_map(|authority| match authority {
            Authority::Entry {
                kept,
                namespace,
                name,
                key,
            } => Some(Id {
                kept,
                namespace,
                name,
                key,
            }),
            Authority::File(_) => None,
        })
}

#[cfg(test)]
mod tests;
