//! What the spec of a ModelCache asks for, and what of its status still holds. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use mesh_crds::model_cache::{Artifact, ArtifactStatus};
use mesh_crds::{ModelCache, ModelCacheStatus, condition};

use super::source;
use super::state::Keep;

/// Where the files of a cache are kept.
pub(super) fn keep(cache: &ModelCache) -> Keep {
    let storage = cache.spec.storage.clone().unwrap_or_default();
    if let Some(volume) = storage.persistent_volume_claim {
        return Keep::Claim(volume);
    }
    storage.node_local.map_or(Keep::Pod, Keep::Node)
}

/// What no schema can say.
pub(super) fn fault(cache: &ModelCache, keep: &Keep) -> Option<(String, String)> {
    if let Some(message) = source::fault(cache) {
        return Some((condition::REASON_INVALID_SPEC.to_owned(), message));
    }
    let later = |message: &str| {
        Some((
            condition::REASON_NOT_SUPPORTED_YET.to_owned(),
            format!("not supported yet: {message}"),
        ))
    };
    if cache.spec.verification.is_some() && !matches!(keep, Keep::Claim(_)) {
        return later(
            "spec.verification with this storage (every pod proves its files when it starts; use persistentVolumeClaim)",
        );
    }
    if let Keep::Node(storage) = keep
        && storage.disk_budget.is_none()
    {
        return Some((
            condition::REASON_INVALID_SPEC.to_owned(),
            String::from(
                "spec.storage.nodeLocal.diskBudget is needed: it is the size of the volume that a pod asks for",
            ),
        ));
    }
    let first = cache
        .spec
        .artifacts
        .first()
        .map_or("", |artifact| artifact.path.as_str());
    if !cache.spec.derive.is_empty() && first.strip_suffix(".gguf").is_none() {
        return Some((
            condition::REASON_INVALID_SPEC.to_owned(),
            format!("spec.derive needs a GGUF file as the first artifact, and {first} is none"),
        ));
    }
    None
}

/// Time between two proofs.
pub(super) fn interval(cache: &ModelCache) -> Option<Duration> {
    cache.spec.verification.as_ref()?.interval.read().ok()
}

pub(super) fn due(last: Timestamp, interval: Duration, now: Timestamp) -> bool {
    u64::try_from(now.duration_since(last).as_secs())
        .is_ok_and(|passed| passed >= interval.as_secs())
}

/// When the file that was proven longest ago was proven.
pub(super) fn oldest(known: &[ArtifactStatus]) -> Option<Timestamp> {
    known
        .iter()
        .map(|one| {
            one.verified_at
                .parse::<Timestamp>()
                .unwrap_or(Timestamp::UNIX_EPOCH)
        })
        .min()
}

/// What the status says of artifacts that the spec still has, and says the same of.
pub(super) fn known(cache: &ModelCache, status: &ModelCacheStatus) -> Vec<ArtifactStatus> {
    let spec = cache.spec.artifacts.iter();
    spec.filter_map(|artifact| {
        let old = status
            .artifacts
            .iter()
            .find(|old| old.path == artifact.path)?;
        let same = artifact
            .sha256
            .as_ref()
            .is_none_or(|declared| *declared == old.sha256);
        same.then(|| old.clone())
    })
    .collect()
}

/// The artifacts of the spec with every digest that is known.
pub(super) fn pinned(cache: &ModelCache, known: &[ArtifactStatus]) -> Vec<Artifact> {
    let pin = |artifact: &Artifact| {
        let found = known.iter().find(|one| one.path == artifact.path);
        Artifact {
            path: artifact.path.clone(),
            sha256: artifact
                .sha256
                .clone()
                .or_else(|| found.map(|one| one.sha256.clone())),
        }
    };
    cache.spec.artifacts.iter().map(pin).collect()
}

pub(super) fn lost(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Lost")
}
