//! What pods say: whether they serve, and if not, why, in the words that a person needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Node, Pod, PodStatus};
use kube::ResourceExt;

/// Longest part of a container's last words that is shown.
const LONGEST: usize = 1000;

/// How far a pod came before something kept it from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It has no node.
    Schedule,
    /// Its files cannot be had.
    Weights,
    /// The container that computes does not start or does not stay.
    Engine,
}

/// What keeps a pod from serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) stage: Stage,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// One pod of a backend.
#[derive(Debug, Clone)]
pub(crate) struct PodView {
    pub(crate) name: String,
    pub(crate) node: Option<String>,
    pub(crate) ready: bool,
    pub(crate) trouble: Option<Trouble>,
    /// The files are not there yet, or could not be had.
    pub(crate) fetching: bool,
    /// It may ask places outside of the cluster, until its files are there.
    pub(crate) open: bool,
}

/// Looks at a pod.
pub(crate) fn view(pod: &Pod) -> PodView {
    let status = pod.status.clone().unwrap_or_default();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let ready = condition(&status, "Ready").is_some_and(|one| one.0) && !leaving;
    let trouble = if ready || leaving {
        None
    } else {
        trouble(pod, &status)
    };
    PodView {
        name: pod.name_any(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ready,
        trouble,
        fetching: !fetched(pod, &status),
        open: crate::cache::open(pod),
    }
}

/// The same where it is known which nodes are lost, and why: a kubelet that is gone says nothing of its pods.
pub(crate) fn view_among(pod: &Pod, lost: &BTreeMap<String, String>) -> PodView {
    let mut view = view(pod);
    let stuck = !view.ready && pod.metadata.deletion_timestamp.is_none();
    let node = view.node.as_ref().filter(|_| stuck);
    if let Some((node, why)) = node.and_then(|node| lost.get_key_value(node)) {
        let message = format!("pod {} is on node {node}, which is lost: {why}", view.name);
        view.trouble = Some(Trouble {
            stage: Stage::Engine,
            reason: String::from("NodeNotReady"),
            message,
        });
    }
    view
}

/// Nodes whose kubelet does not say that they are ready, and what is said instead.
pub(crate) fn lost(nodes: &[Arc<Node>]) -> BTreeMap<String, String> {
    let lost = nodes.iter().filter_map(|node| {
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions.iter().find(|one| one.type_ == "Ready")?;
        let why = [&ready.reason, &ready.message].map(|text| text.clone().unwrap_or_default());
        (ready.status != "True").then(|| (node.name_any(), why.join(": ")))
    });
    lost.collect()
}

/// Status, reason and message of a condition.
pub(crate) fn condition(status: &PodStatus, type_: &str) -> Option<(bool, String, String)> {
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|one| one.type_ == type_)?;
    Some((
        found.status == "True",
        found.reason.clone().unwrap_or_default(),
        found.message.clone().unwrap_or_default(),
    ))
}

/// Init containers that end before the others begin; sidecars do not.
fn preparing<'p>(pod: &'p Pod, status: &'p PodStatus) -> impl Iterator<Item = &'p ContainerStatus> {
    let declared = pod.spec.iter().flat_map(|spec| spec.init_containers.iter());
    let sidecars: Vec<&str> = declared
        .flatten()
        .filter(|one| one.restart_policy.as_deref() == Some("Always"))
        .map(|one| one.name.as_str())
        .collect();
    let all = status.init_container_statuses.iter().flatten();
    all.filter(move |one| !sidecars.contains(&one.name.as_str()))
}

fn fetched(pod: &Pod, status: &PodStatus) -> bool {
    let ended = |one: &ContainerStatus| {
        let end = one
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        end.is_some_and(|end| end.exit_code == 0)
    };
    status.init_container_statuses.is_some() && preparing(pod, status).all(ended)
}

fn trouble(pod: &Pod, status: &PodStatus) -> Option<Trouble> {
    let at = |stage: Stage, (reason, message): (String, String)| Trouble {
        stage,
        reason,
        message,
    };
    let unscheduled = condition(status, "PodScheduled")
        .filter(|one| !one.0)
        .map(|(_, reason, message)| at(Stage::Schedule, (reason, message)));
    let weights = preparing(pod, status).find_map(|one| words(pod, one));
    let sidecars = status.init_container_statuses.iter().flatten();
    let containers = status.container_statuses.iter().flatten().chain(sidecars);
    let engine = containers
        .into_iter()
        .find_map(|one| words(pod, one))
        .map(|found| at(Stage::Engine, found));
    // The node put it out: too little memory or disk, or it is going down.
    let evicted = (status.phase.as_deref() == Some("Failed"))
        .then(|| status.reason.clone())
        .flatten()
        .map(|reason| {
            at(
                Stage::Engine,
                (reason, status.message.clone().unwrap_or_default()),
            )
        });
    evicted
        .or_else(|| weights.map(|found| at(Stage::Weights, found)))
        .or(engine)
        .or(unscheduled)
}

/// Reason and message of what keeps a container from running.
fn words(pod: &Pod, status: &ContainerStatus) -> Option<(String, String)> {
    let now = status.state.as_ref();
    let before = || ended(pod, status, status.last_state.as_ref()).filter(|_| !status.ready);
    let Some(waiting) = now.and_then(|state| state.waiting.as_ref()) else {
        return ended(pod, status, now).or_else(before);
    };
    match waiting.reason.as_deref() {
        None | Some("PodInitializing" | "ContainerCreating") => before(),
        Some("CrashLoopBackOff") => before().or_else(|| {
            let message = waiting.message.clone().unwrap_or_default();
            Some((String::from("CrashLoopBackOff"), message))
        }),
        Some(reason) => {
            let message = waiting.message.as_deref().unwrap_or_default();
            Some((
                reason.to_owned(),
                format!("container {} ({}): {message}", status.name, status.image),
            ))
        }
    }
}

