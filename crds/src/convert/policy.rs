//! SovereigntyPolicy to the data plane's policy.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use mesh_core as core;
use mesh_core::policy::{self, Policy};
use mesh_core::{License, PrivacyLevel, SovereigntyClass, hex};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::backend::{jurisdictions, selector};
use super::{World, promise, value, warning};
use crate::kind::Kind;
use crate::label;
use crate::parse::{Document, Object};
use crate::policy_rule as rule;
use crate::problem::{Problem, ProblemKind};
use crate::sovereignty_policy::{
    Ownership, PrivacyWeight, SovereigntyPolicy, SovereigntyPolicySpec,
};
use crate::value::{Error, LicenseId};

pub(super) fn convert(
    world: &World<'_>,
    document: &Document,
    object: &SovereigntyPolicy,
    problems: &mut Vec<Problem>,
) -> Option<Policy> {
    let spec = &object.spec;
    let weights = group(
        document,
        "spec.weights",
        spec.weights.as_ref(),
        weights,
        problems,
    )?;
    let references = group(
        document,
        "spec.references",
        spec.references.as_ref(),
        references,
        problems,
    )?;
    let failover = group(
        document,
        "spec.failover",
        spec.failover.as_ref(),
        failover,
        problems,
    )?;
    let prefer_local_gap = group(
        document,
        "spec.preferLocal",
        spec.prefer_local.as_ref(),
        gap,
        problems,
    )?;
    let owned = spec
        .ownership
        .as_ref()
        .map(|spec| ownership(world, document, spec, problems));
    let floor = spec
        .floor
        .as_ref()
        .map(|spec| floor(world, document, spec, problems));
    let defaults = spec.defaults.unwrap_or_default();
    Some(Policy {
        id: world.id(document),
        digest: digest(spec),
        origin: origin(&document.object),
        namespaces: namespaces(spec),
        service_accounts: service_accounts(spec),
        ownership: all_read(owned)?,
        default_privacy: defaults.privacy.map(Into::into),
        default_latency: defaults.latency.map(Into::into),
        weights,
        privacy_weight: spec.privacy_weight.map(Into::into),
        references,
        prefer_local_gap,
        constraints: constraints(document, spec.constraints.as_ref(), problems)?,
        incomplete_level: incomplete(spec),
        failover,
        floor: all_read(floor)?,
        max_share: max_share(world, document, spec, problems)?,
        durable_from: spec.audit.map(|audit| audit.durable_from.into()),
        tests: promise::tests(world, document, &spec.tests, problems),
    })
}

fn incomplete(spec: &SovereigntyPolicySpec) -> Option<PrivacyLevel> {
    let group = spec.classification.as_ref();
    let level = group.and_then(|group| group.incomplete_level);
    level.map(Into::into)
}

/// The outer option is "could be read", the inner one "is there".
#[expect(
    clippy::option_option,
    reason = "the caller needs `?` for what could not be read"
)]
fn group<S, T>(
    document: &Document,
    field: &str,
    spec: Option<&S>,
    read: impl Fn(&S) -> Result<T, Error>,
    problems: &mut Vec<Problem>,
) -> Option<Option<T>> {
    value(document, field, spec.map(read).transpose(), problems)
}

/// From "is there, could be read" to "could be read, is there".
#[expect(
    clippy::option_option,
    reason = "the caller needs `?` for what could not be read"
)]
fn all_read<T>(group: Option<Option<T>>) -> Option<Option<T>> {
    match group {
        Some(None) => None,
        Some(read) => Some(read),
        None => Some(None),
    }
}

fn service_accounts(spec: &SovereigntyPolicySpec) -> Vec<String> {
    let names = spec
        .selector
        .iter()
        .flat_map(|selector| &selector.service_accounts);
    names.map(|name| name.0.clone()).collect()
}

impl From<PrivacyWeight> for policy::PrivacyWeight {
    fn from(weight: PrivacyWeight) -> Self {
        match weight {
            PrivacyWeight::Hard => Self::Hard,
            PrivacyWeight::Weighted => Self::Weighted,
        }
    }
}

fn namespaces(spec: &SovereigntyPolicySpec) -> core::NamespaceSelector {
    let labels = spec
        .selector
        .as_ref()
        .and_then(|selector| selector.namespace_selector.as_ref());
    labels.map(selector).unwrap_or_default()
}

/// sha256 over the spec as JSON with sorted keys and defaults in place: the same policy has the same
/// digest, however it is written.
pub(super) fn digest(spec: &SovereigntyPolicySpec) -> String {
    let canonical = serde_json::to_value(spec)
        .map(|value| sorted(&value).to_string())
        .unwrap_or_default();
    hex(&Sha256::digest(canonical.as_bytes()))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> = map
                .iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(
                ordered
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        scalar => scalar.clone(),
    }
}

