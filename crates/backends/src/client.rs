//! One HTTP client per backend and set of owned networks, kept so that connections are used again.
//!
//! What every client refuses: redirects, proxies of the environment, retries, compressed answers
//! (a size limit on compressed bytes bounds nothing), referers.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mesh_core::BackendId;
use reqwest::{Client, ClientBuilder, redirect, retry};
use rustls::ClientConfig;

use crate::address::{Closed, Guard, Reach};
use crate::authority::Authorities;
use crate::credential::Keys;
use crate::pod_tls::PodClients;
use crate::way::Way;
use crate::{ClientOptions, Error, tls};

/// Clients kept before the oldest configurations are thrown away with all others.
const KEPT: usize = 256;

/// What makes two requests share connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    backend: BackendId,
    origin: String,
    networks: Option<Vec<IpNet>>,
    /// Counts only beside `networks`.
    except: Option<Arc<[IpNet]>>,
    reach: Reach,
    whose: Whose,
    way: Way,
}

/// Who keeps the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    /// A cloud behind its load balancers.
    Cloud,
    /// A model server.
    Server,
}

/// All clients.
pub(crate) struct Clients {
    options: ClientOptions,
    tls: ClientConfig,
    kept: RwLock<HashMap<Key, Client>>,
    pub(crate) keys: ArcSwap<Keys>,
    pub(crate) authorities: ArcSwap<Authorities>,
    /// For pods of the mesh itself, by address.
    pub(crate) own: Client,
    /// Addresses that no tenant's backend may be.
    pub(crate) closed: Closed,
    pods: PodClients,
}

impl Clients {
    pub(crate) fn new(options: ClientOptions) -> Result<Self, Error> {
        let tls = tls::config(&options.extra_roots)?;
        // What can go wrong with the settings goes wrong now, not with the first request.
        let own = build(&options, &tls)?.build().map_err(|_| Error::Client)?;
        Ok(Self {
            options,
            tls,
            kept: RwLock::default(),
            keys: ArcSwap::default(),
            authorities: ArcSwap::default(),
            own,
            closed: Closed::default(),
            pods: PodClients::default(),
        })
    }

    pub(crate) const fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The client for pods of a backend, where pods prove themselves.
    pub(crate) fn pods(&self, backend: &BackendId) -> Option<Result<Client, Error>> {
        let tls = self.options.pods.as_ref()?;
        Some(self.pods.get(tls, backend, &self.options))
    }

    /// What is connected to on whose word, limited to `networks` but for those of the cluster itself if there are any.
    pub(crate) fn guard(
        &self,
        reach: Reach,
        networks: Option<&[IpNet]>,
        except: &Arc<[IpNet]>,
    ) -> Guard {
        Guard {
            reach,
            shared: self.options.shared,
            networks: networks.map(Into::into),
            except: Arc::clone(except),
            closed: Arc::clone(&self.closed),
        }
    }

    /// The client for a backend at `url`, reached this way.
    pub(crate) fn get(
        &self,
        backend: &BackendId,
        url: &url::Url,
        guard: Guard,
        (whose, way): (Whose, Way),
    ) -> Result<Client, Error> {
        let key = Key {
            backend: backend.clone(),
            origin: url.origin().ascii_serialization(),
            networks: guard.networks.as_ref().map(|networks| networks.to_vec()),
            except: guard.networks.as_ref().map(|_| Arc::clone(&guard.except)),
            reach: guard.reach,
            whose,
            way,
        };
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.get(&key) {
            return Ok(client.clone());
        }
        drop(kept);
        let client = self.build(guard, whose, &key.way)?;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            // Requests on their way hold their client; only idle connections are lost.
            kept.clear();
        }
        Ok(kept.entry(key).or_insert(client).clone())
    }

    fn build(&self, guard: Guard, whose: Whose, way: &Way) -> Result<Client, Error> {
        let mut builder = match &way.authority {
            None => build(&self.options, &self.tls)?,
            Some(authority) => build(&self.options, &authority.config()?)?,
        };
        if let Some(via) = &way.proxy {
            builder = builder.proxy(via.proxy().ok_or(Error::Client)?);
        }
        if way.special() {
            builder = builder.https_only(true);
        }
        if whose == Whose::Server {
            builder = builder.pool_idle_timeout(self.options.server_idle_timeout);
        }
        if guard.narrows() {
            builder = builder.dns_resolver(guard);
        }
        builder.build().map_err(|_| Error::Client)
    }
}

/// What all clients have in common.
pub(crate) fn build(options: &ClientOptions, tls: &ClientConfig) -> Result<ClientBuilder, Error> {
    if options.user_agent.parse::<http::HeaderValue>().is_err() {
        return Err(Error::UserAgent);
    }
    Ok(Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .user_agent(&options.user_agent)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .retry(retry::never())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .tcp_nodelay(true)
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(options.idle_timeout)
        .pool_max_idle_per_host(options.idle_connections))
}
