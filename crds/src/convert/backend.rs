//! InferenceBackend to the data plane's backend.

use mesh_core as core;
use mesh_core::{
    Backend, Capabilities, Jurisdiction, JurisdictionSet, License, NamespaceSelector, Place, Pods,
};
use serde_json::{Map, Value};

use super::endpoint::endpoint;
use super::{World, model, peer, value, warning};
use crate::endpoint::Claims;
use crate::in_cluster::{InCluster, Vendor};
use crate::inference_backend::{InferenceBackend, InferenceBackendSpec, Model};
use crate::kind::Kind;
use crate::parse::{Document, Object};
use crate::problem::{Problem, ProblemKind};
use crate::value::{JurisdictionCode, LabelSelector};

/// Fields of a request that are the caller's or the mesh's: overriding them would answer something
/// that nobody asked.
const NOT_OVERRIDABLE: [&str; 8] = [
    "model",
    "messages",
    "prompt",
    "input",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
];

pub(super) fn convert(
    world: &World<'_>,
    document: &Document,
    object: &InferenceBackend,
    problems: &mut Vec<Problem>,
) -> Option<Backend> {
    let spec = &object.spec;
    let mut declared = Declared::default();
    let (place, streams) = if let Some(in_cluster) = &spec.in_cluster {
        (
            in_process(world, document, in_cluster, &mut declared, problems)?,
            None,
        )
    } else if let Some(external) = &spec.external {
        let endpoint = endpoint(world, document, "spec.external", &external.into(), problems)?;
        (Place::External(endpoint), external.stream_upstream)
    } else if let Some(spec) = &spec.peer {
        let peer = peer::convert(world, document, spec, problems)?;
        (Place::Peer(peer), None)
    } else {
        let cloud = spec.cloud.as_ref()?;
        let place = core::Cloud {
            endpoint: endpoint(world, document, "spec.cloud", &cloud.into(), problems)?,
            provider: cloud.provider.clone(),
            claims: claims(world, document, cloud.claims.as_ref(), problems)?,
        };
        (Place::Cloud(place), cloud.stream_upstream)
    };
    let models: Option<Vec<_>> = spec
        .models
        .iter()
        .enumerate()
        .map(|(index, model)| served(document, index, model, &declared, problems))
        .collect();
    let limit = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    Some(Backend {
        id: world.id(document),
        place,
        models: models?,
        max_privacy: spec
            .max_privacy
            .map_or(core::PrivacyLevel::Restricted, Into::into),
        limits: core::Limits {
            concurrent_requests: limit(spec.limits.and_then(|limits| limits.concurrent_requests)),
            requests_per_minute: limit(spec.limits.and_then(|limits| limits.requests_per_minute)),
        },
        available_to: spec
            .available_to
            .as_ref()
            .map(|to| selector(&to.namespace_selector))
            .unwrap_or_default(),
        request_overrides: request_overrides(document, spec, problems),
        stream_upstream: streams.unwrap_or(true),
        hardware_vendor: hardware_vendor(spec),
    })
}

