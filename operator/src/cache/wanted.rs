//! What the spec of a ModelCache asks for, and what of its status still holds. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
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

/// Clocks of one cluster differ by at most so much.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// True for a time that no clock of the cluster has reached: somebody lied, or a clock was wrong.
fn ahead(at: Timestamp, now: Timestamp) -> bool {
    at.duration_since(now) > SKEW
}

/// What was proven at a time that has not come yet is as good as never proven.
pub(super) fn due(last: Timestamp, interval: Duration, now: Timestamp) -> bool {
    ahead(last, now)
        || u64::try_from(now.duration_since(last).as_secs())
            .is_ok_and(|passed| passed >= interval.as_secs())
}

/// When a file was proven, of which a report says `told`: not after the Job ended that says so, and not after
/// `now`. None if that is nothing new beside `old`.
pub(super) fn proven(
    told: &str,
    old: Option<&str>,
    ended: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let told: Timestamp = told.parse().ok()?;
    let mut at = ended.map_or(told, |ended| told.min(ended));
    // It would be another time at every look, and each is written.
    let mut newer = SignedDuration::ZERO;
    if ahead(at, now) {
        at = Timestamp::from_second(now.as_second()).ok()?;
        newer = SKEW;
    }
    let old = old.and_then(|old| old.parse::<Timestamp>().ok());
    match old.filter(|old| !ahead(*old, now)) {
        Some(old) => (at.duration_since(old) > newer).then_some(at),
        None => Some(at),
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::{due, proven};

    const NOW: &str = "2026-01-01T12:00:00Z";
    const FAR: &str = "2100-01-01T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn learned(told: &str, old: Option<&str>, ended: Option<&str>) -> Option<String> {
        proven(told, old, ended.map(at), at(NOW)).map(|at| at.to_string())
    }

    #[test]
    fn what_was_proven_in_the_future_is_due() {
        let day = Duration::from_hours(24);
        assert!(due(at(FAR), day, at(NOW)));
        assert!(
            !due(at("2026-01-01T12:00:30Z"), day, at(NOW)),
            "clocks differ"
        );
        assert!(!due(at("2025-12-31T12:00:01Z"), day, at(NOW)));
        assert!(due(at("2025-12-31T12:00:00Z"), day, at(NOW)));
    }

    #[test]
    fn times_are_compared_and_not_their_texts() {
        let east = "2026-01-01T13:30:00+02:00";
        let now_then = learned(east, Some("2026-01-01T12:00:00.5Z"), None);
        assert_eq!(now_then, None, "it is half past eleven");
        let whole = learned("2026-01-01T11:00:00.5Z", Some("2026-01-01T11:00:00Z"), None);
        assert_eq!(whole.as_deref(), Some("2026-01-01T11:00:00.5Z"));
        let east = learned(east, Some("2026-01-01T11:00:00Z"), None);
        assert_eq!(east.as_deref(), Some("2026-01-01T11:30:00Z"));
        assert_eq!(learned("soon", None, None), None);
    }

    #[test]
    fn nothing_was_proven_after_its_job_ended_or_after_now() {
        let ended = Some("2026-01-01T11:00:00Z");
        assert_eq!(learned(FAR, None, ended).as_deref(), ended);
        assert_eq!(learned(FAR, ended, ended), None, "it is known");
        assert_eq!(learned(FAR, None, None).as_deref(), Some(NOW));
        assert_eq!(
            learned(FAR, Some(NOW), None),
            None,
            "or it would be written for ever"
        );
        assert_eq!(learned(FAR, ended, None).as_deref(), Some(NOW));
    }

    #[test]
    fn a_time_of_the_past_takes_the_place_of_one_that_has_not_come() {
        let then = "2026-01-01T11:00:00Z";
        assert_eq!(learned(then, Some(FAR), None).as_deref(), Some(then));
        assert_eq!(learned(then, Some("soon"), None).as_deref(), Some(then));
    }
}
