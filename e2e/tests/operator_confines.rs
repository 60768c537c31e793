//! Confinement by a running operator on a real API server, without nodes: what it writes where, what it
//! makes of what canaries say, and what the API server refuses besides. The test plays the Job controller
//! and the kubelet.
#![expect(
    clippy::unwrap_used,
    reason = "a chapter that cannot go on ends by a panic"
)]

#[path = "operator_confines/guarded.rs"]
mod guarded;

use std::process::ExitCode;
use std::time::Duration;

use mesh_cluster::Tier;
use mesh_e2e::operator::{HOME, Operator};
use mesh_e2e::stage::{Stage, namespace};
use mesh_e2e::story;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(40);
/// The confined namespace.
const CLOSED: &str = "closed";
const NAME: &str = "mesh-confine";
/// Namespaces that carry the label too and are not confined for it.
const SPARED: [&str; 3] = ["kube-mine", "spared", HOME];
const LABEL: &str = "inferencemesh.dev/confine=enabled";
const POLICY: [&str; 3] = [HOME, "sovereigntypolicy", "confined"];
const JOB_CONTROLLER: &str = "system:serviceaccount:kube-system:job-controller";

const CHAPTERS: &[story::Chapter<Stage>] = &[
    (
        "a_labeled_namespace_that_a_policy_selects_is_confined_and_others_are_not",
        confines,
    ),
    (
        "a_network_policy_that_somebody_takes_away_or_opens_comes_back",
        comes_back,
    ),
    (
        "somebody_elses_policy_of_that_name_hinders_its_own_namespace_only",
        taken,
    ),
    (
        "canaries_prove_it_by_what_they_say_and_by_nothing_else",
        proves,
    ),
    ("whatever_widens_it_is_named", widened),
    (
        "nobody_else_opens_the_namespace_or_poses_as_a_canary",
        guarded::admitted,
    ),
    ("without_the_label_everything_of_it_goes", opened),
    ("no_right_was_missing_for_any_of_this", |stage| {
        assert_eq!(stage.refused().unwrap(), Vec::<String>::new());
    }),
];

fn main() -> ExitCode {
    story::run(
        || Stage::start("confines", Tier::ControlPlane),
        CHAPTERS,
        Stage::diagnosis,
    )
}

fn lead(stage: &Stage, interval: &str) -> Operator {
    lead_with(stage, interval, &[])
}

fn lead_with(stage: &Stage, interval: &str, more: &[(&str, &str)]) -> Operator {
    let settings = stage.settings("confines").unwrap();
    let settings = more
        .iter()
        .fold(settings, |all, (name, value)| all.env(name, value))
        .env("MESH_CONFINE_NEVER", "spared,other")
        .env("MESH_CONFINE_HOST_PATHS", "/usr/share/data")
        .env("MESH_CANARY_IMAGE", "inferencemesh.local/operator:test")
        .env("MESH_CANARY_INTERVAL", interval);
    let operator = stage.begin(&settings).unwrap();
    operator.leads(SOON).unwrap();
    operator
}

fn stop(operator: Operator) {
    assert!(operator.terminate().unwrap().success());
}

fn network(stage: &Stage, namespace: &str) -> Option<Value> {
    stage.get(&["-n", namespace, "networkpolicy", NAME]).ok()
}

fn confined(stage: &Stage) -> Value {
    let there = || Ok(network(stage, CLOSED));
    stage
        .until("the namespace is confined", SOON, there)
        .unwrap()
}

/// Waits until `Enforced` is so; gives reason and message.
fn enforced(stage: &Stage, status: &str, reason: &str) -> String {
    enforced_of(POLICY, stage, status, reason)
}

fn enforced_of(policy: [&str; 3], stage: &Stage, status: &str, reason: &str) -> String {
    let all = || {
        let [namespace, kind, name] = policy;
        let object = stage.get(&["-n", namespace, kind, name])?;
        let conditions = object["status"]["conditions"].as_array().cloned();
        let mut all = conditions.unwrap_or_default().into_iter();
        let found = all
            .find(|one| one["type"] == "Enforced")
            .unwrap_or_default();
        anyhow::ensure!(
            found["status"] == status && found["reason"] == reason,
            "Enforced is {found}"
        );
        Ok(found["message"].as_str().map(str::to_owned))
    };
    let what = format!("Enforced is {status}, {reason}");
    stage.until(&what, SOON, all).unwrap()
}

