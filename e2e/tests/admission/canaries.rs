//! A canary's word is its own: whoever may change pods cannot change one, speak for it, or get into it.

use serde_json::{Value, json};

use super::{COLLECTOR, OPERATOR, World, as_user, words};

const JOBS: &str = "system:serviceaccount:kube-system:job-controller";
const JOB: &str = "mesh-canary-all-1";
const POD: &str = "mesh-canary-all-1-x";
const REPORT: &str = r#"{"status":{"message":"good"}}"#;

fn create(world: &World, user: &str, object: &Value) {
    let file = world.0.file("canary.json", &object.to_string()).unwrap();
    world
        .0
        .kubectl(&as_user(user, &["create", "-f", &file]))
        .unwrap();
}

fn job(namespace: &str, name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [{"name": "canary", "image": "i"}]}}}})
}

fn by(world: &World, user: &str, line: &str, groups: &[&str]) -> Result<(), String> {
    let mut args = as_user(user, &words(line))
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    for group in groups {
        args.extend([String::from("--as-group"), (*group).to_owned()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = world.0.run(&args).map_err(|error| error.to_string())?;
    if said.good { Ok(()) } else { Err(said.err) }
}

pub(super) fn kept(world: &World, closed: &str) {
    let labels = json!({"inferencemesh.dev/canary": "all"});
    create(world, OPERATOR, &job(closed, JOB, &labels));
    let made = world.0.get(&["job", JOB, "-n", closed]).unwrap();
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": made["metadata"]["uid"], "controller": true}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": closed, "name": POD, "labels": labels, "ownerReferences": owner},
        "spec": {"nodeName": "n1", "containers": [{"name": "canary", "image": "i"}]}});
    create(world, JOBS, &pod);

    changed_by_nobody(world, closed);
    let status =
        format!("patch pod {POD} -n {closed} --subresource=status --type=merge -p {REPORT}");
    by(world, "system:node:n1", &status, &["system:nodes"]).unwrap();
    for controller in [JOBS, COLLECTOR] {
        let finalizer = format!(
            r#"patch pod {POD} -n {closed} --type=merge -p {{"metadata":{{"finalizers":["batch.kubernetes.io/job-tracking"]}}}}"#
        );
        by(world, controller, &finalizer, &[]).unwrap();
        let done = format!(
            r#"patch job {JOB} -n {closed} --subresource=status --type=merge -p {{"status":{{"failed":1}}}}"#
        );
        by(world, controller, &done, &[]).unwrap();
    }
    let free = format!(
        r#"patch pod {POD} -n {closed} --type=merge -p {{"metadata":{{"finalizers":null}}}}"#
    );
    by(world, JOBS, &free, &[]).unwrap();

    agents_of_networks(world, closed);

    // Its name is not to be had either, which would keep the next from being made.
    let squats = world.refusal(&job(closed, "mesh-canary-all-2", &json!({})), "tenant");
    assert!(
        squats
            .expect("a refusal")
            .contains("Jobs named mesh-canary-")
    );
    assert_eq!(
        world.refusal(&job(closed, "other", &json!({})), "tenant"),
        None
    );
    by(
        world,
        COLLECTOR,
        &format!("delete pod {POD} -n {closed} --force"),
        &[],
    )
    .unwrap();
}

/// What gives a pod its address writes so at the pod, by an account of its own, and nothing else.
fn agents_of_networks(world: &World, closed: &str) {
    let agent = "system:serviceaccount:calico-system:calico-cni-plugin";
    for (more, good) in [
        (
            r#""metadata":{"annotations":{"cni.example/podIP":"192.0.2.1"}}"#,
            true,
        ),
        (
            r#""metadata":{"annotations":{"cni.example/podIP":"192.0.2.2"}},"status":{"message":"other"}"#,
            false,
        ),
        (r#""metadata":{"labels":{"a":"b"}}"#, false),
    ] {
        for part in ["", " --subresource=status"] {
            let line = format!("patch pod {POD} -n {closed}{part} --type=merge -p {{{more}}}");
            // The part decides what of it is looked at at all.
            let said = by(world, agent, &line, &[]);
            let ignored = part.is_empty() == more.contains("status");
            assert!(said.is_ok() == good || ignored, "{line}: {said:?}");
        }
    }
}

fn changed_by_nobody(world: &World, closed: &str) {
    let in_it = format!("-n {closed}");
    for line in [
        format!(
            r#"patch pod {POD} {in_it} --type=merge -p {{"metadata":{{"labels":{{"inferencemesh.dev/canary":null}}}}}}"#
        ),
        format!(
            r#"patch pod {POD} {in_it} -p {{"spec":{{"containers":[{{"name":"canary","image":"mine"}}]}}}}"#
        ),
        format!("patch pod {POD} {in_it} --subresource=status --type=merge -p {REPORT}"),
        format!(
            "debug {POD} {in_it} --image=i --attach=false --profile=restricted --target=canary"
        ),
        format!("annotate job {JOB} {in_it} inferencemesh.dev/canary-number=9"),
        format!("label job {JOB} {in_it} inferencemesh.dev/canary-"),
        format!(r#"patch job {JOB} {in_it} --type=merge -p {{"spec":{{"suspend":true}}}}"#),
        format!(
            r#"patch job {JOB} {in_it} --subresource=status --type=merge -p {{"status":{{"failed":1}}}}"#
        ),
    ] {
        let said = by(world, "tenant", &line, &[]).expect_err(&line);
        assert!(said.contains("nobody else changes one"), "{line}: {said}");
    }
    // Also by a node's name without being one, and a node speaks of what became of it only.
    let status = format!("patch pod {POD} {in_it} --subresource=status --type=merge -p {REPORT}");
    assert!(by(world, "system:node:n1", &status, &[]).is_err());
    let label = format!("label pod {POD} {in_it} a=b");
    assert!(by(world, "system:node:n1", &label, &["system:nodes"]).is_err());
    for line in [
        format!("exec {POD} {in_it} -- true"),
        format!("attach {POD} {in_it}"),
    ] {
        let said = by(world, "tenant", &line, &[]).expect_err(&line);
        assert!(said.contains("nobody gets into a canary"), "{line}: {said}");
    }
}
