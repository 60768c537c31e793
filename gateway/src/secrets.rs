//! Keys of backends, from Secrets, and the authorities that they prove themselves by, from Secrets and ConfigMaps. Read by name,
//! never listed, and only where the gateway was told that it may; a backend gets those of its own namespace and no other's.
//! Refuses to keep more of an entry than a key or an authority has, and to ask for what is not there more often than for what is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use mesh_backends::{Authorities, Backends, Certificates, Keys, LARGEST_KEY};
use mesh_core::{Authority, Backend, Credential, Kept, Sensitive, Snapshot};
use tokio::time::Instant;

use crate::args::Args;

/// The Secret of the mesh's certificate authority.
const AUTHORITY: &str = "mesh-ca";
/// How often everything is read again, whatever else happens.
const RENEW: Duration = Duration::from_secs(30);
/// Longest time for one of them.
const LIMIT: Duration = Duration::from_secs(5);
/// After nobody could be asked for one that is not known yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Read at the same time.
const AT_ONCE: usize = 8;

/// Reads keys and authorities, and hands them to the clients.
pub(crate) struct Secrets {
    client: Client,
    namespaces: BTreeSet<String>,
    backends: Arc<Backends>,
    known: BTreeMap<Id, Known>,
    renewed: Option<Instant>,
}

/// What is known of an entry.
#[derive(Clone)]
enum Known {
    Key(Sensitive<String>),
    Authority(Arc<Certificates>),
    /// It is not there, or may not be read.
    Gone,
    /// Nobody could be asked, last at this time, and nothing was known before.
    Away(Instant),
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

    /// Reads what this snapshot refers to and was not asked for yet, and every so often all of it: a key that was
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
        let backends = || snapshot.backends.iter();
        let named: BTreeSet<Id> = backends()
            .flat_map(|backend| of_keys(backend).chain(of_authority(backend)))
            .collect();
        let this = &*self;
        let wanted = named.iter().filter(|id| this.may_read(id)).cloned();
        let renewals: Vec<_> = wanted.map(|id| this.renewed(id, again)).collect();
        self.known = futures::stream::iter(renewals)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut keys = Keys::new();
        let mut authorities = Authorities::new();
        for id in named {
            match (id.of, self.known.get(&id)) {
                (Of::Key, Some(Known::Key(key))) => {
                    keys.insert(id.credential(), key.clone());
                }
                (Of::Authority, Some(Known::Authority(found))) => {
                    authorities.insert(id.authority(), Some(Arc::clone(found)));
                }
                // Nobody says that it is missing.
                (Of::Authority, Some(Known::Away(_))) | (Of::Key, _) => {}
                (Of::Authority, _) => {
                    authorities.insert(id.authority(), None);
                }
            }
        }
        self.backends.set_keys(keys);
        self.backends.set_authorities(authorities);
    }

    /// The mesh's own authority is nobody's key.
    fn may_read(&self, id: &Id) -> bool {
        let own = id.kept == Kept::Secret && id.name == AUTHORITY;
        self.namespaces.contains(&id.namespace) && !own
    }

    async fn renewed(&self, id: Id, again: bool) -> (Id, Known) {
        let known = self.known.get(&id);
        let keep = match known {
            None => false,
            Some(Known::Away(at)) => at.elapsed() < PATIENCE,
            Some(_) => !again,
        };
        if let (true, Some(known)) = (keep, known) {
            return (id, known.clone());
        }
        let found = match self.read(&id).await {
            Ok(Some(text)) => id.found(text, known),
            Ok(None) | Err(Away::Refused) => Known::Gone,
            Err(Away::Unreachable) => match known {
                None | Some(Known::Away(_)) => Known::Away(Instant::now()),
                Some(known) => known.clone(),
            },
        };
        (id, found)
    }

    async fn read(&self, id: &Id) -> Result<Option<String>, Away> {
        let (client, namespace, name) = (&self.client, &id.namespace, &id.name);
        match id.kept {
            Kept::Secret => secret(client, namespace, name).await.map(|secret| {
                let value = secret?.data?.remove(&id.key)?;
                String::from_utf8(value.0).ok()
            }),
            Kept::ConfigMap => config_map(client, namespace, name)
                .await
                .map(|map| map?.data?.remove(&id.key)),
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

/// What an entry is for, and with it what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Key,
    Authority,
}

/// An entry of a Secret or a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    of: Of,
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
                of: Of::Key,
                kept: Kept::Secret,
                namespace: namespace.clone(),
                name: name.clone(),
                key: key.clone(),
            }),
            Credential::Env(_) | Credential::File(_) => None,
        }
    }

    /// What is kept of a text that was read. An authority's is looked at when it has changed, and then only.
    fn found(&self, mut text: String, known: Option<&Known>) -> Known {
        if self.of == Of::Key {
            // Of what is too large so much that it is told as that.
            text.truncate(text.floor_char_boundary(LARGEST_KEY + 4));
            text.shrink_to_fit();
            return Known::Key(Sensitive::new(text));
        }
        if let Some(Known::Authority(same)) = known
            && same.are_of(&text)
        {
            return Known::Authority(Arc::clone(same));
        }
        let found = Certificates::entry(text);
        if let Err(error) = found.usable() {
            let (namespace, kind, name, entry) =
                (&self.namespace, self.kept.kind(), &self.name, &self.key);
            tracing::warn!(namespace, kind, name, entry, %error, "what a backend is to be trusted by is no authority");
        }
        Known::Authority(Arc::new(found))
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
                of: Of::Authority,
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
