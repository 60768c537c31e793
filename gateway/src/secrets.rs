//! Keys of backends, from Secrets. Read by name, never listed, and only where the gateway was told that
//! it may; a backend gets Secrets of its own namespace and no other's.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use mesh_backends::{Backends, Keys};
use mesh_core::{Credential, Sensitive, Snapshot};

use crate::args::Args;

/// Reads keys and hands them to the clients.
pub(crate) struct Secrets {
    client: Client,
    namespaces: BTreeSet<String>,
    backends: Arc<Backends>,
    keys: Keys,
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
        }
    }

    /// Reads the keys that this snapshot refers to; with `again` also those that are known. A key that
    /// cannot be read because the API server is away stays as it was.
    pub(crate) async fn refresh(&mut self, snapshot: &Snapshot, again: bool) {
        let wanted: BTreeSet<(&str, &str, &str)> = snapshot
            .backends
            .iter()
            .filter_map(|backend| reference(backend))
            .collect();
        let mut keys = Keys::new();
        for (namespace, name, key) in wanted {
            let credential = Credential::Secret {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                key: key.to_owned(),
            };
            if !self.namespaces.contains(namespace) {
                continue;
            }
            let known = self.keys.remove(&credential);
            let found = if again || known.is_none() {
                self.read(namespace, name, key, known).await
            } else {
                known
            };
            keys.extend(found.map(|found| (credential, found)));
        }
        self.backends.set_keys(keys.clone());
        self.keys = keys;
    }

    async fn read(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        known: Option<Sensitive<String>>,
    ) -> Option<Sensitive<String>> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        match secrets.get_opt(name).await {
            Ok(secret) => {
                let value = secret?.data?.remove(key)?;
                Some(Sensitive::new(String::from_utf8(value.0).ok()?))
            }
            Err(error) => {
                tracing::warn!(namespace, secret = name, %error, "could not read a key");
                known
            }
        }
    }
}

fn reference(backend: &mesh_core::Backend) -> Option<(&str, &str, &str)> {
    match backend.endpoint()?.credentials.as_ref()? {
        Credential::Secret {
            namespace,
            name,
            key,
        } => Some((namespace, name, key)),
        Credential::Env(_) | Credential::File(_) => None,
    }
}
