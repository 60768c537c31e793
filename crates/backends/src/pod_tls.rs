//! Connections to pods of this cluster: each backend has its own expected name, so a pod that took over an
//! address gets no prompt. There is no plain text here unless nobody said how to prove anything (tests).

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use mesh_core::BackendId;
use reqwest::Client;
use rustls::ClientConfig;

use crate::{ClientOptions, Error, client};

/// Clients kept before all are thrown away.
const KEPT: usize = 256;

/// Says how the pods of a backend prove themselves, and how this process does.
pub trait PodTls: Debug + Send + Sync {
    /// Changes when connections shall be made anew: this process has another certificate.
    fn generation(&self) -> u64;

    /// TLS for connections to pods of this backend and nobody else; none if it cannot be prepared.
    fn config(&self, backend: &BackendId) -> Option<ClientConfig>;
}

/// One client per backend, for as long as its certificate is the newest.
#[derive(Debug, Default)]
pub(crate) struct PodClients {
    kept: RwLock<HashMap<BackendId, (u64, Client)>>,
}

impl PodClients {
    /// The client for pods of `backend`.
    pub(crate) fn get(
        &self,
        tls: &Arc<dyn PodTls>,
        backend: &BackendId,
        options: &ClientOptions,
    ) -> Result<Client, Error> {
        let generation = tls.generation();
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = kept.get(backend)
            && *of == generation
        {
            return Ok(client.clone());
        }
        drop(kept);
        let config = tls.config(backend).ok_or(Error::Client)?;
        let client = client::build(options, &config)?
            .https_only(true)
            .pool_idle_timeout(options.server_idle_timeout)
            .build()
            .map_err(|_| Error::Client)?;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            // Requests on their way hold their client; only idle connections are lost.
            kept.clear();
        }
        kept.insert(backend.clone(), (generation, client.clone()));
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use mesh_core::BackendId;
    use rustls::ClientConfig;

    use super::{PodClients, PodTls};
    use crate::{ClientOptions, tls};

    #[derive(Debug, Default)]
    struct Counted {
        generation: AtomicU64,
        made: AtomicU64,
    }

    impl PodTls for Counted {
        fn generation(&self) -> u64 {
            self.generation.load(Ordering::Relaxed)
        }

        fn config(&self, _: &BackendId) -> Option<ClientConfig> {
            self.made.fetch_add(1, Ordering::Relaxed);
            tls::config(&[]).ok()
        }
    }

    #[test]
    fn each_backend_has_connections_of_its_own_and_new_ones_with_a_new_certificate() {
        let counted = Arc::new(Counted::default());
        let tls: Arc<dyn PodTls> = Arc::<Counted>::clone(&counted);
        let (clients, options) = (PodClients::default(), ClientOptions::default());
        let made = |name: &str| {
            let id = BackendId::home("mesh-system", name);
            clients.get(&tls, &id, &options).expect("a client");
            counted.made.load(Ordering::Relaxed)
        };
        assert_eq!((made("a"), made("a")), (1, 1));
        assert_eq!((made("b"), made("a")), (2, 2));
        counted.generation.store(1, Ordering::Relaxed);
        assert_eq!((made("a"), made("a"), made("b")), (3, 3, 4));
    }
}
