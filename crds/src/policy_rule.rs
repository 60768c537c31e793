//! The groups of a policy that decide: weights, references, constraints, failover, floor.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{
    Currency, Decimal, DurationText, Fraction, JurisdictionCode, LicenseId, ObjectName,
};
use crate::vocabulary::{Class, Privacy};

/// How much each term of the score counts; any scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("double(self.quality) + double(self.cost) + double(self.latency) + double(self.sovereignty) > 0.0")
    .message("at least one of quality, cost, latency and sovereignty must be above 0"))]
pub struct Weights {
    /// Quality for the task.
    #[serde(default = "weight_quality")]
    pub quality: Decimal,
    /// Low cost.
    #[serde(default = "weight_cost")]
    pub cost: Decimal,
    /// Short time to the first token.
    #[serde(default = "weight_latency")]
    pub latency: Decimal,
    /// The class's score.
    #[serde(default = "weight_sovereignty")]
    pub sovereignty: Decimal,
    /// Privacy, where `privacyWeight` is Weighted.
    #[serde(default = "weight_privacy")]
    pub privacy: Decimal,
}

fn decimal(text: &str) -> Decimal {
    Decimal(text.to_owned())
}

fn weight_quality() -> Decimal {
    decimal("0.30")
}

fn weight_cost() -> Decimal {
    decimal("0.15")
}

fn weight_latency() -> Decimal {
    decimal("0.15")
}

fn weight_sovereignty() -> Decimal {
    decimal("0.25")
}

fn weight_privacy() -> Decimal {
    decimal("0.15")
}

/// What counts as 1.0 in the score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct References {
    /// Cost per million tokens.
    #[serde(default = "reference_cost")]
    #[x_kube(validation = Rule::new("double(self) > 0.0").message("the reference cost must be above 0"))]
    pub cost_per_million: Decimal,
    /// Currency of the reference cost.
    #[serde(default = "euro")]
    pub currency: Currency,
    /// Time to the first token.
    #[serde(default = "five_seconds")]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("the reference latency must be above 0"))]
    pub latency: DurationText,
    /// What one unit of another currency is worth in `currency`. Prices in a currency that is not
    /// listed count like the reference cost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[A-Z]{3}$'))").message("currencies are ISO 4217 codes, for example USD"))]
    pub exchange_rates: BTreeMap<String, Decimal>,
}

fn reference_cost() -> Decimal {
    decimal("10.00")
}

fn euro() -> Currency {
    Currency(String::from("EUR"))
}

fn five_seconds() -> DurationText {
    DurationText(String::from("5s"))
}

/// How far owned backends are preferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferLocal {
    /// Largest gap in quality up to which an owned backend wins.
    pub unless_quality_gap_exceeds: Fraction,
}

/// Hard rules. What is absent rules nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Constraints {
    /// Lowest class per level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_class: Option<MinimumClass>,
    /// Places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jurisdictions: Option<JurisdictionRule>,
    /// Licenses of models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licenses: Option<LicenseRule>,
    /// What may happen to prompts, from a level on. All entries at or below a request's level hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["from".into()]))]
    pub retention: Vec<RetentionRule>,
}

/// Lowest class per level. A higher level never asks for less than a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(crate::rule::no_less("restricted", "confidential")).message("restricted must not ask for less than confidential").field_path(".restricted"))]
#[x_kube(validation = Rule::new(crate::rule::no_less("restricted", "internal")).message("restricted must not ask for less than internal").field_path(".restricted"))]
#[x_kube(validation = Rule::new(crate::rule::no_less("restricted", "public")).message("restricted must not ask for less than public").field_path(".restricted"))]
#[x_kube(validation = Rule::new(crate::rule::no_less("confidential", "internal")).message("confidential must not ask for less than internal").field_path(".confidential"))]
#[x_kube(validation = Rule::new(crate::rule::no_less("confidential", "public")).message("confidential must not ask for less than public").field_path(".confidential"))]
#[x_kube(validation = Rule::new(crate::rule::no_less("internal", "public")).message("internal must not ask for less than public").field_path(".internal"))]
pub struct MinimumClass {
    /// For restricted requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restricted: Option<Class>,
    /// For confidential requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidential: Option<Class>,
    /// For internal requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<Class>,
    /// For public requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<Class>,
}

/// Denied or allowed places. Absent or expired claims fail this rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.deny) || has(self.allow)").message("give deny or allow"))]
pub struct JurisdictionRule {
    /// Denied places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub deny: Vec<JurisdictionCode>,
    /// Places that alone are allowed. Absent = all that are not denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow: Option<Vec<JurisdictionCode>>,
    /// Claims that are looked at.
    #[serde(default = "all_claims")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub apply_to: Vec<ClaimField>,
}

