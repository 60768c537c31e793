//! A SovereigntyPolicy as the data plane sees it: every group optional, so that several policies
//! can be joined (`semantics` section 2). Joining itself is routing's.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use crate::policy_test::PolicyTest;
use crate::{
    JurisdictionSet, LatencyClass, License, NamespaceSelector, PolicyId, PrivacyLevel,
    SovereigntyClass,
};

/// One policy. Groups that are absent say nothing.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Namespace and name; `id.home` tells a policy of the mesh namespace.
    pub id: PolicyId,
    /// sha256 of the canonical spec, hex.
    pub digest: String,
    /// Who wrote it.
    pub origin: Origin,
    /// Namespaces selected (only a policy of the mesh namespace reaches beyond its own).
    pub namespaces: NamespaceSelector,
    /// ServiceAccounts selected; empty = all.
    pub service_accounts: Vec<String>,
    /// What counts as ours.
    pub ownership: Option<Ownership>,
    /// Base level of requests.
    pub default_privacy: Option<PrivacyLevel>,
    /// Latency class where the caller says nothing.
    pub default_latency: Option<LatencyClass>,
    /// Preferences of the score.
    pub weights: Option<Weights>,
    /// Whether the privacy term is scored.
    pub privacy_weight: Option<PrivacyWeight>,
    /// What counts as 1.0 in the score.
    pub references: Option<References>,
    /// Largest quality gap up to which owned backends are preferred, 0..=1.
    pub prefer_local_gap: Option<f64>,
    /// Hard rules.
    pub constraints: Constraints,
    /// Level of what could not be read.
    pub incomplete_level: Option<PrivacyLevel>,
    /// Attempts and their limits.
    pub failover: Option<Failover>,
    /// The backend that always answers.
    pub floor: Option<Floor>,
    /// Largest share of all tokens that one company should have, 0..=1. It is told, it decides nothing.
    pub max_share: Option<f64>,
    /// Lowest level whose decisions must be on disk before anything is sent; absent = none is asked for.
    pub durable_from: Option<PrivacyLevel>,
    /// What the policy promises.
    pub tests: Vec<PolicyTest>,
}

/// Where a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Somebody wrote it.
    #[default]
    Written,
    /// It came with the installation, and steps back where somebody's policy of the mesh namespace
    /// governs.
    Bootstrap,
    /// It stands in for one that was never accepted: it allows owned hardware only, and pushes
    /// nothing aside.
    StandIn,
}

/// What counts as the organization's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ownership {
    /// Labels that owned nodes have: all selectors must match. Absent = no node is claimed; an empty
    /// selector = every node is.
    pub nodes: Option<Vec<BTreeMap<String, String>>>,
    /// Networks whose addresses are owned; loopback only if listed.
    pub networks: Vec<IpNet>,
    /// External backends owned whatever their address: namespace and name.
    pub external: Vec<(String, String)>,
    /// Jurisdictions that are home.
    pub home_jurisdictions: JurisdictionSet,
}

/// Weights of the score's terms; any scale, normalized when used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Quality for the task.
    pub quality: f64,
    /// One minus cost.
    pub cost: f64,
    /// One minus latency.
    pub latency: f64,
    /// Score of the class.
    pub sovereignty: f64,
    /// Privacy, where it is weighted.
    pub privacy: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            quality: 0.30,
            cost: 0.15,
            latency: 0.15,
            sovereignty: 0.25,
            privacy: 0.15,
        }
    }
}

/// Whether privacy is a constraint alone, or a preference on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivacyWeight {
    /// The privacy term is out of the score.
    #[default]
    Hard,
    /// The privacy term is scored too; it never replaces a constraint.
    Weighted,
}

/// Fixed references: the values that count as 1.0.
#[derive(Debug, Clone, PartialEq)]
pub struct References {
    /// Cost per million tokens, in `currency`.
    pub cost_per_million: f64,
    /// ISO 4217 code.
    pub currency: String,
    /// Time to first token.
    pub latency: Duration,
    /// How much of `currency` one unit of another currency is worth.
    pub exchange_rates: BTreeMap<String, f64>,
}

impl Default for References {
    fn default() -> Self {
        Self {
            cost_per_million: 10.0,
            currency: String::from("EUR"),
            latency: Duration::from_secs(5),
            exchange_rates: BTreeMap::new(),
        }
    }
}

/// Hard rules. Absent = no rule from this policy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Constraints {
    /// Lowest class per level.
    pub minimum_class: BTreeMap<PrivacyLevel, SovereigntyClass>,
    /// Places.
    pub jurisdictions: Option<JurisdictionRule>,
    /// Licenses that may not be used.
    pub licenses_deny: Vec<License>,
    /// Licenses that alone may be used; absent = any.
    pub licenses_allow: Option<Vec<License>>,
    /// Retention from a level on.
    pub retention: Vec<RetentionRule>,
}

/// Which facts of a cloud a jurisdiction rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimField {
    /// Seat of the company.
    Seat,
    /// Where the data is processed.
    DataCenters,
    /// Governing law.
    GoverningLaw,
}

/// Denied or allowed places.
#[derive(Debug, Clone, PartialEq)]
pub struct JurisdictionRule {
    /// Denied places.
    pub deny: JurisdictionSet,
    /// Allowed places; absent = all that are not denied.
    pub allow: Option<JurisdictionSet>,
    /// Facts looked at; never empty.
    pub apply_to: Vec<ClaimField>,
}

/// Retention admitted from a level on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionRule {
    /// Level from which the rule holds.
    pub from: PrivacyLevel,
    /// Longest retention in days.
    pub max_days: u32,
    /// Whether training use is admitted.
    pub allow_training: bool,
}

/// What happens if a named model cannot answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Substitution {
    /// The floor answers.
    #[default]
    Floor,
    /// Nobody answers instead.
    Never,
}

/// What happens to a stream cut after the first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MidStream {
    /// It ends with an in-band error.
    #[default]
    Fail,
}

/// Attempts and their limits (`semantics` section 5).
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// Attempts before the floor.
    pub max_attempts: u32,
    /// Time to the first token over all attempts.
    pub deadline: Duration,
    /// Time to the first token of one attempt.
    pub time_to_first_token: Duration,
    /// Longest silence between tokens.
    pub between_tokens: Duration,
    /// After the first token.
    pub mid_stream: MidStream,
    /// For named models.
    pub substitution: Substitution,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            max_attempts: 4,
            deadline: Duration::from_mins(1),
            time_to_first_token: Duration::from_secs(10),
            between_tokens: Duration::from_secs(15),
            mid_stream: MidStream::Fail,
            substitution: Substitution::Floor,
        }
    }
}

/// What the floor does with a prompt that is too large for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Old turns are left out.
    #[default]
    TrimHistory,
    /// It refuses.
    Refuse,
}

/// The backend that always answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    /// Namespace and name of the backend.
    pub backend: (String, String),
    /// Half of its memory is kept for requests without an alternative.
    pub protect: bool,
    /// It is scored like the others.
    pub compete: bool,
    /// Too large prompts.
    pub overflow: Overflow,
    /// Time between two proofs that it answers; absent = none is asked for.
    pub drill: Option<Duration>,
}