fn request_overrides(
    document: &Document,
    spec: &InferenceBackendSpec,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let (field, overrides) = match (&spec.cloud, &spec.external) {
        (Some(cloud), _) => ("spec.cloud.requestOverrides", &cloud.request_overrides),
        (None, Some(external)) => (
            "spec.external.requestOverrides",
            &external.request_overrides,
        ),
        (None, None) => return Map::new(),
    };
    for name in NOT_OVERRIDABLE
        .into_iter()
        .filter(|name| overrides.contains_key(*name))
    {
        let message = format!(
            "`{name}` belongs to the caller or to the mesh and cannot be overridden: remove it"
        );
        problems.push(document.problem(ProblemKind::Value, format!("{field}.{name}"), message));
    }
    overrides
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A place without an accelerator computes on the processor, which is a maker's too, but whose is not declared.
fn hardware_vendor(spec: &InferenceBackendSpec) -> Option<String> {
    let Some(in_cluster) = &spec.in_cluster else {
        return spec.hardware_vendor.clone();
    };
    let vendor = in_cluster.accelerator.as_ref().map(|one| one.vendor);
    let word = match vendor.unwrap_or(Vendor::Cpu) {
        Vendor::Cpu => "cpu",
        Vendor::Nvidia => "nvidia",
        Vendor::Amd => "amd",
        Vendor::Intel => "intel",
    };
    Some(word.to_owned())
}

/// Match labels only: expressions are refused at the door.
pub(super) fn selector(spec: &LabelSelector) -> NamespaceSelector {
    NamespaceSelector {
        match_labels: spec.match_labels.clone(),
    }
}

/// What a ModelCache declares for all names of a backend.
#[derive(Default)]
struct Declared {
    license: Option<License>,
    family: Option<String>,
    capabilities: Capabilities,
}

fn in_process(
    world: &World<'_>,
    document: &Document,
    spec: &InCluster,
    declared: &mut Declared,
    problems: &mut Vec<Problem>,
) -> Option<Place> {
    let namespace = document
        .object
        .namespace()
        .unwrap_or(world.input.mesh_namespace);
    let name = &spec.model_ref.name.0;
    let found = world.find(Kind::ModelCache, namespace, name);
    let Some(Document {
        object: Object::ModelCache(cache),
        ..
    }) = found
    else {
        let known = world.names(Kind::ModelCache, namespace);
        let message = format!(
            "no ModelCache {name} in namespace {namespace} ({known}): add it or correct the name"
        );
        problems.push(document.problem(
            ProblemKind::Reference,
            "spec.inCluster.modelRef.name",
            message,
        ));
        return None;
    };
    declared.license = cache
        .spec
        .license
        .as_ref()
        .map(|license| License(license.0.clone()));
    declared.family.clone_from(&cache.spec.family);
    declared.capabilities = model::capabilities(found?, cache, problems)?;
    let context_tokens = spec
        .context_tokens
        .and_then(|tokens| u32::try_from(tokens).ok());
    declared.capabilities.context_tokens = context_tokens.or(declared.capabilities.context_tokens);
    let memory = spec
        .kv_memory
        .as_ref()
        .map(crate::value::Quantity::read)
        .transpose();
    if let Some(pods) = world.input.pods {
        let id = (namespace.to_owned(), document.object.name().to_owned());
        let pods = pods.get(&id).cloned().unwrap_or_default();
        return Some(Place::Pods(Pods { pods }));
    }
    Some(Place::InProcess {
        model_cache: name.clone(),
        kv_bytes: value(document, "spec.inCluster.kvMemory", memory, problems)?,
        context_tokens,
    })
}

fn served(
    document: &Document,
    index: usize,
    spec: &Model,
    declared: &Declared,
    problems: &mut Vec<Problem>,
) -> Option<core::ServedModel> {
    let field = |name: &str| format!("spec.models[{index}].{name}");
    let capabilities = match &spec.capabilities {
        None => declared.capabilities.clone(),
        Some(own) => value(
            document,
            &field("capabilities"),
            Capabilities::try_from(own),
            problems,
        )?,
    };
    let price = spec.price.as_ref().map(core::Price::try_from).transpose();
    Some(core::ServedModel {
        name: spec.name.clone(),
        target: spec.target.clone(),
        aliases: spec.aliases.iter().map(|alias| alias.0.clone()).collect(),
        license: spec
            .license
            .as_ref()
            .map(|license| License(license.0.clone()))
            .or_else(|| declared.license.clone()),
        family: spec.family.clone().or_else(|| declared.family.clone()),
        price: value(document, &field("price"), price, problems)?,
        capabilities,
    })
}

/// The outer option is "could be read", the inner one "is there".
#[expect(
    clippy::option_option,
    reason = "the caller needs `?` for what could not be read"
)]
fn claims(
    world: &World<'_>,
    document: &Document,
    spec: Option<&Claims>,
    problems: &mut Vec<Problem>,
) -> Option<Option<core::Claims>> {
    let Some(spec) = spec else { return Some(None) };
    let expires = value(
        document,
        "spec.cloud.claims.expires",
        spec.expires.end(),
        problems,
    )?;
    if expires <= world.input.now {
        let message = format!(
            "the claims ended on {}: until they are renewed this backend counts as CloudRetained",
            spec.expires.0
        );
        problems.push(warning(
            document,
            ProblemKind::Value,
            "spec.cloud.claims.expires",
            message,
        ));
    }
    let mut places = |name: &str, codes: &[JurisdictionCode]| {
        jurisdictions(
            document,
            &format!("spec.cloud.claims.{name}"),
            codes,
            problems,
        )
    };
    Some(Some(core::Claims {
        seat: places("seat", &spec.seat)?,
        data_centers: places("dataCenters", &spec.data_centers)?,
        governing_law: places("governingLaw", &spec.governing_law)?,
        retention_days: spec
            .retention
            .and_then(|retention| retention.days)
            .and_then(|days| u32::try_from(days).ok()),
        training: spec.retention.and_then(|retention| retention.training),
        evidence: spec.evidence.clone(),
        expires,
    }))
}

pub(super) fn jurisdictions(
    document: &Document,
    field: &str,
    codes: &[JurisdictionCode],
    problems: &mut Vec<Problem>,
) -> Option<JurisdictionSet> {
    let read: Result<Vec<Jurisdiction>, _> = codes.iter().map(|code| code.0.parse()).collect();
    value(document, field, read, problems).map(JurisdictionSet)
}