/// How a container ended, if not well.
fn ended(
    pod: &Pod,
    status: &ContainerStatus,
    state: Option<&ContainerState>,
) -> Option<(String, String)> {
    let end = state?.terminated.as_ref()?;
    if end.exit_code == 0 {
        return None;
    }
    let reason = end.reason.clone().unwrap_or_else(|| String::from("Error"));
    let times = match status.restart_count {
        0 | 1 => String::new(),
        times => format!(", {times} times so far"),
    };
    let name = &status.name;
    if reason == "OOMKilled" {
        let limit = memory_limit(pod, name);
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let message = format!(
            "container {name} needed more memory than its limit{limit} and was killed{times}"
        );
        return Some((reason, message));
    }
    let said = last(end.message.as_deref().unwrap_or_default().trim());
    let message = format!(
        "container {name} ended with {}{times}: {said}",
        end.exit_code
    );
    Some((reason, message))
}

fn memory_limit(pod: &Pod, name: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    let container = spec
        .containers
        .iter()
        .chain(init)
        .find(|one| one.name == name)?;
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get("memory").map(|limit| limit.0.clone())
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
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::{Stage, lost, view, view_among};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "initContainers": [{"name": "fetch"}, {"name": "guard", "restartPolicy": "Always"}],
                "containers": [{"name": "worker", "resources": {"limits": {"memory": "2Gi"}}}],
            },
            "status": status,
        }))
        .expect("a pod")
    }

    fn container(name: &str, state: &Value, last: &Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": state, "lastState": last})
    }

    fn worker(state: &Value, last: &Value) -> Value {
        json!({"containerStatuses": [container("worker", state, last)]})
    }

    fn told(status: &Value) -> (Stage, String, String) {
        let found = view(&pod(status)).trouble.expect("trouble");
        (found.stage, found.reason, found.message)
    }

    #[test]
    fn every_way_not_to_start_is_told_in_its_own_words() {
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let cases = [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}),
                (Stage::Schedule, "Unschedulable", "0/3 nodes"),
            ),
            (
                worker(
                    &json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
                    &json!({}),
                ),
                (Stage::Engine, "ImagePullBackOff", "no such image"),
            ),
            (
                worker(
                    &crash,
                    &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                ),
                (Stage::Engine, "OOMKilled", "its limit of 2Gi"),
            ),
            (
                worker(
                    &crash,
                    &json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "ValueError: no kernel image"}}),
                ),
                (
                    Stage::Engine,
                    "Error",
                    "3 times so far: ValueError: no kernel",
                ),
            ),
            (
                json!({"initContainerStatuses": [container("fetch", &json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "no source had good bytes"}}), &json!({}))]}),
                (Stage::Weights, "Error", "no source had good bytes"),
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory"}),
                (Stage::Engine, "Evicted", "low on resource"),
            ),
        ];
        for (status, (stage, reason, words)) in cases {
            let (found, why, message) = told(&status);
            assert_eq!((found, why.as_str()), (stage, reason));
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_pod_that_serves_has_no_trouble_whatever_happened_before() {
        let mut status = worker(
            &json!({"running": {}}),
            &json!({"terminated": {"exitCode": 137}}),
        );
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        let view = view(&pod(&status));
        assert!(view.ready && view.trouble.is_none());
    }

    #[test]
    fn a_sidecar_that_runs_does_not_keep_the_files_from_being_there() {
        let done = container("fetch", &json!({"terminated": {"exitCode": 0}}), &json!({}));
        let guard = container("guard", &json!({"running": {}}), &json!({}));
        let status = json!({"initContainerStatuses": [done, guard]});
        assert!(!view(&pod(&status)).fetching);
        let fetching = container("fetch", &json!({"running": {}}), &json!({}));
        assert!(view(&pod(&json!({"initContainerStatuses": [fetching]}))).fetching);
    }

    #[test]
    fn a_pod_of_a_lost_node_says_so_and_one_that_leaves_it_has_no_trouble() {
        let node = |name: &str, ready: &str| -> Arc<Node> {
            let node = json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "Ready", "status": ready, "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}]}});
            Arc::new(serde_json::from_value(node).expect("a node"))
        };
        let nodes = lost(&[node("a", "True"), node("b", "Unknown")]);
        assert_eq!(nodes.len(), 1);
        let at = |name: &str, ready: &str| {
            let mut pod = pod(&json!({"conditions": [{"type": "Ready", "status": ready}]}));
            pod.spec.as_mut().expect("a spec").node_name = Some(name.to_owned());
            pod
        };
        let trouble = |pod: &Pod| view_among(pod, &nodes).trouble;
        let found = trouble(&at("b", "False")).expect("trouble");
        assert_eq!(found.reason, "NodeNotReady");
        let words = "pod p is on node b, which is lost: NodeStatusUnknown: Kubelet stopped";
        assert!(found.message.starts_with(words), "{}", found.message);
        assert_eq!(trouble(&at("a", "False")), None);
        assert_eq!(trouble(&at("b", "True")), None);
        let mut leaving = at("b", "False");
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        leaving.metadata.deletion_timestamp = Some(now);
        assert_eq!(trouble(&leaving), None);
    }
}
