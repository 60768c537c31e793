//! What a backend with pods comes to: everything it refers to found, and everything that cannot work
//! refused with the reason. Pure.

use std::collections::BTreeMap;

use mesh_crds::in_cluster::{Engine, InCluster, Vendor};
use mesh_crds::model_cache::ModelType;
use mesh_crds::{InferenceBackend, ModelCache, condition};

use super::accelerator::{Accelerator, accelerator};
use super::engine::{self, Model};
use super::weights::{Wanted, Weights, weights};
use crate::backend::Images;
use crate::backend::fleet::Fleet;
use crate::cache::{Obstacle, State, builtin};

/// Where the files of the model are.
const MODELS: &str = "/models";
/// Where adapters are, a folder each.
const ADAPTERS: &str = "/adapters";

/// Why there are no pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Pods that there are must go: they may be what is refused.
    pub(crate) forbidden: bool,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            forbidden: false,
        }
    }

    pub(super) fn later(what: &str) -> Self {
        let message = format!("not supported yet: {what}");
        Self::new(condition::REASON_NOT_SUPPORTED_YET, message)
    }
}

impl From<Obstacle> for Refusal {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Waiting(message) => Self::new(condition::REASON_PROGRESSING, message),
            Obstacle::Fault(reason, message) => Self::new(reason, message),
        }
    }
}

/// What a plan is made from.
pub(crate) struct Input<'a> {
    /// With namespace and uid.
    pub(crate) backend: &'a InferenceBackend,
    pub(crate) spec: &'a InCluster,
    /// Finds a ModelCache of the backend's namespace, or says why it cannot be used.
    pub(crate) cache: &'a dyn Fn(&str) -> Result<&'a State, Refusal>,
    pub(crate) images: &'a Images,
    pub(crate) fleet: &'a Fleet,
    pub(crate) mesh_namespace: &'a str,
    /// Labels of owned nodes, for a backend that a policy names as its floor.
    pub(crate) owned: BTreeMap<String, String>,
    /// Which of Intel's resources the pods have that there are.
    pub(crate) intel: Option<&'static str>,
}

/// An adapter in a pod.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) name: String,
    pub(super) weights: Weights,
    /// What the engine is told to load.
    pub(super) path: String,
}

/// A backend with pods that can work.
pub(crate) struct Plan<'a> {
    pub(super) backend: &'a InferenceBackend,
    pub(super) spec: &'a InCluster,
    pub(super) images: &'a Images,
    pub(super) mesh_namespace: &'a str,
    pub(super) owned: BTreeMap<String, String>,
    pub(super) image: String,
    pub(super) weights: Weights,
    pub(super) model: Model,
    pub(super) adapters: Vec<Adapter>,
    pub(crate) accelerator: Option<Accelerator>,
}

/// The name is part of a Service's name and a label's value, which may be less than a name may.
fn named(backend: &InferenceBackend) -> Result<(), Refusal> {
    let name = backend.metadata.name.as_deref().unwrap_or_default();
    if name.len() <= 63 && !name.contains('.') {
        return Ok(());
    }
    Err(Refusal::new(
        "UnusableName",
        "metadata.name: a backend with pods has a name of at most 63 characters without dots: its pods and its Service are named by it",
    ))
}

/// Names sent upstream become arguments of engines: none may be read as an option or as two names, with which an author
/// could have them do what only [`foreign`] allows.
fn targets(backend: &InferenceBackend) -> Result<(), Refusal> {
    let odd = |target: &&str| {
        let mut bytes = target.bytes();
        let first = bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        !(first && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte)))
    };
    let models = backend.spec.models.iter();
    let mut targets = models.filter_map(|model| model.target.as_deref());
    match targets.find(odd) {
        None => Ok(()),
        Some(target) => Err(Refusal::new(
            "NotServable",
            format!(
                "spec.models: the target `{}` of a backend with pods begins with a letter or a number and has letters, numbers and . _ : / @ + - only",
                target.escape_debug()
            ),
        )),
    }
}