/// The policy, with a further way out.
fn policy(stage: &Stage, further: Option<Value>) {
    let mut allow = vec![json!({"cidr": "198.51.100.0/24", "ports": [5432]})];
    allow.extend(further);
    stage
        .apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": HOME, "name": "confined"},
            "spec": {"floor": {"backendRef": {"name": "floor"}}, "egress": {"confine": true, "allow": allow}}}))
        .unwrap();
}

fn confines(stage: &Stage) {
    stage.floor().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let own = [
        ("MESH_POD_IP", "127.0.0.1"),
        ("MESH_ADMIN_LISTEN", &address),
    ];
    let operator = lead_with(stage, "1h", &own);
    for name in ["kube-mine", "spared", CLOSED, "unlabeled"] {
        stage.apply(&namespace(name)).unwrap();
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": CLOSED, "name": "default"}});
    stage.apply(&account).unwrap();
    for name in SPARED.iter().chain([&CLOSED]) {
        stage.kubectl(&["label", "namespace", name, LABEL]).unwrap();
    }
    let squats = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": CLOSED, "name": "mesh-canary-all-1"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    stage.apply(&squats).unwrap();
    guarded::proves_nothing(stage);
    let made = confined(stage);
    let rules = made["spec"]["egress"].to_string();
    assert!(
        rules.contains("198.51.100.0/24") && made["spec"]["podSelector"] == json!({}),
        "{made}"
    );
    stage.settled(&operator, SOON).unwrap();
    for name in SPARED.iter().chain([&"unlabeled"]) {
        assert_eq!(network(stage, name), None, "{name} is confined");
    }
    stage
        .kubectl(&["label", "namespace", CLOSED, "inferencemesh.dev/confine-"])
        .unwrap();
    let gone = || Ok(network(stage, CLOSED).is_none().then_some(()));
    stage.until("it is open again", SOON, gone).unwrap();
    stage
        .kubectl(&["label", "namespace", CLOSED, LABEL])
        .unwrap();
    confined(stage);
    stop(operator);
}

fn comes_back(stage: &Stage) {
    let operator = lead(stage, "1h");
    let first = confined(stage);
    stage
        .kubectl(&["delete", "networkpolicy", "-n", CLOSED, NAME])
        .unwrap();
    let again = || {
        let now = network(stage, CLOSED);
        Ok(now.filter(|now| now["metadata"]["uid"] != first["metadata"]["uid"]))
    };
    let now = stage.until("it comes back", SOON, again).unwrap();
    assert_eq!(now["spec"], first["spec"]);
    let open = r#"[{"op": "add", "path": "/spec/egress/-", "value": {}}]"#;
    let patch = [
        "patch",
        "networkpolicy",
        "-n",
        CLOSED,
        NAME,
        "--type=json",
        "-p",
        open,
    ];
    stage.kubectl(&patch).unwrap();
    let closed = || Ok(network(stage, CLOSED).filter(|now| now["spec"] == first["spec"]));
    stage.until("it is as it was", SOON, closed).unwrap();
    stop(operator);
}

/// The Job of the next canary, once it is there.
fn taken(stage: &Stage) {
    let label = |name: &str, label: &str| stage.kubectl(&["label", "namespace", name, label]);
    let theirs = |name: &str| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": name, "name": NAME}, "spec": {"podSelector": {}}});
    for name in ["taken-1", "taken-2", "taken-3", "beside"] {
        stage.apply(&namespace(name)).unwrap();
    }
    for name in ["taken-1", "taken-2", "taken-3"] {
        stage.apply(&theirs(name)).unwrap();
        label(name, LABEL).unwrap();
    }
    label("beside", LABEL).unwrap();
    let own = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": "beside", "name": "own"},
        "spec": {"floor": {"backendRef": {"name": "floor", "namespace": HOME}}, "egress": {"confine": true}}});
    stage.apply(&own).unwrap();
    let operator = lead(stage, "1h");
    let there = || Ok(network(stage, "beside"));
    stage.until("others are confined", SOON, there).unwrap();
    let told = enforced(stage, "False", "WriteRefused");
    assert!(told.contains("taken-"), "{told}");
    enforced_of(["beside", POLICY[1], "own"], stage, "False", "NotProved");
    label("beside", "inferencemesh.dev/confine-").unwrap();
    let gone = || Ok(network(stage, "beside").is_none().then_some(()));
    stage.until("what is left over goes", SOON, gone).unwrap();
    for name in ["taken-1", "taken-2", "taken-3"] {
        let kept = network(stage, name).unwrap();
        assert_eq!(kept["spec"]["egress"], Value::Null, "{kept}");
        label(name, "inferencemesh.dev/confine-").unwrap();
    }
    let delete = ["delete", "-n", "beside", POLICY[1], "own"];
    stage.kubectl(&delete).unwrap();
    stop(operator);
}

