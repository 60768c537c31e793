//! Pods of many shapes.

use serde_json::{Value, json};

use super::super::case::{Asked, Case};
use super::super::template::{CONTAINER, Template, tests::template};
use super::{FOREIGN, Injected, Refused, Skipped, TEMPLATE, Unfit, Verdict, inject, windows};

const ENABLED: Case = Case {
    asked: Asked::Namespace,
    confined: false,
};

fn case(asked: Asked, confined: bool) -> Case {
    Case { asked, confined }
}

fn ours() -> Template {
    template("registry.example/sidecar:1")
}

fn pod(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "team"}, "spec": spec})
}

fn labeled(mut pod: Value, inject: &str) -> Value {
    pod["metadata"]["labels"] = json!({"inferencemesh.dev/inject": inject});
    pod
}

fn plain() -> Value {
    pod(&json!({"containers": [{"name": "app", "image": "app:1"}]}))
}

fn injected(pod: &Value, case: Case) -> Injected {
    match inject(pod, case, &ours()) {
        Verdict::Inject(injected) => injected,
        other => panic!("{other:?}"),
    }
}

fn refused(pod: &Value, case: Case) -> Refused {
    match inject(pod, case, &ours()) {
        Verdict::Refuse(refused) => refused,
        other => panic!("{other:?}"),
    }
}

fn env<'a>(container: &'a Value, name: &str) -> &'a Value {
    let all = container["env"].as_array().expect("env");
    let mut own = all.iter().filter(|one| one["name"] == name);
    let found = own.next().unwrap_or_else(|| panic!("{name}: {container}"));
    assert_eq!(own.next(), None, "{name} twice");
    &found["value"]
}

const SIDECAR: &str = "http://127.0.0.1:14141/v1";

