//! Stands in for routing's token until routing has it.

use std::sync::Arc;

use mesh_core::{Backend, PrivacyLevel, ServedModel, SovereigntyClass};

/// A backend the policy allows for one request.
#[derive(Debug, Clone)]
pub struct Admitted {
    backend: Arc<Backend>,
    model: usize,
    class: SovereigntyClass,
    level: PrivacyLevel,
    networks: Option<Arc<[ipnet::IpNet]>>,
}

#[expect(missing_docs, reason = "stands in for routing's token")]
impl Admitted {
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
    pub fn model(&self) -> &ServedModel {
        &self.backend.models[self.model]
    }
    pub fn class(&self) -> SovereigntyClass {
        self.class
    }
    pub fn level(&self) -> PrivacyLevel {
        self.level
    }
    pub fn networks(&self) -> Option<&[ipnet::IpNet]> {
        self.networks.as_deref()
    }
}
