//! Which floors are drilled, how often, and for whom. A floor is drilled where it is in effect: for a caller whom the
//! policy that names it is about, no other policy names another one.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Backend, BackendId, Caller, Policy, Snapshot};

/// A floor to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) floor: BackendId,
    pub(super) interval: Duration,
    /// For whom it is asked: decides which policies are joined.
    pub(super) caller: Caller,
}

/// Every floor once, with the shortest interval that a policy of the mesh namespace names. Those of other namespaces
/// count where none does: with constraints of its own a team could have the mesh's floor look broken.
pub(super) fn wanted(snapshot: &Snapshot) -> Vec<Wanted> {
    let mut floors: BTreeMap<BackendId, (bool, Wanted)> = BTreeMap::new();
    for policy in &snapshot.policies {
        let Some(wanted) = of(snapshot, policy) else {
            continue;
        };
        let team = policy.id.namespace != snapshot.mesh_namespace;
        let known = floors.get(&wanted.floor);
        let better =
            |(other, known): &(bool, Wanted)| (team, wanted.interval) < (*other, known.interval);
        if known.is_none_or(better) {
            floors.insert(wanted.floor.clone(), (team, wanted));
        }
    }
    floors.into_values().map(|(_, wanted)| wanted).collect()
}

fn of(snapshot: &Snapshot, policy: &Policy) -> Option<Wanted> {
    let named = policy.floor.as_ref()?;
    let interval = named.drill?;
    let (namespace, name) = &named.backend;
    let backend = snapshot
        .backends
        .iter()
        .find(|backend| backend.id.namespace == *namespace && backend.id.name == *name);
    let caller = caller(policy, backend.map(AsRef::as_ref));
    let effective = mesh_routing::join(snapshot, &caller);
    let in_effect = effective
        .floor()
        .is_some_and(|floor| floor.backend == named.backend);
    in_effect.then(|| Wanted {
        floor: BackendId {
            namespace: namespace.clone(),
            name: name.clone(),
            home: *namespace == snapshot.mesh_namespace,
        },
        interval,
        caller,
    })
}

/// Somebody whom the policy selects and the backend serves.
fn caller(policy: &Policy, backend: Option<&Backend>) -> Caller {
    let selectors = [
        Some(&policy.namespaces),
        backend.map(|one| &one.available_to),
    ];
    let labels = selectors.into_iter().flatten();
    Caller {
        subject: String::from("drill"),
        tenant_labels: labels
            .flat_map(|selector| selector.match_labels.clone())
            .collect(),
        service_account: policy.service_accounts.first().cloned(),
        ..Caller::local(policy.id.namespace.clone())
    }
}
