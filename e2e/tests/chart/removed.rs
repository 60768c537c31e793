//! `helm uninstall` with its hook, and Kustomize's Job: what fails leaves an installation that works, and a second
//! time finishes. There is no node here, so the Job is played: the built operator runs as its container says, with the
//! rights of its account, and the Job is told what became of it. Needs the built operator besides Helm.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_e2e::operator::{self, Operator, Settings};
use mesh_e2e::stage::{backend, cache, namespace};
use serde_json::{Value, json};

use super::world::{HELM, HELM_3, World, text};

const HOME: &str = "mesh-system";
const TEAM: &str = "team";
const LIMIT: Duration = Duration::from_mins(1);
const JOB: &str = "job/mesh-uninstall";
const LEASE: &str = "lease/mesh-operator";
const WORKER: &str = "deployment/mine-worker";
const WEBHOOK: &str = "mutatingwebhookconfiguration/mesh-inject";
const UNDONE: &str = "an operator leads again";

/// How the played Job is run.
enum Play {
    ToItsEnd,
    /// What fails is not tried again for long.
    GivesUp,
    /// It is signaled once it has begun and met what holds it up.
    Signaled(&'static str),
}

struct Played {
    good: bool,
    wrote: String,
}

fn get(world: &World, namespace: &str, what: &str) -> Value {
    let said = world.try_kubectl(&["get", "-n", namespace, what, "-o", "json"]);
    said.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn apply(world: &World, object: &Value) {
    // For a moment after an installation the API server has not read its rules yet, and stays closed.
    until("it is taken", || world.cluster.apply(object, "user").ok());
}

/// An operator as the chart's Deployment starts one, with the chart's lease: a shorter one is lost on a busy machine.
fn operator(world: &World, name: &str) -> Operator {
    let settings = Settings::new(&world.cluster, name)
        .unwrap()
        .env("MESH_LEASE_SECONDS", "15");
    Operator::start(&operator::binary().unwrap(), &settings).unwrap()
}

/// Of a backend of the user's; its uid says whether it was made anew.
fn worker(world: &World) -> String {
    until("the worker is made", || {
        let found = get(world, TEAM, WORKER);
        let going = !found["metadata"]["deletionTimestamp"].is_null();
        let uid = text(&found["metadata"]["uid"]).to_owned();
        (!going && !uid.is_empty()).then_some(uid)
    })
}

/// Whatever the mesh is by itself stands as the chart made it.
fn works(world: &World) {
    let deployment = get(world, HOME, "deployment/mesh-operator");
    assert_eq!(deployment["spec"]["replicas"], 2, "{deployment}");
    let webhook = get(world, HOME, WEBHOOK);
    assert_eq!(webhook["webhooks"][0]["failurePolicy"], "Fail", "{webhook}");
    let bindings = get(
        world,
        HOME,
        "validatingadmissionpolicybinding/mesh-last-floor",
    );
    assert_eq!(bindings["spec"]["validationActions"], json!(["Deny"]));
    assert!(
        !get(world, HOME, "secret/mesh-ca").is_null(),
        "the authority"
    );
}

/// Refuses deletion of the user's worker, always or only when it is meant.
fn obstacle(world: &World, also_when_asked: bool) {
    let meant = if also_when_asked {
        json!([])
    } else {
        json!([{"name": "meant", "expression": "!request.dryRun"}])
    };
    let name = "in-the-way";
    apply(
        world,
        &json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": {
                "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["serviceaccounts"]}]},
                "matchConditions": meant,
                "validations": [{"expression": "oldObject.metadata.name != 'mine-worker'", "message": "somebody is in the way"}]}},
            {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": {
                "policyName": name, "validationActions": ["Deny"]}}]}),
    );
    // One of nobody's, who is not harmed where it is still let go.
    let other = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": HOME, "name": "mine-worker"}});
    until("it is in the way", || {
        apply(world, &other);
        let asked = [
            "delete",
            "serviceaccount",
            "mine-worker",
            "-n",
            HOME,
            "--dry-run=server",
        ];
        let refused = |args: &[&str]| {
            let said = world.try_kubectl(args);
            said.is_err_and(|said| said.contains("in the way"))
        };
        (refused(&asked) == also_when_asked && refused(&asked[..5])).then_some(())
    });
}

