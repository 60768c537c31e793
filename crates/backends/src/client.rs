//! One HTTP client per backend and set of owned networks, kept so that connections are used again.
//!
//! What every client refuses: redirects, proxies of the environment, retries, compressed answers
//! (a size limit on compressed bytes bounds nothing), referers.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mesh_core::BackendId;
use reqwest::{Client, redirect, retry};
use rustls::ClientConfig;

use crate::address::{InsideOnly, NotSelf};
use crate::credential::Keys;
use crate::{ClientOptions, Error, tls};

/// Clients kept before the oldest configurations are thrown away with all others.
const KEPT: usize = 256;

/// What makes two requests share connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    backend: BackendId,
    origin: String,
    networks: Option<Vec<IpNet>>,
}

/// All clients.
pub(crate) struct Clients {
    options: ClientOptions,
    tls: ClientConfig,
    kept: RwLock<HashMap<Key, Client>>,
    pub(crate) keys: ArcSwap<Keys>,
}

impl Clients {
    pub(crate) fn new(options: ClientOptions) -> Result<Self, Error> {
        let tls = tls::config(&options.extra_roots)?;
        let clients = Self {
            options,
            tls,
            kept: RwLock::default(),
            keys: ArcSwap::default(),
        };
        // What can go wrong with the settings goes wrong now, not with the first request.
        clients.build(None)?;
        Ok(clients)
    }

    pub(crate) const fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The client for a backend at `url`, limited to `networks` if there are any.
    pub(crate) fn get(
        &self,
        backend: &BackendId,
        url: &url::Url,
        networks: Option<&[IpNet]>,
    ) -> Result<Client, Error> {
        let key = Key {
            backend: backend.clone(),
            origin: url.origin().ascii_serialization(),
            networks: networks.map(<[IpNet]>::to_vec),
        };
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.get(&key) {
            return Ok(client.clone());
        }
        drop(kept);
        let client = self.build(networks)?;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            // Requests on their way hold their client; only idle connections are lost.
            kept.clear();
        }
        Ok(kept.entry(key).or_insert(client).clone())
    }

    fn build(&self, networks: Option<&[IpNet]>) -> Result<Client, Error> {
        if self
            .options
            .user_agent
            .parse::<http::HeaderValue>()
            .is_err()
        {
            return Err(Error::UserAgent);
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .user_agent(&self.options.user_agent)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .retry(retry::never())
            .referer(false)
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .tcp_nodelay(true)
            .connect_timeout(self.options.connect_timeout)
            .pool_idle_timeout(self.options.idle_timeout)
            .pool_max_idle_per_host(self.options.idle_connections);
        if let Some(networks) = networks {
            builder = builder.dns_resolver(InsideOnly::new(networks));
        } else if self.options.shared {
            builder = builder.dns_resolver(NotSelf);
        }
        builder.build().map_err(|_| Error::Client)
    }
}