fn job(stage: &Stage, after: u64) -> (u64, Value) {
    let selector = "inferencemesh.dev/canary=all";
    let policy = confined(stage);
    let newest = || {
        let jobs = stage.get(&["jobs", "-n", CLOSED, "-l", selector])?;
        let jobs = jobs["items"].as_array().cloned().unwrap_or_default();
        let number = |job: &Value| {
            let text = &job["metadata"]["annotations"]["inferencemesh.dev/canary-number"];
            text.as_str().and_then(|text| text.parse::<u64>().ok())
        };
        let own =
            |job: &Value| job["metadata"]["ownerReferences"][0]["uid"] == policy["metadata"]["uid"];
        let jobs = jobs.into_iter().filter(own);
        let mut found = jobs.filter_map(|job| Some((number(&job)?, job)));
        Ok(found.find(|(number, _)| *number > after))
    };
    stage.until("a canary is sent", SOON, newest).unwrap()
}

fn pod_of(job: &Value) -> Value {
    let (name, uid) = (&job["metadata"]["name"], &job["metadata"]["uid"]);
    let template = &job["spec"]["template"];
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!("only");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": CLOSED, "name": format!("{}-x", name.as_str().unwrap()), "labels": template["metadata"]["labels"],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}]},
        "spec": spec})
}

/// As somebody with every right: only admission can refuse.
fn create_as(
    stage: &Stage,
    user: &str,
    object: &Value,
    further: &[&str],
) -> Result<String, String> {
    let file = stage.cluster.folder().join("as-somebody.json");
    std::fs::write(&file, object.to_string()).map_err(|error| error.to_string())?;
    let (file, user) = (file.display().to_string(), format!("--as={user}"));
    let create = ["create", "-f", &file, &user, "--as-group=system:masters"];
    stage.cluster.kubectl(&[&create[..], further].concat())
}

/// What a tenant is told who wants to create this; none if it may. Nothing is created.
fn refusal(stage: &Stage, object: &Value) -> Option<String> {
    create_as(stage, "tenant", object, &["--dry-run=server"]).err()
}

/// A pod of the Job that ended with these words.
fn ends(stage: &Stage, job: &Value, words: &str) {
    let pod = pod_of(job);
    create_as(stage, JOB_CONTROLLER, &pod, &[]).unwrap();
    let name = pod["metadata"]["name"].as_str().unwrap();
    let ended = json!({"phase": "Succeeded", "containerStatuses": [{"name": "canary", "image": "", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"terminated": {"exitCode": 0, "finishedAt": timestamp(), "message": words}}}]});
    stage.says(CLOSED, &format!("pod/{name}"), &ended).unwrap();
}

