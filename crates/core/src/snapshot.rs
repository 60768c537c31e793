//! The immutable view the data plane decides from; swapped whole.

use std::sync::Arc;

use crate::{Backend, BackendId, Policy};

/// Everything declared, translated at the door.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts up with every swap.
    pub generation: u64,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Namespace of the mesh itself; on one machine `default`.
    pub mesh_namespace: String,
    /// All backends, sorted by id.
    pub backends: Vec<Arc<Backend>>,
    /// All accepted policies, sorted by id.
    pub policies: Vec<Arc<Policy>>,
}

impl Snapshot {
    /// A snapshot of nothing: everything is Confidential and nothing is admitted.
    pub fn empty(mesh_namespace: impl Into<String>, created: jiff::Timestamp) -> Self {
        Self {
            generation: 0,
            created,
            mesh_namespace: mesh_namespace.into(),
            backends: Vec::new(),
            policies: Vec::new(),
        }
    }

    /// Where nodes cannot be looked at, what policies claim of them counts for nothing: a pod is on rented
    /// hardware at best.
    pub fn forget_nodes(&mut self) {
        for policy in &mut self.policies {
            let claims = |ownership: &crate::policy::Ownership| ownership.nodes.is_some();
            if policy.ownership.as_ref().is_some_and(claims) {
                let ownership = &mut Arc::make_mut(policy).ownership;
                if let Some(ownership) = ownership {
                    ownership.nodes = None;
                }
            }
        }
    }

    /// Finds a backend.
    pub fn backend(&self, id: &BackendId) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.id == *id)
    }
}
