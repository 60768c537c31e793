//! What became of a Job: its conditions, its pods' last words, and what a running one told when asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use mesh_crds::model_cache::Progress;

use super::report::{FAILURES, Failure, Made, Report, listed, short, word};
use super::room;
use crate::backend::view;

/// What running fetches told when asked, by the uid of their pod.
pub(crate) type Polled = BTreeMap<String, Arc<Told>>;

/// What one running fetch told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) progress: Option<Progress>,
    pub(crate) report: Option<Arc<Report>>,
}

/// How far a Job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// It is not there.
    #[default]
    Absent,
    Running,
    Succeeded,
    Failed,
}

/// Everything that is known of a Job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) phase: Phase,
    /// When it succeeded or failed.
    pub(crate) ended_at: Option<Timestamp>,
    /// How large its volume was when it was made.
    pub(crate) capacity: Option<Quantity>,
    /// Of the newest pod that said something.
    pub(crate) report: Option<Arc<Report>>,
    pub(crate) made: Option<Made>,
    /// Of all its pods.
    pub(crate) failures: Vec<Failure>,
    pub(crate) progress: Option<Progress>,
    /// What keeps its pods from running, or why the last one ended.
    pub(crate) problem: Option<(String, String)>,
}

impl Outcome {
    /// True if it has come to nothing and rested.
    pub(crate) fn rested(&self, now: Timestamp, seconds: i64) -> bool {
        self.phase == Phase::Failed
            && self
                .ended_at
                .is_none_or(|at| now.duration_since(at).as_secs() >= seconds)
    }

    /// Reason and message of why it is not done.
    pub(crate) fn obstacle(&self) -> Option<(String, String)> {
        if self.phase == Phase::Failed
            && let Some(failure) = self.failures.last()
        {
            let told = (failure.word(), listed(&self.failures, "; "));
            return Some(room::advised(told));
        }
        self.problem.clone().map(room::advised)
    }
}

/// Looks at a Job and its pods.
pub(crate) fn outcome(job: Option<&Job>, pods: &[Arc<Pod>], polled: &Polled) -> Outcome {
    let Some(job) = job else {
        return Outcome::default();
    };
    let (phase, problem, ended_at) = phase(job);
    let mut seen = Outcome {
        phase,
        ended_at,
        capacity: room::marked(job),
        problem,
        ..Outcome::default()
    };
    let mut own: Vec<&Arc<Pod>> = pods.iter().filter(|pod| belongs(pod, job)).collect();
    own.sort_by_key(|pod| pod.creation_timestamp());
    for pod in own {
        seen.add(pod, polled);
    }
    if seen.phase != Phase::Running {
        seen.progress = None;
    }
    seen
}

impl Outcome {
    fn add(&mut self, pod: &Pod, polled: &Polled) {
        let told = pod.uid().and_then(|uid| polled.get(&uid));
        let words = last_words(pod);
        let report = fuller(
            words.and_then(Report::read).map(Arc::new),
            told.and_then(|told| told.report.clone()),
        );
        if let Some(made) = words.and_then(Made::read) {
            self.made = Some(made);
        }
        self.progress = told.and_then(|told| told.progress.clone());
        let seen = view(pod).trouble;
        let told = report.as_ref().and_then(|report| report.told());
        if self.phase == Phase::Succeeded {
            self.problem = None;
        } else {
            let readable = seen.map(|one| (word(&one.reason, "PodProblem"), short(&one.message)));
            self.problem = told.or(readable).or_else(|| self.problem.take());
        }
        if let Some(report) = report {
            merge(&mut self.failures, &report.failures);
            self.report = Some(report);
        }
    }
}

/// The kubelet's word counts more than the network's, but what it keeps is short.
fn fuller(words: Option<Arc<Report>>, told: Option<Arc<Report>>) -> Option<Arc<Report>> {
    match (words, told) {
        (Some(words), Some(told)) if told.artifacts.len() > words.artifacts.len() => Some(told),
        (words, told) => words.or(told),
    }
}

/// The same failure of two attempts is one. However many pods say what, no more is kept than of two reports.
pub(crate) fn merge(all: &mut Vec<Failure>, more: &[Failure]) {
    for failure in more {
        let same = |one: &Failure| {
            (&one.artifact, &one.source, &one.reason)
                == (&failure.artifact, &failure.source, &failure.reason)
        };
        if all.len() < 2 * FAILURES && !all.iter().any(same) {
            all.push(failure.clone());
        }
    }
}

/// True if the Job's controller made the pod.
fn belongs(pod: &Pod, job: &Job) -> bool {
    let Some(uid) = job.uid() else { return false };
    pod.owner_references().iter().any(|owner| owner.uid == uid)
}

fn phase(job: &Job) -> (Phase, Option<(String, String)>, Option<Timestamp>) {
    let conditions = job
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let holds = |type_: &str| {
        conditions
            .into_iter()
            .flatten()
            .find(|one| one.type_ == type_ && one.status == "True")
    };
    let at = |condition: &JobCondition| condition.last_transition_time.as_ref().map(|time| time.0);
    if let Some(complete) = holds("Complete") {
        return (Phase::Succeeded, None, at(complete));
    }
    let Some(failed) = holds("Failed") else {
        return (Phase::Running, None, None);
    };
    let problem = (
        word(failed.reason.as_deref().unwrap_or_default(), "JobFailed"),
        short(failed.message.as_deref().unwrap_or_default()),
    );
    (Phase::Failed, Some(problem), at(failed))
}