/// Now, as Kubernetes writes it.
fn timestamp() -> String {
    let date = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output();
    String::from_utf8(date.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

/// What a canary says that met this.
fn report(job: &Value, forbidden: &str, allowed: &str) -> String {
    let args = job["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap();
    let tried = |flag: &str, answer: &str| -> Vec<Value> {
        let own = args
            .iter()
            .filter_map(|arg| arg.as_str()?.strip_prefix(flag));
        let name = own
            .filter_map(|word| word.split_once('='))
            .map(|(name, _)| name);
        name.map(|name| json!({"name": name, "answer": answer}))
            .collect()
    };
    let (out, home) = (
        tried("--forbidden=", forbidden),
        tried("--allowed=", allowed),
    );
    assert!(!out.is_empty() && home.len() == 2, "{args:?}");
    json!({"canary": 1, "forbidden": out, "allowed": home, "openMillis": 0}).to_string()
}

fn harmless(job: &Value) {
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert!(pod["hostNetwork"].is_null());
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        job["metadata"]["ownerReferences"][0]["kind"],
        "NetworkPolicy"
    );
}

fn proves(stage: &Stage) {
    let operator = lead(stage, "10s");
    let why = enforced(stage, "False", "NotProved");
    assert!(why.contains(CLOSED), "{why}");
    let (number, first) = job(stage, 0);
    harmless(&first);
    ends(stage, &first, &report(&first, "silent", "open"));
    let told = enforced(stage, "True", "Succeeded");
    assert!(told.contains(CLOSED), "{told}");
    let age = format!("egress_proof_age_seconds{{namespace=\"{CLOSED}\"}}");
    assert!(operator.metric(&age).unwrap() < 60.0);
    let text = operator.get("/metrics").unwrap().text();
    assert!(text.contains(&format!("mesh_operator_{age}")), "{text}");

    let (number, leaky) = job(stage, number);
    ends(stage, &leaky, &report(&leaky, "open", "open"));
    let told = enforced(stage, "False", "NotEnforced");
    assert!(
        told.contains("does not enforce NetworkPolicies")
            && told.contains("api-server")
            && told.contains("node only"),
        "{told}"
    );

    let unenforced =
        |reason: &str| operator.metric(&format!("egress_unenforced{{reason=\"{reason}\"}}"));
    let counted = || Ok((unenforced("NotEnforced")? > 0.0).then_some(()));
    stage.until("it is counted", SOON, counted).unwrap();
    assert!(unenforced("EgressWidened").unwrap() < 0.5);

    // Other words are no proof, and take none away.
    let (number, mute) = job(stage, number);
    ends(stage, &mute, "I was somewhere else");
    let (number, lost) = job(stage, number);
    enforced(stage, "False", "NotEnforced");
    ends(stage, &lost, &report(&lost, "silent", "unresolved"));
    let told = enforced(stage, "False", "AllowedUnreachable");
    assert!(
        told.contains("gateway-8443 (its name is not resolved)"),
        "{told}"
    );

    let (_, good) = job(stage, number);
    ends(stage, &good, &report(&good, "refused", "open"));
    enforced(stage, "True", "Succeeded");
    told_of(
        stage,
        &["NotEnforced", "AllowedUnreachable", "EgressEnforced"],
    );
    kept_few(stage);
    stop(operator);
}

/// Events of the policy have these reasons.
fn told_of(stage: &Stage, reasons: &[&str]) {
    let selector = "--field-selector=involvedObject.name=confined";
    let all = || {
        let events = stage.get(&["events", "-n", HOME, selector])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let told = |reason: &&str| events.iter().any(|event| event["reason"] == **reason);
        Ok(reasons.iter().all(told).then_some(()))
    };
    stage.until("events tell of it", SOON, all).unwrap();
}

/// Canaries do not pile up.
fn kept_few(stage: &Stage) {
    let few = || {
        let jobs = stage.get(&["jobs", "-n", CLOSED])?;
        let left = jobs["items"].as_array().map_or(0, Vec::len);
        Ok((left <= 3).then_some(()))
    };
    stage.until("old canaries are gone", SOON, few).unwrap();
}

fn egress(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": CLOSED, "name": name, "labels": labels},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}})
}

fn wild(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": CLOSED, "name": name},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}})
}

fn widened(stage: &Stage) {
    guarded::unrestricted(stage);
    let operator = lead(stage, "1h");
    enforced(stage, "True", "Succeeded");
    // Also by somebody who labels it as the operator's own.
    for labels in [
        json!({}),
        json!({"app.kubernetes.io/managed-by": "mesh-operator"}),
    ] {
        stage.apply(&egress("theirs", &labels)).unwrap();
        let told = enforced(stage, "False", "EgressWidened");
        assert!(told.contains("closed/theirs"), "{told}");
        stage
            .kubectl(&["delete", "networkpolicy", "-n", CLOSED, "theirs"])
            .unwrap();
        enforced(stage, "True", "Succeeded");
    }
    stage.apply(&wild("wild")).unwrap();
    let told = enforced(stage, "False", "HostNetworkPods");
    assert!(told.contains("closed/wild"), "{told}");
    stage
        .kubectl(&["delete", "pod", "-n", CLOSED, "wild", "--force"])
        .unwrap();
    enforced(stage, "True", "Succeeded");
    stop(operator);
}

fn opened(stage: &Stage) {
    let operator = lead(stage, "1h");
    stage
        .kubectl(&["label", "namespace", CLOSED, "inferencemesh.dev/confine-"])
        .unwrap();
    let gone = || {
        let jobs = stage.get(&["jobs", "-n", CLOSED])?;
        let none = jobs["items"].as_array().is_some_and(Vec::is_empty);
        Ok((network(stage, CLOSED).is_none() && none).then_some(()))
    };
    stage.until("nothing of it is left", SOON, gone).unwrap();
    enforced(stage, "Unknown", "NothingToConfine");
    let text = operator.get("/metrics").unwrap().text();
    assert!(!text.contains("egress_proof_age_seconds{"), "{text}");
    stop(operator);
}