/// A Job's pod, a StatefulSet's, a DaemonSet's, and whatever else people write.
fn shapes() -> Vec<(&'static str, Value)> {
    let probe = json!({"exec": {"command": ["true"]}});
    let app = json!({"name": "app", "image": "app:1"});
    vec![
        ("plain", plain()),
        (
            "init containers with probes of sidecars",
            pod(&json!({
                "initContainers": [
                    {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always", "startupProbe": probe, "readinessProbe": probe},
                    {"name": "migrate", "image": "app:1", "env": [{"name": "A", "value": "b"}]},
                ],
                "containers": [app],
            })),
        ),
        (
            "job",
            pod(
                &json!({"restartPolicy": "Never", "activeDeadlineSeconds": 60, "containers": [app]}),
            ),
        ),
        (
            "stateful",
            pod(&json!({
                "hostname": "db-0", "subdomain": "db", "containers": [app, {"name": "second", "image": "b:1"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}],
            })),
        ),
        (
            "daemon",
            pod(
                &json!({"containers": [app], "tolerations": [{"operator": "Exists"}], "priorityClassName": "system-node-critical"}),
            ),
        ),
        (
            "without a token of the API server",
            pod(&json!({"automountServiceAccountToken": false, "containers": [app]})),
        ),
        (
            "with env of its own",
            pod(&json!({"containers": [
                {"name": "app", "image": "app:1", "env": [{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
                {"name": "other", "image": "app:1", "env": [{"name": "OPENAI_BASE_URL", "value": "https://api.example.com/v1"}]},
                {"name": "third", "image": "app:1", "envFrom": [{"configMapRef": {"name": "c"}}]},
            ]})),
        ),
        (
            "with fields that nobody knows yet",
            pod(
                &json!({"containers": [{"name": "app", "image": "app:1", "later": {"a": [1]}}], "latest": true}),
            ),
        ),
    ]
}

/// Takes out of a container what was put in.
fn without_env(container: &mut Value) {
    let own = container.as_object_mut().expect("a container");
    let Some(env) = own.get_mut("env").and_then(Value::as_array_mut) else {
        return;
    };
    env.retain(|one| one["value"] != SIDECAR && one["value"] != "unused-by-inference-mesh");
    if env.is_empty() {
        own.remove("env");
    }
}

#[test]
fn the_sidecar_is_the_first_init_container_and_everything_else_stays() {
    for (shape, pod) in shapes() {
        let made = injected(&pod, ENABLED).pod;
        let init = made["spec"]["initContainers"].as_array().expect("init");
        assert_eq!(init[0]["name"], CONTAINER, "{shape}");
        assert_eq!(init[0]["restartPolicy"], "Always", "{shape}");
        assert_eq!(
            made["metadata"]["labels"]["inferencemesh.dev/injected"],
            "true"
        );
        assert_eq!(made["metadata"]["annotations"][TEMPLATE], ours().hash);
        // Taking out what was put in gives what was there.
        let mut back = made.clone();
        let spec = back["spec"].as_object_mut().expect("a spec");
        for key in ["volumes", "initContainers", "imagePullSecrets"] {
            let all = spec[key].as_array_mut().expect("a list");
            all.retain(|one| {
                let name = one["name"].as_str().unwrap_or_default();
                !name.starts_with("mesh-sidecar") && name != "registry"
            });
            if all.is_empty() {
                spec.remove(key);
            }
        }
        for key in ["initContainers", "containers"] {
            let all = spec.get_mut(key).and_then(Value::as_array_mut);
            all.into_iter().flatten().for_each(without_env);
        }
        back["metadata"] = pod["metadata"].clone();
        assert_eq!(back, pod, "{shape}");
    }
}

#[test]
fn what_was_injected_is_injected_unchanged() {
    for asked in Asked::ALL {
        for (shape, pod) in shapes() {
            let once = injected(&pod, case(asked, false)).pod;
            assert_eq!(injected(&once, case(asked, false)).pod, once, "{shape}");
        }
    }
}

#[test]
fn what_others_made_of_the_sidecar_is_made_right_again() {
    let right = injected(&plain(), ENABLED).pod;
    let mut bent = right.clone();
    bent["spec"]["initContainers"][0]["image"] = json!("evil:1");
    bent["spec"]["initContainers"][0]["command"] = json!(["sh"]);
    bent["spec"]["volumes"][0] = json!({"name": "mesh-sidecar-token", "emptyDir": {}});
    assert_eq!(injected(&bent, ENABLED).pod, right);

    // Put before it by another webhook: what is no sidecar waits for it, and a sidecar may stand there.
    let mut pushed = right.clone();
    let init = pushed["spec"]["initContainers"]
        .as_array_mut()
        .expect("init");
    init.insert(0, json!({"name": "setup", "image": "x"}));
    let made = injected(&pushed, ENABLED).pod;
    assert_eq!(made["spec"]["initContainers"][0]["name"], CONTAINER);
    assert_eq!(
        env(&made["spec"]["initContainers"][1], "OPENAI_BASE_URL"),
        SIDECAR
    );
    let mut beside = right;
    let init = beside["spec"]["initContainers"]
        .as_array_mut()
        .expect("init");
    init.insert(
        0,
        json!({"name": "proxy", "image": "x", "restartPolicy": "Always"}),
    );
    assert_eq!(injected(&beside, ENABLED).pod, beside);
}

#[test]
fn a_new_template_replaces_an_old_one() {
    let old = injected(&plain(), ENABLED).pod;
    let new = template("registry.example/sidecar:2");
    let Verdict::Inject(made) = inject(&old, ENABLED, &new) else {
        panic!("not injected")
    };
    assert_eq!(made.pod["metadata"]["annotations"][TEMPLATE], new.hash);
    let init = made.pod["spec"]["initContainers"].as_array().expect("init");
    assert_eq!(init.len(), 1);
    assert_eq!(init[0]["image"], "registry.example/sidecar:2");
}

#[test]
fn every_container_is_told_of_the_sidecar_and_no_value_of_its_own_is_changed() {
    let (_, pod) = shapes().remove(6);
    let made = injected(&pod, ENABLED);
    let containers = &made.pod["spec"]["containers"];
    assert_eq!(env(&containers[0], "OPENAI_BASE_URL"), SIDECAR);
    assert_eq!(
        containers[0]["env"].as_array().expect("env").last(),
        pod["spec"]["containers"][0]["env"]
            .as_array()
            .expect("env")
            .last(),
        "its own key comes from where it came"
    );
    assert_eq!(
        env(&containers[1], "OPENAI_BASE_URL"),
        "https://api.example.com/v1"
    );
    assert_eq!(
        env(&containers[1], "OPENAI_API_KEY"),
        "unused-by-inference-mesh"
    );
    assert_eq!(env(&containers[2], "OPENAI_BASE_URL"), SIDECAR);
    assert!(
        made.warnings
            .iter()
            .any(|text| text.contains("third") && text.contains("envFrom"))
    );
    let sidecar = &made.pod["spec"]["initContainers"][0];
    assert!(!sidecar["env"].to_string().contains("OPENAI"), "{sidecar}");
    // Others may refer to it.
    assert_eq!(containers[0]["env"][0]["name"], "OPENAI_BASE_URL");

    let (_, pod) = shapes().remove(1);
    let init = injected(&pod, ENABLED).pod["spec"]["initContainers"].clone();
    assert_eq!(
        init[1], pod["spec"]["initContainers"][0],
        "a sidecar of others"
    );
    assert_eq!(env(&init[2], "OPENAI_BASE_URL"), SIDECAR);
    assert_eq!(env(&init[2], "A"), "b");
}

#[test]
fn a_foreign_base_url_is_told_and_in_a_confined_namespace_refused() {
    let (_, pod) = shapes().remove(6);
    let made = injected(&pod, ENABLED);
    assert_eq!(
        made.foreign,
        [(String::from("other"), String::from("api.example.com"))]
    );
    assert_eq!(
        made.pod["metadata"]["annotations"][FOREIGN],
        "other=api.example.com"
    );
    assert!(
        made.warnings
            .iter()
            .any(|text| text.contains("api.example.com")),
        "{:?}",
        made.warnings
    );
    let said = refused(&pod, case(Asked::Namespace, true));
    assert_eq!(said.reason(), "ForeignBaseUrl");
    assert!(said.to_string().contains("confined") && said.to_string().contains("api.example.com"));

    // What leads home is nobody's news, and a mark that somebody set by hand goes.
    let mut home = pod;
    home["spec"]["containers"][1]["env"][0]["value"] =
        json!("http://mesh-gateway.mesh-system.svc:8080/v1");
    home["metadata"]["annotations"] = json!({FOREIGN: "app=nowhere"});
    let made = injected(&home, case(Asked::Required, true));
    assert!(made.foreign.is_empty());
    assert_eq!(made.pod["metadata"]["annotations"][FOREIGN], Value::Null);
}

#[test]
fn of_two_values_of_one_name_the_last_counts_as_for_kubernetes() {
    let two = |first: &str, second: &str| {
        pod(
            &json!({"containers": [{"name": "app", "image": "a", "env": [
            {"name": "OPENAI_BASE_URL", "value": first}, {"name": "OPENAI_BASE_URL", "value": second}]}]}),
        )
    };
    let out = "https://api.example.com/v1";
    assert_eq!(injected(&two(SIDECAR, out), ENABLED).foreign.len(), 1);
    assert!(injected(&two(out, SIDECAR), ENABLED).foreign.is_empty());
}

fn nodes_of(terms: &[&[&str]]) -> Value {
    let term = |systems: &&[&str]| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": systems}]});
    let terms: Vec<Value> = terms.iter().map(term).collect();
    json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

#[test]
fn a_pod_that_may_run_on_linux_is_not_of_windows() {
    for spec in [
        json!({"nodeSelector": {"kubernetes.io/os": "linux"}, "os": {"name": "linux"}}),
        nodes_of(&[]),
        nodes_of(&[&["windows"], &["linux"]]),
        nodes_of(&[&["windows", "linux"]]),
    ] {
        assert!(!windows(&spec), "{spec}");
    }
}

#[test]
fn a_pod_in_its_nodes_network_is_refused_if_it_asked_and_else_skipped() {
    for (spec, unfit) in [
        (
            json!({"hostNetwork": true, "containers": []}),
            Unfit::HostNetwork,
        ),
        (
            json!({"os": {"name": "windows"}, "containers": []}),
            Unfit::Windows,
        ),
        (
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}, "containers": []}),
            Unfit::Windows,
        ),
        (
            json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}, "containers": []}),
            Unfit::Windows,
        ),
        (nodes_of(&[&["windows"], &["windows"]]), Unfit::Windows),
    ] {
        let pod = pod(&spec);
        assert_eq!(
            inject(&pod, ENABLED, &ours()),
            Verdict::Skip(Skipped::Unfit(unfit))
        );
        let asking = labeled(pod.clone(), "enabled");
        for asked in Asked::ALL {
            let said = refused(&asking, case(asked, false));
            assert_eq!(said, Refused::Unfit(unfit));
            assert!(said.to_string().contains("take the label"), "{said}");
        }
        let said = refused(&pod, case(Asked::Required, false));
        assert_eq!(said, Refused::Required(unfit));
        assert_eq!(said.reason(), unfit.reason());
    }
}