/// What the working container of a Job's pod said at its end.
fn last_words(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    status.container_statuses.iter().flatten().find_map(ended)
}

/// What an init container said at its end.
pub(crate) fn init_words<'p>(pod: &'p Pod, container: &str) -> Option<&'p str> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten();
    all.filter(|one| one.name == container).find_map(ended)
}

fn ended(status: &ContainerStatus) -> Option<&str> {
    let end = |state: Option<&'_ k8s_openapi::api::core::v1::ContainerState>| {
        state.and_then(|state| state.terminated.as_ref()).is_some()
    };
    let state = if end(status.state.as_ref()) {
        status.state.as_ref()
    } else {
        status.last_state.as_ref()
    };
    state?.terminated.as_ref()?.message.as_deref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::{Outcome, Phase, Polled, Told, outcome};
    use crate::cache::report::{FAILURES, Report, progress};

    fn job(conditions: &Value) -> Job {
        serde_json::from_value(
            json!({"metadata": {"name": "j", "uid": "job"}, "status": {"conditions": conditions}}),
        )
        .expect("a Job")
    }

    fn pod(uid: &str, owner: &str, state: &Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": owner}]},
            "status": {"containerStatuses": [{"name": "fetch", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
        }))
        .expect("a pod"))
    }

    fn failed(reason: &str) -> Value {
        let failure = json!({"artifact": "m", "source": "a", "reason": reason, "message": "words", "quarantined": true});
        let text =
            json!({"artifacts": [], "failures": [failure], "error": "no source had m"}).to_string();
        json!({"terminated": {"exitCode": 1, "message": text}})
    }

    fn see(conditions: &Value, pods: &[Arc<Pod>]) -> Outcome {
        outcome(Some(&job(conditions)), pods, &Polled::new())
    }

    #[test]
    fn a_failed_job_says_what_every_source_did() {
        let pods = [
            pod("1", "job", &failed("Truncated")),
            pod("2", "job", &failed("Truncated")),
            pod("3", "job", &failed("Timeout")),
            pod("4", "somebody else's", &failed("NotFound")),
        ];
        let seen = see(
            &json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]),
            &pods,
        );
        assert_eq!((seen.phase, seen.failures.len()), (Phase::Failed, 2));
        let (reason, message) = seen.obstacle().expect("an obstacle");
        assert_eq!(reason, "Timeout");
        assert!(
            message.contains("Truncated, quarantined: words"),
            "{message}"
        );
    }

    #[test]
    fn however_many_pods_say_what_their_failures_stay_few() {
        let says = |number: u32| pod(&number.to_string(), "job", &failed(&format!("R{number}")));
        let pods: Vec<Arc<Pod>> = (0..300).map(says).collect();
        let seen = see(
            &json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]),
            &pods,
        );
        assert_eq!(seen.failures.len(), 2 * FAILURES);
        let (_, message) = seen.obstacle().expect("an obstacle");
        assert!(message.ends_with(" and 56 more"), "{message}");
    }

    #[test]
    fn a_quantization_that_found_no_room_says_so() {
        let text = json!({"error": "no space left for m", "reason": "DiskFull"}).to_string();
        let pods = [pod(
            "1",
            "job",
            &json!({"terminated": {"exitCode": 28, "message": text}}),
        )];
        let seen = see(
            &json!([{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}]),
            &pods,
        );
        let (reason, message) = seen.obstacle().expect("an obstacle");
        assert_eq!(reason, "DiskFull");
        assert!(message.starts_with("no space left for m; "), "{message}");
    }

    #[test]
    fn an_image_that_cannot_be_had_is_told_while_the_job_waits() {
        let waits = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let (reason, message) = see(&json!([]), &[pod("1", "job", &waits)])
            .obstacle()
            .expect("an obstacle");
        assert_eq!(reason, "ImagePullBackOff");
        assert!(message.contains("no such image"));
    }

    #[test]
    fn a_running_fetch_tells_how_far_it_is_and_a_finished_one_does_not() {
        let told = Told {
            progress: progress(r#"{"source": "a", "bytesDone": 5, "bytesTotal": 9}"#),
            report: Report::read(r#"{"artifacts": []}"#).map(Arc::new),
        };
        let polled = Polled::from([(String::from("1"), Arc::new(told))]);
        let pods = [pod("1", "job", &json!({"running": {}}))];
        let running = outcome(Some(&job(&json!([]))), &pods, &polled);
        assert_eq!(
            running.progress.map(|progress| progress.bytes_done),
            Some(5)
        );
        assert!(running.report.is_some());
        let done = job(&json!([{"type": "Complete", "status": "True"}]));
        assert!(outcome(Some(&done), &pods, &polled).progress.is_none());
    }
}
