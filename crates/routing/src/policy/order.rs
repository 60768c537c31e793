//! Which policies select a caller, and which of them is the most specific.

use std::cmp::Reverse;

use mesh_core::policy::Origin;
use mesh_core::{Caller, Policy, PrivacyLevel, Snapshot, SovereigntyClass};

use super::DEFAULT_MINIMUM;

/// True if `policy` governs `caller`: a policy of the mesh namespace reaches every namespace it
/// selects, any other only its own; `serviceAccounts` narrow by the ServiceAccount's name.
pub fn matches(policy: &Policy, mesh_namespace: &str, caller: &Caller) -> bool {
    let in_reach = policy.id.namespace == mesh_namespace || policy.id.namespace == caller.tenant;
    let workload = policy.service_accounts.is_empty()
        || caller
            .service_account
            .as_ref()
            .is_some_and(|name| policy.service_accounts.contains(name));
    in_reach && workload && policy.namespaces.matches(caller)
}

/// True if `policy` belongs to the mesh namespace and narrows nothing: only such a policy may say
/// what is owned.
pub fn selects_everything(policy: &Policy, mesh_namespace: &str) -> bool {
    policy.id.namespace == mesh_namespace
        && policy.namespaces.everything()
        && policy.service_accounts.is_empty()
}

/// The policies that govern `caller`, most specific first: another namespace's own, then those
/// that name ServiceAccounts, then those with a selector, then the rest; of equals the strictest,
/// then by name. What came with the installation steps back once somebody
/// has written a policy of the mesh namespace that governs the caller.
pub(super) fn selected<'a>(snapshot: &'a Snapshot, caller: &Caller) -> Vec<&'a Policy> {
    let mesh = snapshot.mesh_namespace.as_str();
    let mut found: Vec<&Policy> = snapshot
        .policies
        .iter()
        .map(AsRef::as_ref)
        .filter(|policy| matches(policy, mesh, caller))
        .collect();
    let written =
        |policy: &&Policy| policy.id.namespace == mesh && policy.origin == Origin::Written;
    if found.iter().any(written) {
        found.retain(|policy| policy.origin != Origin::Bootstrap);
    }
    found.sort_by_cached_key(|policy| {
        let specificity = (
            policy.id.namespace != mesh,
            !policy.service_accounts.is_empty(),
            !policy.namespaces.everything(),
        );
        (
            Reverse(specificity),
            Reverse(strictness(policy)),
            policy.id.clone(),
        )
    });
    found
}

/// How strict a policy is, for ties: its minimum classes from Restricted down, then its base level.
/// What it does not say counts as the built-in default.
fn strictness(policy: &Policy) -> ([SovereigntyClass; 4], PrivacyLevel) {
    let mut classes = DEFAULT_MINIMUM;
    for (level, class) in &policy.constraints.minimum_class {
        classes[usize::from(level.rank())] = *class;
    }
    classes.reverse();
    (
        classes,
        policy.default_privacy.unwrap_or(PrivacyLevel::Confidential),
    )
}