fn all_claims() -> Vec<ClaimField> {
    vec![
        ClaimField::Seat,
        ClaimField::DataCenters,
        ClaimField::GoverningLaw,
    ]
}

/// A claim that a jurisdiction rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum ClaimField {
    /// Seat of the company.
    Seat,
    /// Where the data is processed.
    DataCenters,
    /// Law that governs.
    GoverningLaw,
}

/// Denied or allowed licenses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.deny) || has(self.allow)").message("give deny or allow"))]
pub struct LicenseRule {
    /// Denied licenses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub deny: Vec<LicenseId>,
    /// Licenses that alone are allowed. Absent = all that are not denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow: Option<Vec<LicenseId>>,
}

/// What may happen to prompts, from a level on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionRule {
    /// Lowest level for which this holds.
    pub from: Privacy,
    /// Longest retention in days.
    #[schemars(range(min = 0, max = 36500))]
    pub max_days: i32,
    /// Whether models may be trained on prompts.
    #[serde(default)]
    pub allow_training: bool,
}

/// Attempts and their limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.timeToFirstToken) <= duration(self.deadline)")
    .message("one attempt cannot take longer than all: lower timeToFirstToken or raise deadline").field_path(".timeToFirstToken"))]
#[x_kube(validation = Rule::new("[self.deadline, self.timeToFirstToken, self.betweenTokens].all(d, duration(d) > duration('0s'))")
    .message("deadline, timeToFirstToken and betweenTokens must be above 0"))]
#[x_kube(validation = Rule::new("!has(self.hedge) || duration(self.hedge.after) < duration(self.timeToFirstToken)")
    .message("a hedge must start before timeToFirstToken ends").field_path(".hedge"))]
pub struct Failover {
    /// Attempts before the floor.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 16))]
    pub max_attempts: i32,
    /// Time to the first token over all attempts. The floor is exempt.
    #[serde(default = "one_minute")]
    pub deadline: DurationText,
    /// Time to the first token of one attempt.
    #[serde(default = "ten_seconds")]
    pub time_to_first_token: DurationText,
    /// Longest silence between tokens.
    #[serde(default = "fifteen_seconds")]
    pub between_tokens: DurationText,
    /// Start the next attempt before the first has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// What happens to a stream that is cut after the first token.
    #[serde(default)]
    pub mid_stream: MidStream,
    /// What happens to an answer that refuses for safety.
    #[serde(default)]
    pub safety_refusals: SafetyRefusals,
    /// What happens if a named model cannot answer.
    #[serde(default)]
    pub substitution: Substitution,
}

fn four() -> i32 {
    4
}

fn one_minute() -> DurationText {
    DurationText(String::from("60s"))
}

fn ten_seconds() -> DurationText {
    DurationText(String::from("10s"))
}

fn fifteen_seconds() -> DurationText {
    DurationText(String::from("15s"))
}

/// A second attempt beside the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hedge {
    /// Silence after which the second attempt starts.
    pub after: DurationText,
}

/// What happens to a stream that is cut after the first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum MidStream {
    /// The next backend goes on where it was cut.
    Continue,
    /// The next backend starts again.
    Restart,
    /// It ends with an error inside the stream.
    #[default]
    Fail,
}

/// What happens to an answer that refuses for safety.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum SafetyRefusals {
    /// It is the answer.
    #[default]
    Keep,
    /// The next backend is asked.
    FailOver,
}

/// What happens if a named model cannot answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Substitution {
    /// The floor answers, and says so.
    #[default]
    Floor,
    /// A declared equivalent answers, and says so.
    Equivalents,
    /// Nobody answers instead.
    Never,
}

/// The backend that always answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// The backend: inCluster, or an owned external.
    pub backend_ref: BackendRef,
    /// Half of its memory is kept for requests without an alternative.
    #[serde(default = "yes")]
    pub protect: bool,
    /// It is scored like the others, not only kept for the end.
    #[serde(default)]
    pub compete: bool,
    /// What happens to a prompt that is too large for it.
    #[serde(default)]
    pub overflow: Overflow,
    /// Regular proof that it answers: every gateway asks it a small question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
}

fn yes() -> bool {
    true
}

/// An InferenceBackend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Absent: the policy's namespace. Else only the mesh namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ObjectName>,
    /// Its name.
    pub name: ObjectName,
}

/// What happens to a prompt that is too large for the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Overflow {
    /// The oldest turns are left out, and the answer says so.
    #[default]
    TrimHistory,
    /// It is refused.
    Refuse,
}

/// Regular proof that the floor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.interval) >= duration('1m') && duration(self.interval) <= duration('168h')")
    .message("a drill is at most every minute and at least every week: give an interval from 1m to 168h"))]
pub struct Drill {
    /// Time between two proofs, 1m to 168h. Of several policies with the same floor the shortest counts, those of the mesh
    /// namespace before others.
    pub interval: DurationText,
}