#[test]
fn a_pod_opts_out_where_it_may() {
    let out = labeled(plain(), "disabled");
    assert_eq!(
        inject(&out, ENABLED, &ours()),
        Verdict::Skip(Skipped::OptedOut)
    );
    let made = injected(&out, case(Asked::Required, false)).pod;
    assert_eq!(made["spec"]["initContainers"][0]["name"], CONTAINER);
}

#[test]
fn names_and_ports_of_the_sidecar_are_nobody_elses() {
    let with = |key: &str, value: Value| {
        let mut pod = plain();
        pod["spec"][key] = value;
        pod
    };
    for key in ["initContainers", "containers"] {
        let taken = with(key, json!([{"name": "mesh-sidecar", "image": "a"}]));
        if key == "containers" {
            assert_eq!(refused(&taken, ENABLED).reason(), "NameTaken");
            // A mark does not make it ours: there it is none.
            let mut marked = taken.clone();
            marked["metadata"]["annotations"] = json!({TEMPLATE: "0"});
            assert_eq!(refused(&marked, ENABLED).reason(), "NameTaken");
        } else {
            assert_eq!(refused(&taken, ENABLED).reason(), "NameTaken");
        }
    }
    let volume = with(
        "volumes",
        json!([{"name": "mesh-sidecar-token", "emptyDir": {}}]),
    );
    let said = refused(&volume, ENABLED);
    assert!(
        said.to_string().contains("volume mesh-sidecar-token"),
        "{said}"
    );
    for port in [14141, 14142] {
        let taken = with(
            "containers",
            json!([{"name": "app", "image": "a", "ports": [{"containerPort": 80}, {"containerPort": port}]}]),
        );
        let said = refused(&taken, ENABLED);
        assert_eq!(said.reason(), "PortTaken");
        assert!(said.to_string().contains(&port.to_string()), "{said}");
    }
    for place in ["containers", "initContainers"] {
        let mut reads = with(
            place,
            json!([{"name": "spy", "image": "a", "volumeMounts": [{"name": "mesh-sidecar-snapshot", "mountPath": "/s"}]}]),
        );
        let said = refused(&reads, ENABLED);
        assert_eq!(said.reason(), "VolumeTaken");
        assert!(said.to_string().contains("mesh-sidecar-snapshot"), "{said}");
        // Nor in what was here before, and has it by name.
        reads["metadata"]["annotations"] = json!({TEMPLATE: "0"});
        assert_eq!(refused(&reads, ENABLED).reason(), "VolumeTaken");
    }
    let empty = json!({"metadata": {}});
    assert_eq!(refused(&empty, ENABLED).reason(), "Unreadable");
}

#[test]
fn a_level_goes_to_the_sidecar_and_a_wrong_word_is_the_highest() {
    let level = |word: &str| {
        let mut pod = plain();
        pod["metadata"]["annotations"] = json!({"inferencemesh.dev/privacy": word});
        let made = injected(&pod, ENABLED);
        let level = env(&made.pod["spec"]["initContainers"][0], "MESH_PRIVACY").clone();
        (level, made.warnings.len())
    };
    assert_eq!(level("confidential"), (json!("confidential"), 0));
    assert_eq!(level("Restricted"), (json!("restricted"), 0));
    assert_eq!(level("secret"), (json!("restricted"), 1));
    assert_eq!(level(""), (json!("restricted"), 1));
    let none = injected(&plain(), ENABLED).pod["spec"]["initContainers"][0]["env"].to_string();
    assert!(!none.contains("MESH_PRIVACY"), "{none}");
}

#[test]
fn a_pod_with_its_sidecar_looks_so() {
    let made = injected(&shapes().remove(1).1, ENABLED).pod;
    insta::assert_yaml_snapshot!("pod", made);
}