fn out_of_the_way(world: &World) {
    for kind in [
        "validatingadmissionpolicybinding",
        "validatingadmissionpolicy",
    ] {
        world.kubectl(&["delete", kind, "in-the-way"]);
    }
    until("nobody is in the way", || {
        world
            .try_kubectl(&["delete", "serviceaccount", "mine-worker", "-n", HOME])
            .ok()
    });
}

/// What the Job's container says, with the rights of its account.
fn container(world: &World, job: &Value, patience: &str) -> Command {
    let pod = &job["spec"]["template"]["spec"];
    let account = text(&pod["serviceAccountName"]);
    let user = format!("system:serviceaccount:{HOME}:{account}");
    assert!(!get(world, HOME, &format!("serviceaccount/{account}")).is_null());
    let kubeconfig = world
        .cluster
        .user_kubeconfig(&user, Some("system:serviceaccounts"))
        .unwrap();
    let container = &pod["containers"][0];
    let mut command = Command::new(operator::binary().unwrap());
    for arg in container["args"].as_array().unwrap() {
        command.arg(text(arg));
    }
    for variable in container["env"].as_array().unwrap() {
        command.env(text(&variable["name"]), text(&variable["value"]));
    }
    command
        .env("KUBECONFIG", kubeconfig)
        .env("MESH_PATIENCE", patience);
    command
}

