//! What the policies that select a caller say together (`semantics` section 2).
//!
//! Hard rules of all matching policies are joined, the strictest wins. Preferences come whole,
//! group by group, from the most specific policy that has the group. Only policies of the mesh
//! namespace can loosen anything or say what is owned; a policy elsewhere tightens and prefers.
//! An [`EffectivePolicy`] is made by [`join`] alone, so nobody can hand a laxer one to
//! [`admit`](crate::admit).

mod join;
mod order;

use mesh_core::policy::{
    Failover, Floor, JurisdictionRule, Ownership, PrivacyWeight, References, RetentionRule, Weights,
};
use mesh_core::{
    BackendId, Caller, LatencyClass, License, PolicyId, PolicyRef, PrivacyLevel, SovereigntyClass,
};

pub use join::join;
pub use order::{matches, selects_everything};

/// Lowest class per level where no policy of the mesh namespace names one: restricted, then
/// confidential, internal and public as in the default policy of the contract.
pub const DEFAULT_MINIMUM: [SovereigntyClass; 4] = [
    SovereigntyClass::CloudRetained,
    SovereigntyClass::CloudDomestic,
    SovereigntyClass::RentedHardware,
    SovereigntyClass::OwnHardware,
];

/// The joined policy for one caller. Made by [`join`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectivePolicy {
    caller: Caller,
    mesh_namespace: String,
    generation: u64,
    policies: Vec<PolicyRef>,
    base_level: PrivacyLevel,
    base_source: Option<PolicyId>,
    incomplete_level: PrivacyLevel,
    default_latency: Option<LatencyClass>,
    ownership: Ownership,
    minimum_class: [SovereigntyClass; 4],
    jurisdictions: Vec<JurisdictionRule>,
    licenses_deny: Vec<License>,
    licenses_allow: Option<Vec<License>>,
    retention: Vec<RetentionRule>,
    privacy_weight: PrivacyWeight,
    weights: Weights,
    references: References,
    prefer_local_gap: f64,
    failover: Failover,
    floor: Option<Floor>,
    durable_from: Option<PrivacyLevel>,
}

impl EffectivePolicy {
    /// The caller for whom the policies were joined.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Namespace of the mesh itself.
    pub fn mesh_namespace(&self) -> &str {
        &self.mesh_namespace
    }

    /// Generation of the snapshot this was joined from.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The policies that took part, most specific first.
    pub fn policies(&self) -> &[PolicyRef] {
        &self.policies
    }

    /// Level of a request about which nobody says anything. Confidential if no policy says more.
    pub fn base_level(&self) -> PrivacyLevel {
        self.base_level
    }

    /// The policy that set [`base_level`](Self::base_level); `None` = the built-in default.
    pub fn base_source(&self) -> Option<&PolicyId> {
        self.base_source.as_ref()
    }

    /// Level of what could not be read. Restricted if no policy says otherwise.
    pub fn incomplete_level(&self) -> PrivacyLevel {
        self.incomplete_level
    }

    /// Latency class where the caller says nothing; `None` = no policy says one.
    pub fn default_latency(&self) -> Option<LatencyClass> {
        self.default_latency
    }

    /// What counts as the organization's own.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// Lowest class that may serve `level`. Never falls as the level rises.
    pub fn minimum_class(&self, level: PrivacyLevel) -> SovereigntyClass {
        self.minimum_class[usize::from(level.rank())]
    }

    /// Jurisdiction rules; every one of them must hold.
    pub fn jurisdictions(&self) -> &[JurisdictionRule] {
        &self.jurisdictions
    }

    /// Licenses that may not be used.
    pub fn licenses_deny(&self) -> &[License] {
        &self.licenses_deny
    }

    /// Licenses that alone may be used; `None` = any.
    pub fn licenses_allow(&self) -> Option<&[License]> {
        self.licenses_allow.as_deref()
    }

    /// Retention rules that hold at `level`; every one of them must hold.
    pub fn retention(&self, level: PrivacyLevel) -> impl Iterator<Item = &RetentionRule> {
        self.retention.iter().filter(move |rule| rule.from <= level)
    }

    /// Whether the privacy term is scored.
    pub fn privacy_weight(&self) -> PrivacyWeight {
        self.privacy_weight
    }

    /// Weights of the score, as declared.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What counts as 1.0 in the score.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Largest quality gap up to which owned backends are preferred; 0 = no preference.
    pub fn prefer_local_gap(&self) -> f64 {
        self.prefer_local_gap
    }

    /// Attempts and their limits.
    pub fn failover(&self) -> &Failover {
        &self.failover
    }

    /// True if what is decided about a request of this level must be on disk before it is sent anywhere.
    pub fn durable(&self, level: PrivacyLevel) -> bool {
        self.durable_from.is_some_and(|from| level >= from)
    }

    /// True if this backend is the one that a policy names as its floor.
    pub fn is_floor(&self, backend: &BackendId) -> bool {
        self.floor.as_ref().is_some_and(|floor| {
            floor.backend.0 == backend.namespace && floor.backend.1 == backend.name
        })
    }

    /// The backend that always answers, if a policy names one.
    pub fn floor(&self) -> Option<&Floor> {
        self.floor.as_ref()
    }
}
