//! What proves nothing, what gets out by its node, and what the API server refuses in a confined namespace.

use mesh_e2e::operator;
use mesh_e2e::stage::Stage;
use serde_json::{Value, json};

use super::{
    CLOSED, NAME, SOON, create_as, egress, enforced, job, lead, pod_of, policy, refusal, stop, wild,
};

/// What proves nothing is said: the operator's own port alone, and a canary that could not be made.
pub(super) fn proves_nothing(stage: &Stage) {
    // It might be the API server behind its Service.
    policy(
        stage,
        Some(json!({"cidr": "203.0.113.0/24", "ports": [443]})),
    );
    let told = || {
        let message = enforced(stage, "False", "NotProved");
        Ok(message
            .contains("only the operator's own port could be tried")
            .then_some(message))
    };
    let told = stage.until("it is not enough", SOON, told).unwrap();
    assert!(told.contains("api-server is allowed"), "{told}");
    policy(stage, None);
    let told = || {
        let message = enforced(stage, "False", "NotProved");
        Ok(message
            .contains("Job closed/mesh-canary-all-1 of somebody else")
            .then_some(()))
    };
    stage
        .until("who is in the way is named", SOON, told)
        .unwrap();
    let delete = ["delete", "job", "-n", CLOSED, "mesh-canary-all-1"];
    stage.kubectl(&delete).unwrap();
    job(stage, 0);
}

/// Pods that were there before, and get out by their node; what the installation excepts is told.
pub(super) fn unrestricted(stage: &Stage) {
    let pod = |name: &str, spec: &Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": CLOSED, "name": name}, "spec": spec});
    let reads = json!({"volumes": [{"name": "v", "hostPath": {"path": "/usr/share/data"}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}]});
    let rooted = json!({"hostPID": true, "containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]});
    stage.apply(&pod("reads", &reads)).unwrap();
    stage.apply(&pod("rooted", &rooted)).unwrap();
    let operator = lead(stage, "1h");
    let told = enforced(stage, "False", "PodsUnrestricted");
    assert!(
        told.contains("1 of its pods") && told.contains("closed/rooted (hostPID, privileged)"),
        "{told}"
    );
    stop(operator);
    let delete = ["delete", "pod", "-n", CLOSED, "rooted", "--force"];
    stage.kubectl(&delete).unwrap();
    let operator = lead(stage, "1h");
    let told = enforced(stage, "True", "Succeeded");
    assert!(
        told.contains("in 1 pool of 1 node; pods that read a folder of confine.hostPaths: 1"),
        "{told}"
    );
    stop(operator);
    let delete = ["delete", "pod", "-n", CLOSED, "reads", "--force"];
    stage.kubectl(&delete).unwrap();
}

pub(super) fn admitted(stage: &Stage) {
    operator::admission(&stage.cluster).unwrap();
    let refusal = |object: &Value| refusal(stage, object);
    let refused = || Ok(refusal(&wild("wild")));
    let told = stage.until("it is refused", SOON, refused).unwrap();
    assert!(told.contains("would escape"), "{told}");
    let told = refusal(&egress("theirs", &json!({}))).unwrap();
    assert!(told.contains("would open it"), "{told}");
    let delete = ["delete", "networkpolicy", "-n", CLOSED, NAME];
    assert!(
        stage
            .cluster
            .kubectl(&delete)
            .unwrap_err()
            .contains("is the operator's")
    );

    poses(stage);
}

fn poses(stage: &Stage) {
    let refusal = |object: &Value| refusal(stage, object);
    let operator = lead(stage, "1h");
    let (_, real) = job(stage, 0);
    let mut posing = pod_of(&real);
    posing["metadata"]["name"] = json!("posing");
    let told = refusal(&posing).unwrap();
    assert!(
        told.contains("inferencemesh.dev/canary is the operator's"),
        "{told}"
    );
    let mut forged = real.clone();
    forged["metadata"] =
        json!({"namespace": CLOSED, "name": "forged", "labels": real["metadata"]["labels"]});
    forged["spec"].as_object_mut().unwrap().remove("selector");
    forged["status"] = Value::Null;
    for part in [
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
        "job-name",
        "batch.kubernetes.io/job-name",
    ] {
        let labels = forged["spec"]["template"]["metadata"]["labels"].as_object_mut();
        labels.unwrap().remove(part);
    }
    assert!(refusal(&forged).unwrap().contains("is the operator's"));
    forged["metadata"]["labels"] = json!({});
    assert!(
        refusal(&forged).unwrap().contains("is the operator's"),
        "by its template alone"
    );
    // An ordinary pod stays one.
    let mut plain = wild("plain");
    plain["spec"]["hostNetwork"] = json!(false);
    create_as(stage, "tenant", &plain, &[]).unwrap();
    let label = [
        "label",
        "pod",
        "-n",
        CLOSED,
        "plain",
        "inferencemesh.dev/canary=all",
    ];
    assert!(
        stage
            .cluster
            .kubectl(&label)
            .unwrap_err()
            .contains("is the operator's")
    );
    assert!(
        stage
            .cluster
            .kubectl(&["label", "pod", "-n", CLOSED, "plain", "a=b"])
            .is_ok()
    );
    stop(operator);
}
