//! All backends behind one door: start an attempt, probe, ask a local model whether it is ready.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use mesh_core::{Backend, BackendId};

use crate::admitted::Admitted;
use crate::{AttemptError, ClientOptions, Error, LocalModel, Outbound, Started};

/// All backends. Cheap to share; one per process.
pub struct Backends {
    options: ClientOptions,
    local: ArcSwap<HashMap<BackendId, Arc<dyn LocalModel>>>,
}

impl Backends {
    /// Prepares TLS and the settings; opens no connection.
    ///
    /// # Errors
    /// If an extra certificate authority or the user agent is not usable. A machine without any
    /// certificate authority is fine: then only https fails, when it is used.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        Ok(Self {
            options,
            local: ArcSwap::default(),
        })
    }

    /// Replaces the models of this process as a whole.
    pub fn set_local(&self, models: HashMap<BackendId, Arc<dyn LocalModel>>) {
        self.local.store(Arc::new(models));
    }

    /// Whether a model of this process can answer now; the error says why not.
    pub fn local_ready(&self, id: &BackendId) -> Result<(), String> {
        match self.local.load().get(id) {
            Some(model) => model.ready(),
            None => Err(String::from("its model is not loaded")),
        }
    }

    /// Sends the request to the admitted backend. Resolves once the upstream's headers are there
    /// (2xx, right content type) or the engine accepted it; events follow. Dropping the future or
    /// the events cancels the work at once.
    pub fn start(
        &self,
        admitted: &Admitted,
        outbound: Outbound,
    ) -> BoxFuture<'_, Result<Started, AttemptError>> {
        let _ = (&self.options, admitted, outbound);
        Box::pin(async { Err(AttemptError::Unusable("not built yet")) })
    }

    /// Asks the backend for its list of models, or the local model whether it is ready. Never
    /// carries a prompt.
    pub fn probe(&self, backend: &Backend) -> BoxFuture<'_, Result<(), AttemptError>> {
        let _ = backend;
        Box::pin(async { Err(AttemptError::Unusable("not built yet")) })
    }
}