/// Plays the Job once it is there, and tells it what became of it.
fn play(world: &World, how: &Play) -> Played {
    let job = until("the Job is there", || {
        let job = get(world, HOME, JOB);
        (!job.is_null() && job["status"]["conditions"].is_null()).then_some(job)
    });
    let log = world.cluster.folder().join("uninstall.log");
    let file = std::fs::File::create(&log).unwrap();
    let patience = match how {
        Play::ToItsEnd => "30s",
        Play::GivesUp => "1s",
        Play::Signaled(_) => "10m",
    };
    let mut child = container(world, &job, patience)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    if let Play::Signaled(signal) = how {
        until("it is held up", || {
            let wrote = std::fs::read_to_string(&log).unwrap();
            wrote.contains("trying again").then_some(())
        });
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }
    let good = child.wait().unwrap().success();
    let now = text(&job["metadata"]["creationTimestamp"]);
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Played", "lastTransitionTime": now, "lastProbeTime": now});
    let status = if good {
        json!({"startTime": now, "completionTime": now, "succeeded": 1, "uncountedTerminatedPods": {},
            "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]})
    } else {
        json!({"startTime": now, "failed": 1, "uncountedTerminatedPods": {}, "conditions": [condition("FailureTarget"), condition("Failed")]})
    };
    let patch = json!({"status": status}).to_string();
    let args = [
        "patch",
        "-n",
        HOME,
        JOB,
        "--subresource=status",
        "--type=merge",
        "-p",
    ];
    world.kubectl(&[&args, &[patch.as_str()][..]].concat());
    let wrote = std::fs::read_to_string(&log).unwrap();
    Played { good, wrote }
}

/// `helm uninstall` while its Job is played: what was played, and what Helm said.
fn uninstall(world: &World, how: &Play) -> (Played, Result<String, String>) {
    let args = ["uninstall", "mesh", "-n", HOME, "--timeout", "2m"];
    let helm: Child = world.helm_begun(&args);
    let played = play(world, how);
    (played, World::ended(helm))
}

/// The next life of an operator, which a kubelet would start.
fn again(world: &World, before: Operator, name: &str) -> Operator {
    let mut before = before;
    assert!(!before.ended(LIMIT).unwrap().success(), "it lost its lease");
    let next = operator(world, name);
    next.leads(LIMIT).unwrap();
    next
}

/// Where the API server would refuse, nothing is touched: not even the operator notices.
fn refused_before_anything(world: &World, leading: &Operator) {
    obstacle(world, true);
    let (before, holder) = (
        worker(world),
        get(world, HOME, LEASE)["spec"]["holderIdentity"].clone(),
    );
    let (played, said) = uninstall(world, &Play::GivesUp);
    assert!(
        !played.good && played.wrote.contains("nothing was"),
        "{}",
        played.wrote
    );
    assert!(
        played.wrote.contains("somebody is in the way"),
        "{}",
        played.wrote
    );
    said.unwrap_err();
    assert_eq!(worker(world), before);
    assert_eq!(get(world, HOME, LEASE)["spec"]["holderIdentity"], holder);
    assert!(!leading.written().contains("the lease is lost"));
    works(world);
}

/// What fails in the middle, by whatever: an operator leads again and makes what is missing.
fn undone(world: &World, leading: Operator) -> Operator {
    obstacle(world, false);
    let mut leading = leading;
    for (how, name) in [
        (Play::GivesUp, "second"),
        (Play::Signaled("TERM"), "third"),
        (Play::Signaled("KILL"), "fourth"),
    ] {
        let before = worker(world);
        let network = || get(world, TEAM, "networkpolicy/mine-worker")["metadata"]["uid"].clone();
        let closed = network();
        let (played, said) = uninstall(world, &how);
        assert!(!played.good, "{name}: {}", played.wrote);
        assert!(closed.is_string() && network() == closed, "open meanwhile");
        // Who is killed says nothing more.
        let silent = matches!(how, Play::Signaled("KILL"));
        assert_eq!(played.wrote.contains(UNDONE), !silent, "{}", played.wrote);
        let said = said.unwrap_err();
        assert!(
            said.contains("mesh-uninstall") || said.contains("hook"),
            "{said}"
        );
        leading = again(world, leading, name);
        until("the worker is made anew", || {
            (worker(world) != before).then_some(())
        });
        works(world);
    }
    leading
}

/// Objects of the user stay with their kinds; of the rest nothing.
fn gone(world: &World) {
    for (namespace, what) in [
        (TEAM, WORKER),
        (TEAM, "serviceaccount/mine-worker"),
        (TEAM, "configmap/mesh-trust"),
        (HOME, "configmap/mesh-trust"),
        (HOME, "secret/mesh-ca"),
        (HOME, "deployment/mesh-operator"),
        (HOME, "serviceaccount/mesh-uninstall"),
        (HOME, WEBHOOK),
        (HOME, "clusterrole/mesh-uninstall"),
    ] {
        let found = get(world, namespace, what);
        assert!(found.is_null(), "{what}: {found}");
    }
    assert!(!get(world, TEAM, "inferencebackend/mine").is_null());
    assert!(!get(world, TEAM, "modelcache/mine").is_null());
}

fn begun(_world: &World) -> bool {
    if operator::binary().is_some() {
        return true;
    }
    assert!(
        std::env::var("CI").is_err(),
        "{} is not set",
        operator::BINARY
    );
    println!("skipped: {} is not set", operator::BINARY);
    false
}

fn users_objects(world: &World) {
    apply(world, &namespace(TEAM));
    apply(world, &cache(TEAM, "mine"));
    apply(world, &backend(TEAM, "mine", "mine", 1));
}

#[test]
fn an_uninstall_that_fails_leaves_a_working_installation_and_a_second_one_finishes() {
    let Some(world) = World::of_ours("chartgone", HELM).filter(begun) else {
        return;
    };
    world.namespace(HOME);
    world.helm("install", "mesh", &["-n", HOME]).unwrap();
    for kind in ["modelcaches", "inferencebackends", "sovereigntypolicies"] {
        world.cluster_knows(&format!("{kind}.inferencemesh.dev"));
    }
    users_objects(&world);
    let leading = operator(&world, "first");
    leading.leads(LIMIT).unwrap();
    worker(&world);
    refused_before_anything(&world, &leading);
    let leading = undone(&world, leading);
    out_of_the_way(&world);
    // Who would rather stay.
    let stay = ["rollback", "mesh", "1", "-n", HOME];
    world.helm_alone(&stay).unwrap();
    let said = world.helm_alone(&["status", "mesh", "-n", HOME]).unwrap();
    assert!(said.contains("STATUS: deployed"), "{said}");
    works(&world);
    let (played, said) = uninstall(&world, &Play::ToItsEnd);
    assert!(played.good, "{}", played.wrote);
    said.unwrap();
    let mut leading = leading;
    assert!(!leading.ended(LIMIT).unwrap().success());
    gone(&world);
    without_helm(&world);
}

/// The same Job from `deploy/kustomize`, and away again as its page says.
fn without_helm(world: &World) {
    let folder = |part: &str| {
        let folder = world.chart_folder().join("../../deploy/kustomize");
        folder.join(part).display().to_string()
    };
    let apply = |part: &str| {
        let args = ["apply", "--server-side", "--force-conflicts", "-k"];
        world.kubectl(&[&args[..], &[folder(part).as_str()]].concat());
    };
    apply("mesh");
    let mut leading = operator(world, "kustomized");
    // Who removed it last may have it for some seconds more.
    leading.leads(LIMIT).unwrap();
    worker(world);
    apply("uninstall");
    let played = play(world, &Play::ToItsEnd);
    assert!(played.good, "{}", played.wrote);
    assert!(!leading.ended(LIMIT).unwrap().success());
    for part in ["uninstall", "mesh"] {
        world.kubectl(&[
            "delete",
            "--wait=false",
            "--ignore-not-found",
            "-k",
            &folder(part),
        ]);
    }
    gone_but_the_namespace(world);
}

fn gone_but_the_namespace(world: &World) {
    assert!(get(world, TEAM, WORKER).is_null());
    assert!(get(world, HOME, WEBHOOK).is_null());
    assert!(get(world, HOME, "clusterrole/mesh-uninstall").is_null());
    assert!(!get(world, TEAM, "inferencebackend/mine").is_null());
}

#[test]
fn helm_3_uninstalls_with_its_hook_and_kinds_that_are_not_kept_go_with_everything() {
    let Some(world) = World::with("chartgone3", HELM_3).filter(begun) else {
        return;
    };
    world.namespace(HOME);
    let lost = ["-n", HOME, "--set", "crds.keep=false"];
    world.helm("install", "mesh", &lost).unwrap();
    for kind in ["modelcaches", "inferencebackends", "sovereigntypolicies"] {
        world.cluster_knows(&format!("{kind}.inferencemesh.dev"));
    }
    users_objects(&world);
    let mut leading = operator(&world, "first");
    leading.leads(LIMIT).unwrap();
    worker(&world);
    obstacle(&world, false);
    let (played, said) = uninstall(&world, &Play::GivesUp);
    assert!(
        !played.good && played.wrote.contains(UNDONE),
        "{}",
        played.wrote
    );
    said.unwrap_err();
    leading = again(&world, leading, "second");
    worker(&world);
    works(&world);
    out_of_the_way(&world);
    let (played, said) = uninstall(&world, &Play::ToItsEnd);
    assert!(played.good, "{}", played.wrote);
    said.unwrap();
    assert!(!leading.ended(LIMIT).unwrap().success());
    until("the kinds are gone", || {
        let label = "app.kubernetes.io/part-of=inference-mesh";
        let left = world.kubectl(&["get", "crd", "-l", label, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
    assert!(get(&world, TEAM, WORKER).is_null());
}