fn weights(spec: &rule::Weights) -> Result<policy::Weights, Error> {
    Ok(policy::Weights {
        quality: spec.quality.read()?,
        cost: spec.cost.read()?,
        latency: spec.latency.read()?,
        sovereignty: spec.sovereignty.read()?,
        privacy: spec.privacy.read()?,
    })
}

fn gap(spec: &rule::PreferLocal) -> Result<f64, Error> {
    spec.unless_quality_gap_exceeds.read()
}

fn references(spec: &rule::References) -> Result<policy::References, Error> {
    let rates = spec
        .exchange_rates
        .iter()
        .map(|(currency, rate)| Ok((currency.clone(), rate.read()?)));
    Ok(policy::References {
        cost_per_million: spec.cost_per_million.read()?,
        currency: spec.currency.0.clone(),
        latency: spec.latency.read()?,
        exchange_rates: rates.collect::<Result<_, Error>>()?,
    })
}

/// What comes later (`hedge`, other modes) is refused at the door.
fn failover(spec: &rule::Failover) -> Result<policy::Failover, Error> {
    Ok(policy::Failover {
        max_attempts: u32::try_from(spec.max_attempts).unwrap_or(1),
        deadline: spec.deadline.read()?,
        time_to_first_token: spec.time_to_first_token.read()?,
        between_tokens: spec.between_tokens.read()?,
        mid_stream: policy::MidStream::Fail,
        substitution: match spec.substitution {
            rule::Substitution::Never => policy::Substitution::Never,
            rule::Substitution::Floor | rule::Substitution::Equivalents => {
                policy::Substitution::Floor
            }
        },
    })
}

fn origin(object: &Object) -> policy::Origin {
    if object.labeled(label::STAND_IN) {
        policy::Origin::StandIn
    } else if object.labeled(label::BOOTSTRAP) {
        policy::Origin::Bootstrap
    } else {
        policy::Origin::Written
    }
}

/// The outer option is "could be read", the inner one "is there". Tokens are counted for all callers together.
#[expect(
    clippy::option_option,
    reason = "the caller needs `?` for what could not be read"
)]
fn max_share(
    world: &World<'_>,
    document: &Document,
    spec: &SovereigntyPolicySpec,
    problems: &mut Vec<Problem>,
) -> Option<Option<f64>> {
    let Some(group) = &spec.concentration else {
        return Some(None);
    };
    let field = "spec.concentration.maxShare";
    let home = world.input.mesh_namespace;
    if world.namespace(document) != home {
        let message = format!(
            "shares are counted over all traffic: only policies of the mesh namespace ({home}) may limit them"
        );
        problems.push(document.problem(ProblemKind::Value, field, message));
    }
    value(document, field, group.max_share.read(), problems).map(Some)
}

fn ownership(
    world: &World<'_>,
    document: &Document,
    spec: &Ownership,
    problems: &mut Vec<Problem>,
) -> Option<policy::Ownership> {
    if document
        .object
        .namespace()
        .is_some_and(|namespace| namespace != world.input.mesh_namespace)
    {
        let home = world.input.mesh_namespace;
        let message = format!(
            "only policies of the mesh namespace ({home}) may say what is owned: move it there"
        );
        problems.push(document.problem(ProblemKind::Value, "spec.ownership", message));
    }
    for (index, external) in spec.external.iter().enumerate() {
        let (namespace, name) = (&external.namespace.0, &external.name.0);
        if world
            .find(Kind::InferenceBackend, namespace, name)
            .is_none()
        {
            let message =
                format!("no InferenceBackend {name} in namespace {namespace}: it owns nothing");
            problems.push(warning(
                document,
                ProblemKind::Reference,
                &format!("spec.ownership.external[{index}]"),
                message,
            ));
        }
    }
    let networks: Result<Vec<IpNet>, _> = spec
        .networks
        .iter()
        .map(|network| network.0.parse())
        .collect();
    Some(policy::Ownership {
        nodes: spec
            .node_selector
            .as_ref()
            .map(|selector| vec![selector.match_labels.clone()]),
        networks: value(document, "spec.ownership.networks", networks, problems)?,
        external: spec
            .external
            .iter()
            .map(|id| (id.namespace.0.clone(), id.name.0.clone()))
            .collect(),
        home_jurisdictions: jurisdictions(
            document,
            "spec.ownership.homeJurisdictions",
            &spec.home_jurisdictions,
            problems,
        )?,
    })
}

