//! Where the sidecar is required, nobody passes for the operator, whose pods get none.

use serde_json::{Value, json};

use super::{SOON, World, carries, missed, pod, restricted};

const OURS: &str = "mesh-operator";
const OPERATOR: &str = "system:serviceaccount:mesh-system:mesh-operator";
const REFUSED: &str = "requires the sidecar";

fn controller(name: &str) -> String {
    format!("system:serviceaccount:kube-system:{name}")
}

/// What the API server says to a dry run of somebody with every right.
fn by(world: &World, user: &str, object: &Value) -> Result<Value, String> {
    let file = world.stage.cluster.folder().join("posing.json");
    std::fs::write(&file, object.to_string()).map_err(|error| error.to_string())?;
    let (file, user) = (file.display().to_string(), format!("--as={user}"));
    let create = ["create", "--dry-run=server", "-o", "json", "-f", &file];
    let group = "--as-group=system:masters";
    let text = world
        .stage
        .cluster
        .kubectl(&[&create[..], &[&user, group]].concat())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn labeled(namespace: &str, owner: Option<(&str, &str)>) -> Value {
    let mut object = pod(namespace, "poses", "");
    object["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": OURS});
    if let Some((kind, name)) = owner {
        object["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
    }
    object
}

/// What makes such pods.
fn makers(namespace: &str) -> Vec<Value> {
    let labels = json!({"app": "poses", "app.kubernetes.io/managed-by": OURS});
    let template = |policy: &str| {
        json!({"metadata": {"labels": labels}, "spec": {"restartPolicy": policy,
            "containers": [{"name": "app", "image": "app:1", "securityContext": restricted()}]}})
    };
    let meta = json!({"namespace": namespace, "name": "poses"});
    let selector = json!({"matchLabels": {"app": "poses"}});
    let apps = |kind: &str| {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": meta,
            "spec": {"selector": selector, "serviceName": "poses", "template": template("Always")}})
    };
    let mut all: Vec<Value> = ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"]
        .map(apps)
        .into();
    for object in &mut all {
        if object["kind"] != "StatefulSet" {
            object["spec"]
                .as_object_mut()
                .unwrap()
                .remove("serviceName");
        }
    }
    all.push(
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": meta,
        "spec": {"selector": {"app": "poses"}, "template": template("Always")}}),
    );
    all.push(
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template("Never")}}),
    );
    all.push(json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta,
        "spec": {"schedule": "* * * * *", "suspend": true, "jobTemplate": {"spec": {"template": template("Never")}}}}));
    all
}

pub(super) fn refused(world: &World) {
    let strict = "strict";
    let first = || Ok(by(world, "tenant", &labeled(strict, None)).err());
    let said = world.stage.until("it is refused", SOON, first).unwrap();
    assert!(said.contains(REFUSED), "{said}");
    for object in makers(strict) {
        let said = by(world, "tenant", &object).expect_err("let in");
        assert!(said.contains(REFUSED), "{}: {said}", object["kind"]);
        by(world, OPERATOR, &object).unwrap();
    }
    for (user, owner) in [
        ("replicaset-controller", ("ReplicaSet", "floor-worker-7f")),
        ("statefulset-controller", ("StatefulSet", "big-worker")),
        ("job-controller", ("Job", "fetch")),
    ] {
        let user = controller(user);
        let made = by(world, &user, &labeled(strict, Some(owner))).unwrap();
        assert!(!carries(&made), "what the operator makes gets none");
        assert!(by(world, &user, &labeled(strict, None)).is_err());
        assert!(by(world, "tenant", &labeled(strict, Some(owner))).is_err());
    }
    // Where a pod may opt out anyway it may say so.
    for namespace in ["asking", "plain"] {
        by(world, "tenant", &labeled(namespace, None)).unwrap();
        for object in makers(namespace) {
            by(world, "tenant", &object).unwrap();
        }
    }
    before(world);
}

/// What was there before the namespace required it is counted, and may be scaled but not changed.
fn before(world: &World) {
    let namespace = "odd";
    world.stage.apply(&labeled(namespace, None)).unwrap();
    let deployment = makers(namespace).remove(0);
    world.stage.apply(&deployment).unwrap();
    let label = |value: &str| {
        let label = format!("inferencemesh.dev/inject={value}");
        let args = ["label", "namespace", namespace, "--overwrite", &label];
        world.stage.kubectl(&args).unwrap();
    };
    label("required");
    missed::number(world, "pods_uninjected", 1.0);
    missed::event(world, "poses", "SidecarMissing");
    let change = |args: &[&str]| {
        let as_tenant = ["-n", namespace, "--as=tenant", "--as-group=system:masters"];
        world.stage.cluster.kubectl(&[args, &as_tenant].concat())
    };
    let image = r#"{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"app:2"}]}}}}"#;
    let refused = || {
        let patch = ["patch", "deployment", "poses", "-p", image];
        Ok(change(&[&patch[..], &["--dry-run=server"]].concat()).err())
    };
    let said = world.stage.until("it is refused", SOON, refused).unwrap();
    assert!(said.contains(REFUSED), "{said}");
    change(&["scale", "deployment", "poses", "--replicas=0"]).unwrap();
    change(&["annotate", "deployment", "poses", "a=b"]).unwrap();
    change(&["label", "pod", "poses", "a=b"]).unwrap();
    change(&["delete", "deployment,pod", "poses", "--force"]).unwrap();
    label("yes");
    missed::number(world, "pods_uninjected", 0.0);
}
