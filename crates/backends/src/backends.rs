//! All backends behind one door: start an attempt, probe, ask a local model whether it is ready.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use ipnet::IpNet;
use mesh_core::{Backend, BackendId, Place};
use mesh_routing::Admitted;

use crate::address::Reach;
use crate::authority::{self, Authorities};
use crate::client::{Clients, Whose};
use crate::credential::Keys;
use crate::pods::Pods;
use crate::upstream::{Dispatch, Target};
use crate::{AttemptError, ClientOptions, Error, LocalModel, Outbound, Started, pods, probe};

/// Most pods that one probe asks.
const PROBED: usize = 3;

/// All backends. Cheap to share; one per process.
pub struct Backends {
    clients: Clients,
    local: ArcSwap<HashMap<BackendId, Arc<dyn LocalModel>>>,
    pods: Pods,
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backends")
            .field("local", &self.local.load().len())
            .finish_non_exhaustive()
    }
}

impl Backends {
    /// Prepares TLS and the settings; opens no connection.
    ///
    /// # Errors
    /// If an extra certificate authority or the user agent is not usable. A machine without any
    /// certificate authority is fine: then only https fails, when it is used.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        Ok(Self {
            clients: Clients::new(options)?,
            local: ArcSwap::default(),
            pods: Pods::default(),
        })
    }

    /// Replaces the models of this process as a whole.
    pub fn set_local(&self, models: HashMap<BackendId, Arc<dyn LocalModel>>) {
        self.local.store(Arc::new(models));
    }

    /// Replaces the keys of Secrets as a whole. What is not among them cannot be used.
    pub fn set_keys(&self, keys: Keys) {
        self.clients.keys.store(Arc::new(keys));
    }

    /// Replaces the certificates of authorities as a whole. A backend that names one that is not among them is not spoken to.
    pub fn set_authorities(&self, authorities: Authorities) {
        self.clients.authorities.store(Arc::new(authorities));
    }

    /// Whether the authority that a backend names can be trusted, as far as it is known here; none if it names none, or nobody could be
    /// asked for it yet. Asks nobody.
    pub fn authority(&self, backend: &Backend) -> Option<Result<(), AttemptError>> {
        let authority = backend.endpoint()?.authority.as_ref()?;
        authority::verdict(authority, &self.clients.authorities.load())
    }

    /// Replaces the addresses of the mesh itself as a whole: where many tenants are served, a backend that
    /// a tenant declared is never connected to at one of them.
    pub fn set_closed(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical());
        self.clients.closed.store(Arc::new(addresses.collect()));
    }

    /// Whether a model of this process can answer now; the error says why not.
    pub fn local_ready(&self, id: &BackendId) -> Result<(), String> {
        match self.local.load().get(id) {
            Some(model) => model.ready(),
            None => Err(String::from("its model is not loaded")),
        }
    }

    /// Family of a model of this process, as its file states it.
    pub fn local_family(&self, id: &BackendId) -> Option<String> {
        self.local.load().get(id)?.family()
    }

    /// Sends the request to the admitted backend. Resolves once the upstream's headers are there
    /// (2xx, right content type) or the engine accepted it; events follow. Dropping the future or
    /// the events cancels the work at once.
    pub fn start<'a>(
        &'a self,
        admitted: &'a Admitted,
        outbound: Outbound,
    ) -> BoxFuture<'a, Result<Started, AttemptError>> {
        if outbound.level > admitted.level() {
            return ready(Err(AttemptError::NotAdmitted)).boxed();
        }
        let backend = admitted.backend();
        if matches!(backend.place, Place::InProcess { .. }) {
            return self.start_local(&backend.id, outbound);
        }
        if matches!(backend.place, Place::Pods(_)) {
            return self.pods.start(&self.clients, admitted, outbound).boxed();
        }
        let dispatch = self
            .target(backend, admitted.networks())
            .and_then(|target| Dispatch::new(target, admitted, &outbound, self.clients.options()));
        match dispatch {
            Ok(dispatch) => dispatch.send().boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn start_local(
        &self,
        id: &BackendId,
        outbound: Outbound,
    ) -> BoxFuture<'_, Result<Started, AttemptError>> {
        let model = self.local.load().get(id).cloned();
        async move {
            match model {
                Some(model) => model.start(outbound).await,
                None => Err(AttemptError::NotReady(String::from(
                    "its model is not loaded",
                ))),
            }
        }
        .boxed()
    }

    /// Asks pods how busy they are, each at its `admin` port, so that the next choice among them knows what
    /// others send there. Pods that are not among them are forgotten.
    pub async fn observe(&self, pods: &[SocketAddr], admin: u16) {
        self.pods.observe(&self.clients.own, pods, admin).await;
    }

    /// Asks the backend for its list of models, or the local model whether it is ready. Never
    /// carries a prompt. A server that has no such list but answers is fine.
    pub fn probe<'a>(&'a self, backend: &'a Backend) -> BoxFuture<'a, Result<(), AttemptError>> {
        if matches!(backend.place, Place::InProcess { .. }) {
            let state = self.local_ready(&backend.id);
            return ready(state.map_err(AttemptError::NotReady)).boxed();
        }
        if let Place::Pods(pods) = &backend.place {
            return self.probe_pods(backend, pods).boxed();
        }
        match self.target(backend, None) {
            Ok(target) => probe::probe(target, self.clients.options().probe_timeout).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    /// Fine if any of its pods is.
    async fn probe_pods(
        &self,
        backend: &Backend,
        pods: &mesh_core::Pods,
    ) -> Result<(), AttemptError> {
        let limit = self.clients.options().probe_timeout;
        let mut last = AttemptError::NotReady(String::from("none of its pods is ready"));
        for pod in pods.pods.iter().take(PROBED) {
            let target = pods::target(&self.clients, &backend.id, pod.address)?;
            match probe::probe(target, limit).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Everything that is needed to speak to a backend, checked.
    fn target(
        &self,
        backend: &Backend,
        networks: Option<&[IpNet]>,
    ) -> Result<Target, AttemptError> {
        if backend.peer().is_some() {
            return Err(AttemptError::Unusable(mesh_core::Peer::UNSERVED));
        }
        let Some(endpoint) = backend.endpoint() else {
            return Err(AttemptError::Unusable("it has no address"));
        };
        let reach = if backend.id.home {
            Reach::Home
        } else {
            Reach::Tenant
        };
        let whose = match &backend.place {
            Place::Cloud(_) => Whose::Cloud,
            Place::External(_) | Place::Pods(_) | Place::InProcess { .. } | Place::Peer(_) => {
                Whose::Server
            }
        };
        Target::new(
            &self.clients,
            &backend.id,
            endpoint,
            (reach, whose),
            networks,
        )
    }
}
