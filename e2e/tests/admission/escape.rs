//! Pods that would get out of a confined namespace by their node: what the operator names, the API server refuses.

use serde_json::{Value, json};

use super::{OPERATOR, TEAM, World, as_user};

/// The operator's own test reads the same.
const CASES: &str = include_str!("../../../operator/src/confine/loose/cases.json");

fn pod(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// Nobody makes one there, whoever it is; elsewhere they are made as ever.
pub(super) fn refused(world: &World, closed: &str) {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    for case in &cases {
        let loose: Vec<&str> = case["loose"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.as_str().unwrap())
            .collect();
        let object = pod(closed, "p", &case["spec"]);
        // Whoever makes pods for others is nobody special.
        for user in [
            "tenant",
            "system:serviceaccount:kube-system:replicaset-controller",
        ] {
            let said = world.refusal(&object, user);
            if loose.is_empty() {
                assert_eq!(said, None, "{}", case["what"]);
                break;
            }
            let said = said.unwrap_or_else(|| panic!("{} was let in", case["what"]));
            let words = format!("a pod with {} would escape by its node", loose.join(", "));
            assert!(said.contains(&words), "{}: {said}", case["what"]);
            assert!(said.contains("confine.hostPaths"), "{said}");
        }
    }
    let elsewhere = pod(TEAM, "p", &cases.last().unwrap()["spec"]);
    assert_eq!(world.refusal(&elsewhere, "tenant"), None);
    beside(world, closed);
    of_a_kubelet(world, closed);
}

/// Nor does anybody put such a container beside those of a pod that runs.
fn beside(world: &World, closed: &str) {
    let plain = json!({"containers": [{"name": "c", "image": "i"}]});
    world.apply(&pod(closed, "plain", &plain));
    let debug = |profile: &str| {
        let profile = format!("--profile={profile}");
        let name = format!("-c={}", profile.trim_start_matches("--profile="));
        let args = [
            "debug",
            "-n",
            closed,
            "plain",
            "--image=i",
            "--attach=false",
            &name,
            &profile,
        ];
        world.0.run(&as_user("tenant", &args)).unwrap()
    };
    let said = debug("sysadmin");
    assert!(!said.good && said.err.contains("privileged"), "{said:?}");
    let said = debug("restricted");
    assert!(said.good, "{said:?}");
}

/// What a kubelet runs of its own files runs anyway: to be named it must be seen.
fn of_a_kubelet(world: &World, closed: &str) {
    let mut mirror = pod(
        closed,
        "static",
        &json!({"hostNetwork": true, "nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}),
    );
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    let file = world.0.file("mirror.json", &mirror.to_string()).unwrap();
    let create = ["create", "--dry-run=server", "-f", &file];
    let mut node = as_user("system:node:n1", &create);
    let said = world.0.run(&node).unwrap();
    assert!(!said.good && said.err.contains("would escape"), "{said:?}");
    node.extend(["--as-group", "system:nodes"]);
    let said = world.0.run(&node).unwrap();
    assert!(!said.err.contains("would escape"), "{said:?}");
    let said = world.0.run(&as_user(OPERATOR, &create)).unwrap();
    assert!(said.good, "{said:?}");
}
