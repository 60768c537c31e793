//! Which backends a request could mean: by name, by alias, by `auto` or `local`. Looks at names and
//! namespaces only; whether a candidate may serve is [`admit`](crate::admit)'s to say.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::{Backend, Place, ServedModel, Snapshot};

use crate::class::derive;
use crate::constraint::in_reach;
use crate::policy::EffectivePolicy;

/// Name by which the caller leaves the choice to the mesh.
pub const AUTO: &str = "auto";
/// Name by which the caller asks for owned hardware.
pub const LOCAL: &str = "local";

/// What the caller named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The mesh chooses.
    Auto,
    /// Any admitted backend on owned hardware.
    Local,
    /// A model's name or alias.
    Named(&'a str),
}

impl<'a> Asked<'a> {
    /// Reads the `model` of a request.
    pub fn new(model: &'a str) -> Self {
        match model {
            AUTO => Self::Auto,
            LOCAL => Self::Local,
            name => Self::Named(name),
        }
    }
}

/// One model of one backend that could serve.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) backend: Arc<Backend>,
    pub(crate) model: usize,
    pub(crate) floor: bool,
    /// The floor in place of a named model that it does not serve.
    pub(crate) substitute: bool,
}

impl Pair {
    pub(crate) fn model(&self) -> &ServedModel {
        &self.backend.models[self.model]
    }
}

/// The pairs that `asked` stands for; `None` if nobody in the caller's reach serves that name. The
/// catch-all alias takes names that nobody else serves.
///
/// Backends of other namespaces are invisible; those of the mesh namespace that are not available
/// to the caller are listed, to be refused by name.
pub(crate) fn select(
    snapshot: &Snapshot,
    policy: &EffectivePolicy,
    asked: Asked<'_>,
    floor: Option<&Arc<Backend>>,
) -> Option<Vec<Pair>> {
    let visible: Vec<(&Arc<Backend>, bool)> = snapshot
        .backends
        .iter()
        .map(|backend| (backend, in_reach(policy, backend)))
        .filter(|(backend, reached)| *reached || backend.id.namespace == policy.mesh_namespace())
        .collect();
    let pick = |wanted: &dyn Fn(&ServedModel) -> bool| {
        let mut reached_one = false;
        let mut pairs = Vec::new();
        for (backend, reached) in &visible {
            for (index, _) in backend.models.iter().enumerate().filter(|(_, m)| wanted(m)) {
                reached_one |= reached;
                pairs.push(Pair {
                    backend: Arc::clone(backend),
                    model: index,
                    floor: floor.is_some_and(|floor| floor.id == backend.id),
                    substitute: false,
                });
            }
        }
        (pairs, reached_one)
    };
    match asked {
        Asked::Auto | Asked::Local => Some(pick(&|_| true).0),
        Asked::Named(name) => {
            let (pairs, reached) = pick(&|model| model.answers_to(name));
            if reached {
                return Some(pairs);
            }
            let (pairs, reached) = pick(&ServedModel::catches_all);
            reached.then_some(pairs)
        }
    }
}

/// The backend that the policy names as floor, if it exists and can be one: in this mesh's own
/// processes, in pods of this cluster, or an owned external server.
pub fn find_floor<'a>(
    snapshot: &'a Snapshot,
    policy: &EffectivePolicy,
    now: jiff::Timestamp,
) -> Option<&'a Arc<Backend>> {
    let (namespace, name) = &policy.floor()?.backend;
    snapshot
        .backends
        .iter()
        .find(|backend| backend.id.namespace == *namespace && backend.id.name == *name)
        .filter(|backend| {
            matches!(backend.place, Place::InProcess { .. } | Place::Pods(_))
                || derive(backend, policy.ownership(), policy.mesh_namespace(), now)
                    .class
                    .owned()
        })
}

/// Names that the caller may use: `auto`, `local`, and every name and alias served in its reach, in
/// order. Not those of other meshes, to which nothing is sent.
pub fn usable_names(snapshot: &Snapshot, policy: &EffectivePolicy) -> Vec<String> {
    let served: BTreeSet<&str> = snapshot
        .backends
        .iter()
        .filter(|backend| in_reach(policy, backend) && backend.peer().is_none())
        .flat_map(|backend| &backend.models)
        .flat_map(|model| {
            let aliases = model.aliases.iter().map(String::as_str);
            std::iter::once(model.name.as_str()).chain(aliases)
        })
        .filter(|name| *name != "*")
        .collect();
    [AUTO, LOCAL]
        .into_iter()
        .chain(served)
        .map(str::to_owned)
        .collect()
}