fn floor(
    world: &World<'_>,
    document: &Document,
    spec: &rule::Floor,
    problems: &mut Vec<Problem>,
) -> Option<policy::Floor> {
    let own = document
        .object
        .namespace()
        .unwrap_or(world.input.mesh_namespace);
    let namespace = spec
        .backend_ref
        .namespace
        .as_ref()
        .map_or(own, |namespace| namespace.0.as_str());
    let name = &spec.backend_ref.name.0;
    if namespace != own && namespace != world.input.mesh_namespace {
        let message = format!(
            "a floor is in the policy's namespace or in the mesh namespace ({})",
            world.input.mesh_namespace
        );
        problems.push(document.problem(
            ProblemKind::Reference,
            "spec.floor.backendRef.namespace",
            message,
        ));
        return None;
    }
    let message = match world
        .find(Kind::InferenceBackend, namespace, name)
        .map(|document| &document.object)
    {
        Some(Object::InferenceBackend(backend)) if backend.spec.cloud.is_none() => None,
        Some(_) => Some(format!(
            "{name} is a cloud; a floor must be inCluster or external, so that it answers when no cloud does"
        )),
        None => {
            let known = world.names(Kind::InferenceBackend, namespace);
            Some(format!(
                "no InferenceBackend {name} in namespace {namespace} ({known}): add it or correct the name"
            ))
        }
    };
    if let Some(message) = message {
        problems.push(document.problem(
            ProblemKind::Reference,
            "spec.floor.backendRef.name",
            message,
        ));
        return None;
    }
    Some(policy::Floor {
        drill: drill(document, spec, problems)?,
        backend: (namespace.to_owned(), name.clone()),
        protect: spec.protect,
        compete: spec.compete,
        overflow: match spec.overflow {
            rule::Overflow::TrimHistory => policy::Overflow::TrimHistory,
            rule::Overflow::Refuse => policy::Overflow::Refuse,
        },
    })
}

/// The outer option is "could be read", the inner one "is there".
#[expect(
    clippy::option_option,
    reason = "the caller needs `?` for what could not be read"
)]
fn drill(
    document: &Document,
    spec: &rule::Floor,
    problems: &mut Vec<Problem>,
) -> Option<Option<Duration>> {
    let read = |drill: &rule::Drill| drill.interval.read();
    let field = "spec.floor.drill.interval";
    group(document, field, spec.drill.as_ref(), read, problems)
}

fn constraints(
    document: &Document,
    spec: Option<&rule::Constraints>,
    problems: &mut Vec<Problem>,
) -> Option<policy::Constraints> {
    let Some(spec) = spec else {
        return Some(policy::Constraints::default());
    };
    let places = match &spec.jurisdictions {
        None => None,
        Some(rule) => Some(jurisdiction_rule(document, rule, problems)?),
    };
    let licenses = |list: &[LicenseId]| {
        list.iter()
            .map(|license| License(license.0.clone()))
            .collect::<Vec<_>>()
    };
    let retention = spec.retention.iter().map(|rule| policy::RetentionRule {
        from: rule.from.into(),
        max_days: u32::try_from(rule.max_days).unwrap_or_default(),
        allow_training: rule.allow_training,
    });
    Some(policy::Constraints {
        minimum_class: spec.minimum_class.map(minimum_class).unwrap_or_default(),
        jurisdictions: places,
        licenses_deny: spec
            .licenses
            .as_ref()
            .map(|rule| licenses(&rule.deny))
            .unwrap_or_default(),
        licenses_allow: spec
            .licenses
            .as_ref()
            .and_then(|rule| rule.allow.as_deref())
            .map(licenses),
        retention: retention.collect(),
    })
}

fn minimum_class(spec: rule::MinimumClass) -> BTreeMap<PrivacyLevel, SovereigntyClass> {
    [
        (PrivacyLevel::Restricted, spec.restricted),
        (PrivacyLevel::Confidential, spec.confidential),
        (PrivacyLevel::Internal, spec.internal),
        (PrivacyLevel::Public, spec.public),
    ]
    .into_iter()
    .filter_map(|(level, class)| Some((level, class?.into())))
    .collect()
}

fn jurisdiction_rule(
    document: &Document,
    spec: &rule::JurisdictionRule,
    problems: &mut Vec<Problem>,
) -> Option<policy::JurisdictionRule> {
    let mut places = |name: &str, codes: &[crate::value::JurisdictionCode]| {
        jurisdictions(
            document,
            &format!("spec.constraints.jurisdictions.{name}"),
            codes,
            problems,
        )
    };
    Some(policy::JurisdictionRule {
        deny: places("deny", &spec.deny)?,
        allow: match &spec.allow {
            None => None,
            Some(codes) => Some(places("allow", codes)?),
        },
        apply_to: spec
            .apply_to
            .iter()
            .map(|claim| match claim {
                rule::ClaimField::Seat => policy::ClaimField::Seat,
                rule::ClaimField::DataCenters => policy::ClaimField::DataCenters,
                rule::ClaimField::GoverningLaw => policy::ClaimField::GoverningLaw,
            })
            .collect(),
    })
}
