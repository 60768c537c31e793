//! Pods of backends, as far as a model's files are concerned: whether they have them, and whether they may
//! still ask for them.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use super::build::FETCHING;
use super::report::{Report, listed, short, word};

/// What a pod of a backend has of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) node: Option<String>,
    /// Its files are there and proven.
    pub(crate) has: bool,
    /// Why they could not be had: reason and message.
    pub(crate) problem: Option<(String, String)>,
}

/// Looks at a pod.
pub(crate) fn worker(pod: &Pod) -> Worker {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let has = done(pod, of_files);
    let problem = if has {
        None
    } else {
        statuses(pod)
            .filter(|status| of_files(&status.name))
            .find_map(problem)
    };
    Worker { node, has, problem }
}

/// True if it may ask places outside, and need not any more.
pub(crate) fn done_fetching(pod: &Pod) -> bool {
    let leaving = pod.metadata.deletion_timestamp.is_some();
    !leaving && open(pod) && done(pod, |name| name.starts_with("fetch"))
}

/// True if the pod may ask places outside of the cluster.
pub(crate) fn open(pod: &Pod) -> bool {
    pod.labels()
        .get(FETCHING)
        .is_some_and(|value| value == "true")
}

/// Containers that bring, prove or make files.
fn of_files(name: &str) -> bool {
    ["fetch", "prove", "quantize"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.init_container_statuses.as_ref());
    all.into_iter().flatten()
}

/// True if all of these have ended well. A kubelet tells of all of them at once, or of none yet.
fn done(pod: &Pod, which: impl Fn(&str) -> bool) -> bool {
    let well = |status: &ContainerStatus| {
        let state = status.state.as_ref();
        let end = state.and_then(|state| state.terminated.as_ref());
        end.is_some_and(|end| end.exit_code == 0)
    };
    statuses(pod).next().is_some() && statuses(pod).filter(|one| which(&one.name)).all(well)
}

fn problem(status: &ContainerStatus) -> Option<(String, String)> {
    let ends = [status.state.as_ref(), status.last_state.as_ref()];
    let end = ends
        .into_iter()
        .find_map(|state| state?.terminated.as_ref())
        .filter(|end| end.exit_code != 0)?;
    let said = end.message.as_deref().unwrap_or_default();
    let report = Report::read(said).unwrap_or_default();
    let Some(failure) = report.failures.last() else {
        let reason = word(end.reason.as_deref().unwrap_or_default(), "FetchFailed");
        let message = report.error.unwrap_or_else(|| said.to_owned());
        return Some((reason, format!("{}: {}", status.name, short(&message))));
    };
    Some((failure.word(), listed(&report.failures, "; ")))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::{done_fetching, worker};

    fn pod(open: bool, fetch: &Value) -> Pod {
        let labels = if open {
            json!({"inferencemesh.dev/fetching": "true"})
        } else {
            json!({})
        };
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": labels},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"initContainerStatuses": [
                {"name": "fetch", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": fetch},
                {"name": "guard", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn the_way_out_is_closed_once_files_are_there_and_not_before() {
        let (done, busy) = (
            json!({"terminated": {"exitCode": 0}}),
            json!({"running": {}}),
        );
        let failed = json!({"terminated": {"exitCode": 1}});
        assert!(done_fetching(&pod(true, &done)));
        assert!(!done_fetching(&pod(true, &busy)) && !done_fetching(&pod(true, &failed)));
        assert!(!done_fetching(&pod(false, &done)), "it is closed already");
    }

    #[test]
    fn a_pod_of_which_no_kubelet_has_told_has_nothing_yet() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "labels": {"inferencemesh.dev/fetching": "true"}}}),
        )
        .expect("a pod");
        assert!(!worker(&pod).has && !done_fetching(&pod));
    }

    #[test]
    fn a_sidecar_beside_the_fetch_does_not_keep_files_from_being_there() {
        assert!(worker(&pod(false, &json!({"terminated": {"exitCode": 0}}))).has);
        let failure = json!({"artifact": "m", "source": "s", "reason": "Timeout", "message": "w", "quarantined": false});
        let said = json!({"failures": [failure], "error": "none"}).to_string();
        let failed = worker(&pod(
            false,
            &json!({"terminated": {"exitCode": 1, "message": said}}),
        ));
        assert_eq!(
            failed.problem.map(|(reason, _)| reason).as_deref(),
            Some("Timeout")
        );
    }
}
