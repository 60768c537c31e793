//! A volume that has no room for a model: how that is known, and when it is worth another try. Refuses to fill it again and
//! again: its Job ends at once, and another is made when the volume has grown, or after a rest. Pure.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use mesh_crds::label;
use serde_json::{Value, json};

use super::outcome::{Outcome, Phase};
use super::report::Failure;

/// What fetches and quantizations say of it.
pub(crate) const FULL: &str = "DiskFull";
/// How `mesh-worker` ends then: the number of ENOSPC.
const EXIT: i32 = 28;

/// For the Job of a container: the kubelet would try again within seconds, and there will not be more room by then.
pub(crate) fn policy(container: &str) -> Value {
    json!({"rules": [{"action": "FailJob", "onExitCodes": {"containerName": container, "operator": "In", "values": [EXIT]}}]})
}

/// True if it was not the source that failed.
pub(crate) fn full(failure: &Failure) -> bool {
    failure.reason == FULL
}

/// How large the volume of a claim is; none until it has one.
pub(crate) fn capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let status = claim.status.as_ref()?;
    status.capacity.as_ref()?.get("storage").cloned()
}

/// Notes on a Job how large its volume was. The first one is made together with its claim, which has no volume yet:
/// should that be full, it is tried once more.
pub(crate) fn mark(job: &mut Job, capacity: Option<&Quantity>) {
    if let Some(capacity) = capacity {
        job.annotations_mut()
            .insert(label::CAPACITY.to_owned(), capacity.0.clone());
    }
}

/// What was noted.
pub(crate) fn marked(job: &Job) -> Option<Quantity> {
    job.annotations()
        .get(label::CAPACITY)
        .cloned()
        .map(Quantity)
}

/// True if its volume was full and is another size by now.
pub(crate) fn grown(outcome: &Outcome, capacity: Option<&Quantity>) -> bool {
    let full = outcome.obstacle().is_some_and(|(reason, _)| reason == FULL);
    outcome.phase == Phase::Failed
        && full
        && capacity.is_some()
        && outcome.capacity.as_ref() != capacity
}

/// What a person can do about it.
pub(crate) fn advised((reason, mut message): (String, String)) -> (String, String) {
    if reason == FULL {
        message.push_str("; it is tried again once the volume has grown, else after ten minutes");
    }
    (reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(size: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"status": {"capacity": {"storage": size}}})).expect("a claim")
    }

    fn failed(reason: &str, job: &Job) -> Outcome {
        Outcome {
            phase: Phase::Failed,
            capacity: marked(job),
            problem: Some((reason.to_owned(), String::from("m"))),
            ..Outcome::default()
        }
    }

    #[test]
    fn a_volume_that_has_grown_is_tried_again_and_no_other() {
        let (small, large) = (capacity(&claim("1Gi")), capacity(&claim("2Gi")));
        let mut job = Job::default();
        assert!(capacity(&PersistentVolumeClaim::default()).is_none());
        mark(&mut job, small.as_ref());
        let full = failed(FULL, &job);
        assert!(grown(&full, large.as_ref()));
        assert!(!grown(&full, small.as_ref()), "it is as it was");
        assert!(!grown(&full, None), "who lost its volume has not grown");
        assert!(!grown(&failed("NotFound", &job), large.as_ref()));
        let running = Outcome {
            phase: Phase::Running,
            ..full
        };
        assert!(!grown(&running, large.as_ref()));
    }

    #[test]
    fn a_volume_that_came_after_the_job_is_tried_once_more() {
        let (mut job, there) = (Job::default(), capacity(&claim("1Gi")));
        mark(&mut job, None);
        assert!(grown(&failed(FULL, &job), there.as_ref()));
        mark(&mut job, there.as_ref());
        assert!(!grown(&failed(FULL, &job), there.as_ref()));
    }
}
