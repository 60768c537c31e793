//! Joining the policies that select one caller.

use mesh_core::policy::{Failover, Floor, Ownership, PrivacyWeight, References};
use mesh_core::{
    Caller, JurisdictionSet, License, Policy, PolicyId, PolicyRef, PrivacyLevel, Snapshot,
    SovereigntyClass,
};

use super::order::{selected, selects_everything};
use super::{DEFAULT_MINIMUM, EffectivePolicy};

/// Joins all policies of `snapshot` that select `caller`.
///
/// Without any policy of the mesh namespace the level is Confidential and only owned hardware may
/// serve, at every level: a policy of another namespace cannot open what the mesh did not.
pub fn join(snapshot: &Snapshot, caller: &Caller) -> EffectivePolicy {
    let all = selected(snapshot, caller);
    let (home, team): (Vec<&Policy>, Vec<&Policy>) = all
        .iter()
        .copied()
        .partition(|policy| policy.id.namespace == snapshot.mesh_namespace);
    let (base_level, base_source) = base(&home, &team);
    EffectivePolicy {
        caller: caller.clone(),
        mesh_namespace: snapshot.mesh_namespace.clone(),
        generation: snapshot.generation,
        policies: all
            .iter()
            .map(|policy| PolicyRef {
                name: policy.id.clone(),
                digest: policy.digest.clone(),
            })
            .collect(),
        base_level,
        base_source,
        incomplete_level: incomplete(&home, &team),
        default_latency: first(&all, |policy| policy.default_latency),
        ownership: ownership(&home, &snapshot.mesh_namespace),
        minimum_class: minimum_class(&home, &team),
        jurisdictions: all
            .iter()
            .filter_map(|policy| policy.constraints.jurisdictions.clone())
            .collect(),
        licenses_deny: all
            .iter()
            .flat_map(|policy| policy.constraints.licenses_deny.iter().cloned())
            .collect(),
        licenses_allow: licenses_allow(&all),
        retention: all
            .iter()
            .flat_map(|policy| policy.constraints.retention.iter().copied())
            .collect(),
        privacy_weight: privacy_weight(&all),
        weights: first(&all, |policy| policy.weights).unwrap_or_default(),
        references: first(&all, |policy| policy.references.clone())
            .unwrap_or_else(References::default),
        prefer_local_gap: first(&all, |policy| policy.prefer_local_gap).unwrap_or(0.0),
        failover: first(&all, |policy| policy.failover.clone()).unwrap_or_else(Failover::default),
        floor: floor(&all),
        // The lowest asks for the most.
        durable_from: all.iter().filter_map(|policy| policy.durable_from).min(),
    }
}

/// A preference group from the most specific policy that has it.
fn first<'a, T>(policies: &[&'a Policy], group: impl Fn(&'a Policy) -> Option<T>) -> Option<T> {
    policies.iter().find_map(|policy| group(policy))
}

/// The base level: the most specific policy of the mesh namespace that names one, raised by
/// policies elsewhere.
fn base(home: &[&Policy], team: &[&Policy]) -> (PrivacyLevel, Option<PolicyId>) {
    let named = |policy: &&Policy| {
        policy
            .default_privacy
            .map(|level| (level, policy.id.clone()))
    };
    let (mut level, mut source) = home
        .iter()
        .find_map(named)
        .map_or((PrivacyLevel::Confidential, None), |(level, id)| {
            (level, Some(id))
        });
    for (raised, id) in team.iter().filter_map(named) {
        if raised > level {
            (level, source) = (raised, Some(id));
        }
    }
    (level, source)
}

/// The level of what was not read: strictest of the mesh namespace's policies, else Restricted;
/// policies elsewhere only raise it.
fn incomplete(home: &[&Policy], team: &[&Policy]) -> PrivacyLevel {
    let strictest = |policies: &[&Policy]| {
        policies
            .iter()
            .filter_map(|policy| policy.incomplete_level)
            .max()
    };
    let level = strictest(home).unwrap_or(PrivacyLevel::Restricted);
    strictest(team).map_or(level, |raised| raised.max(level))
}

/// The lowest class per level. An entry of the mesh namespace replaces the built-in default, even
/// by a laxer class; among several the strictest counts; policies elsewhere only raise. A level's
/// minimum is never below that of a lower level.
fn minimum_class(home: &[&Policy], team: &[&Policy]) -> [SovereigntyClass; 4] {
    let strictest = |policies: &[&Policy], level: PrivacyLevel| {
        policies
            .iter()
            .filter_map(|policy| policy.constraints.minimum_class.get(&level).copied())
            .max()
    };
    let mut minimum = DEFAULT_MINIMUM;
    let mut running = SovereigntyClass::CloudRetained;
    for level in PrivacyLevel::ALL {
        let slot = &mut minimum[usize::from(level.rank())];
        let built_in = if home.is_empty() {
            SovereigntyClass::OwnHardware
        } else {
            *slot
        };
        let named = strictest(home, level).unwrap_or(built_in);
        let raised = strictest(team, level).unwrap_or(named);
        running = running.max(named).max(raised);
        *slot = running;
    }
    minimum
}

/// What counts as ours: from policies that select everything; several intersect.
fn ownership(home: &[&Policy], mesh_namespace: &str) -> Ownership {
    home.iter()
        .filter(|policy| selects_everything(policy, mesh_namespace))
        .filter_map(|policy| policy.ownership.clone())
        .reduce(|left, right| Ownership {
            nodes: left
                .nodes
                .zip(right.nodes)
                .map(|(left, right)| [left, right].concat()),
            networks: pairwise(&left.networks, &right.networks, |a, b| a.contains(b)),
            external: pairwise(&left.external, &right.external, |a, b| a == b),
            home_jurisdictions: JurisdictionSet(pairwise(
                &left.home_jurisdictions.0,
                &right.home_jurisdictions.0,
                |outer, inner| inner.within(outer),
            )),
        })
        .unwrap_or_default()
}

/// Intersection of two lists of things of which one may contain another: the smaller of every
/// nested pair.
fn pairwise<T: Clone + PartialEq>(
    left: &[T],
    right: &[T],
    contains: impl Fn(&T, &T) -> bool,
) -> Vec<T> {
    let mut common: Vec<T> = Vec::new();
    for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
        let smaller = if contains(a, b) {
            b
        } else if contains(b, a) {
            a
        } else {
            continue;
        };
        if !common.contains(smaller) {
            common.push(smaller.clone());
        }
    }
    common
}

/// Allow lists intersect; absent lists say nothing.
fn licenses_allow(all: &[&Policy]) -> Option<Vec<License>> {
    all.iter()
        .filter_map(|policy| policy.constraints.licenses_allow.clone())
        .reduce(|left, right| pairwise(&left, &right, |a, b| a.0.eq_ignore_ascii_case(&b.0)))
}

/// Hard wins, and is the default.
fn privacy_weight(all: &[&Policy]) -> PrivacyWeight {
    let mut said = all
        .iter()
        .filter_map(|policy| policy.privacy_weight)
        .peekable();
    if said.peek().is_some() && said.all(|weight| weight == PrivacyWeight::Weighted) {
        PrivacyWeight::Weighted
    } else {
        PrivacyWeight::Hard
    }
}

/// The floor of the most specific policy that names one; protected if any policy protects.
fn floor(all: &[&Policy]) -> Option<Floor> {
    let protect = all
        .iter()
        .filter_map(|policy| policy.floor.as_ref())
        .any(|floor| floor.protect);
    let mut floor = first(all, |policy| policy.floor.clone())?;
    floor.protect = protect;
    Some(floor)
}