/// Finds everything, or says what cannot work.
pub(crate) fn plan(input: Input<'_>) -> Result<Plan<'_>, Refusal> {
    let (backend, spec) = (input.backend, input.spec);
    named(backend)?;
    targets(backend)?;
    foreign(&input)?;
    let model = (input.cache)(&spec.model_ref.name.0)?;
    let base = &model.cache;
    if base.spec.type_ == ModelType::Adapter {
        let message = format!(
            "ModelCache {} is an adapter: name its base model in modelRef, and it in adapters",
            spec.model_ref.name.0
        );
        return Err(Refusal::new("NotAModel", message));
    }
    let accelerator = accelerator(spec, input.fleet, input.intel)?;
    let vendor = accelerator.as_ref().map_or(Vendor::Cpu, |one| one.vendor);
    let from_image = builtin(base);
    let set = input.images.serving(spec.engine, vendor, from_image);
    let image = match (&spec.image, set) {
        (Some(own), _) => own.clone(),
        (None, Ok(image)) => image.to_owned(),
        (None, Err(message)) => return Err(Refusal::new("NoImage", message)),
    };
    let fetch = |cache: &ModelCache| match (&spec.image, spec.engine) {
        // Another image of our own worker can fetch as well.
        (Some(own), Engine::Candle) => own.clone(),
        _ => input.images.ours(builtin(cache)).to_owned(),
    };
    let fetching = fetch(base);
    model.serves(spec.model_ref.quantization, spec.replicas)?;
    let weights = weights(&Wanted {
        model,
        quantization: spec.model_ref.quantization,
        volume: "models",
        at: MODELS,
        image: &fetching,
        same_image: fetching == image,
        pull_policy: &input.images.pull_policy,
    });
    let base_model = model;
    let model = engine::model(spec.engine, &weights.files, &spec.model_ref.name.0)?;
    engine::check(spec, accelerator.as_ref())?;
    let adapters = adapters(&input, base_model, &fetch)?;
    Ok(Plan {
        backend,
        spec,
        images: input.images,
        mesh_namespace: input.mesh_namespace,
        owned: input.owned,
        image,
        weights,
        model,
        adapters,
        accelerator,
    })
}

/// What lets an author run a program of his own is for the mesh namespace: elsewhere pods on owned nodes
/// count as owned because the mesh knows what runs in them.
fn foreign(input: &Input<'_>) -> Result<(), Refusal> {
    let spec = input.spec;
    if input.backend.metadata.namespace.as_deref() == Some(input.mesh_namespace) {
        return Ok(());
    }
    let used = [
        ("image", spec.image.is_some()),
        ("args", !spec.args.is_empty()),
        ("env", !spec.env.is_empty()),
        ("runtimeClassName", spec.runtime_class_name.is_some()),
    ];
    let used: Vec<String> = used
        .into_iter()
        .filter(|(_, used)| *used)
        .map(|(name, _)| format!("spec.inCluster.{name}"))
        .collect();
    if used.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{}: only backends of namespace {} may say so, since a pod counts as owned for what the mesh runs in it",
        used.join(", "),
        input.mesh_namespace
    );
    Err(Refusal {
        forbidden: true,
        ..Refusal::new("OnlyInMeshNamespace", message)
    })
}

fn adapters(
    input: &Input<'_>,
    base: &State,
    fetch: &dyn Fn(&ModelCache) -> String,
) -> Result<Vec<Adapter>, Refusal> {
    let mut adapters = Vec::new();
    for (index, reference) in input.spec.adapters.iter().enumerate() {
        let name = &reference.name.0;
        let model = (input.cache)(name)?;
        let cache = &model.cache;
        fits(input, name, cache, base)?;
        model.serves(None, input.spec.replicas)?;
        let weights = weights(&Wanted {
            model,
            quantization: None,
            volume: &format!("adapter-{index}"),
            at: &format!("{ADAPTERS}/{name}"),
            image: &fetch(cache),
            same_image: false,
            pull_policy: &input.images.pull_policy,
        });
        adapters.push(Adapter {
            path: engine::adapter(input.spec.engine, &weights.files, name)?,
            name: name.clone(),
            weights,
        });
    }
    Ok(adapters)
}

/// An adapter fits exactly the model that it was made for.
fn fits(input: &Input<'_>, name: &str, adapter: &ModelCache, base: &State) -> Result<(), Refusal> {
    let wrong = |message: String| Err(Refusal::new("AdapterDoesNotFit", message));
    let model = &input.spec.model_ref.name.0;
    let Some(made_for) = adapter
        .spec
        .base
        .as_ref()
        .filter(|_| adapter.spec.type_ == ModelType::Adapter)
    else {
        return wrong(format!("ModelCache {name} is a model, not an adapter"));
    };
    if made_for.name.0 != *model {
        return wrong(format!(
            "adapter {name} was made for {}, not for {model}",
            made_for.name.0
        ));
    }
    // With what was pinned, where nothing is declared.
    let first = base.artifacts.first();
    match first.and_then(|artifact| artifact.sha256.as_ref()) {
        Some(digest) if *digest == made_for.sha256 => Ok(()),
        Some(digest) => wrong(format!(
            "adapter {name} was made for a {model} with digest {}, and this one has {}",
            made_for.sha256.0, digest.0
        )),
        None => Err(Refusal::new(
            condition::REASON_PROGRESSING,
            format!("the digest of {model} is not known yet, which adapter {name} needs"),
        )),
    }
}
