//! What pods say: whether they serve, and if not, why, in the words that a person needs.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

/// Longest part of a container's last words that is shown.
const LONGEST: usize = 500;

/// One pod of a backend.
#[derive(Debug, Clone)]
pub(crate) struct PodView {
    pub(crate) name: String,
    pub(crate) node: Option<String>,
    pub(crate) ready: bool,
    /// Reason and message of what keeps it from serving.
    pub(crate) problem: Option<(String, String)>,
    /// The files are not there yet, or could not be had.
    pub(crate) fetching: bool,
}

/// Looks at a pod.
pub(crate) fn view(pod: &Pod) -> PodView {
    let status = pod.status.as_ref();
    let condition = |type_: &str| {
        status
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|one| one.type_ == type_)
    };
    let ready = condition("Ready").is_some_and(|one| one.status == "True")
        && pod.metadata.deletion_timestamp.is_none();
    let unscheduled = condition("PodScheduled")
        .filter(|one| one.status == "False")
        .map(|one| {
            (
                one.reason.clone().unwrap_or_default(),
                one.message.clone().unwrap_or_default(),
            )
        });
    let containers =
        |list: Option<&Vec<ContainerStatus>>| list.into_iter().flatten().find_map(problem);
    let init = containers(status.and_then(|status| status.init_container_statuses.as_ref()));
    let worker = containers(status.and_then(|status| status.container_statuses.as_ref()));
    let fetched = status
        .and_then(|status| status.init_container_statuses.as_ref())
        .is_some_and(|all| {
            all.iter().all(|one| {
                one.state.as_ref().is_some_and(|state| {
                    state
                        .terminated
                        .as_ref()
                        .is_some_and(|end| end.exit_code == 0)
                })
            })
        });
    PodView {
        name: pod.name_any(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ready,
        problem: if ready {
            None
        } else {
            init.or(worker).or(unscheduled)
        },
        fetching: !fetched,
    }
}

/// What keeps a container from running.
fn problem(status: &ContainerStatus) -> Option<(String, String)> {
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let end = state?.terminated.as_ref()?;
        (end.exit_code != 0).then(|| {
            let said = end.message.as_deref().unwrap_or_default().trim();
            let reason = end.reason.clone().unwrap_or_else(|| String::from("Error"));
            (
                reason,
                format!(
                    "container {} ended with {}: {}",
                    status.name,
                    end.exit_code,
                    last(said)
                ),
            )
        })
    };
    let state = status.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        None | Some("PodInitializing" | "ContainerCreating") => {
            ended(state).or_else(|| ended(status.last_state.as_ref()).filter(|_| !status.ready))
        }
        Some("CrashLoopBackOff") => ended(status.last_state.as_ref()),
        Some(reason) => {
            let message = waiting
                .and_then(|waiting| waiting.message.clone())
                .unwrap_or_default();
            Some((
                reason.to_owned(),
                format!("container {}: {message}", status.name),
            ))
        }
    }
}

/// The end of a text: that is where the cause stands.
fn last(text: &str) -> &str {
    let start = text.len().saturating_sub(LONGEST);
    let start = (start..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default();
    &text[start..]
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::view;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("a pod")
    }

    #[test]
    fn every_way_not_to_start_is_told_in_its_own_words() {
        let cases = [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}),
                "Unschedulable",
                "0/3 nodes",
            ),
            (
                json!({"containerStatuses": [container(&json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}), &json!({}))]}),
                "ImagePullBackOff",
                "no such image",
            ),
            (
                json!({"containerStatuses": [container(&json!({"waiting": {"reason": "CrashLoopBackOff"}}), &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))]}),
                "OOMKilled",
                "137",
            ),
            (
                json!({"initContainerStatuses": [container(&json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "no source had good bytes"}}), &json!({}))]}),
                "Error",
                "no source had good bytes",
            ),
        ];
        for (status, reason, words) in cases {
            let (found, message) = view(&pod(&status)).problem.expect("a problem");
            assert_eq!(found, reason);
            assert!(message.contains(words), "{message}");
        }
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last})
    }

    #[test]
    fn a_pod_that_serves_has_no_problem_whatever_happened_before() {
        let status = json!({"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [container(&json!({"running": {}}), &json!({"terminated": {"exitCode": 137}}))]});
        let view = view(&pod(&status));
        assert!(view.ready && view.problem.is_none());
    }
}
