//! What the chart renders.

use serde_json::{Value, json};

use super::conform::Schemas;
use super::world::{World, text};
use super::{ledger, narrow, refused, scaled};

pub(super) const HOME: &str = "mesh-system";
pub(super) const DIGEST: &str =
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// What the chart comes with in `ci`.
const PROFILES: [&str; 7] = [
    "minimal",
    "ha",
    "nvidia",
    "amd",
    "cpu-only",
    "airgap",
    "namespaced",
];
/// Kinds that lie in no namespace.
const WIDE: [&str; 7] = [
    "PriorityClass",
    "MutatingWebhookConfiguration",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// A Helm built without a version of Kubernetes believes in an old one.
pub(super) const KUBERNETES: &str = "1.33.0";

/// What operators of Prometheus and Grafana bring, for Helm, which does not ask a server when it only renders.
const FOREIGN: [&str; 8] = [
    "--kube-version",
    KUBERNETES,
    "--api-versions",
    "monitoring.coreos.com/v1/PodMonitor",
    "--api-versions",
    "monitoring.coreos.com/v1/PrometheusRule",
    "--api-versions",
    "grafana.integreatly.org/v1beta1/GrafanaDashboard",
];

fn everything() -> String {
    let component = format!(
        "repository: registry.example/own
  digest: {DIGEST}
  resources: {{requests: {{cpu: 10m, memory: 32Mi}}, limits: {{cpu: 1, memory: 128Mi}}}}
  nodeSelector: {{kubernetes.io/os: linux}}
  tolerations: [{{key: dedicated, operator: Equal, value: mesh, effect: NoSchedule}}]
  affinity: {{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 1, preference: {{matchExpressions: [{{key: a, operator: Exists}}]}}}}]}}}}
  priorityClassName: system-cluster-critical
  topologySpreadConstraints: [{{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{a: b}}}}}}]
  hostUsers: false
  podLabels: {{pod: ours}}
  podAnnotations: {{note: ours}}
  extraEnv: [{{name: HTTPS_PROXY, value: \"http://proxy:3128\"}}]
  extraVolumes: [{{name: more, emptyDir: {{}}}}]
  extraVolumeMounts: [{{name: more, mountPath: /more}}]
  log: debug"
    );
    format!(
        "image: {{registry: registry.example/mesh, tag: 9.9.9, pullPolicy: Always, pullSecrets: [one, two]}}
commonLabels: {{team: platform}}
clusterCIDRs: [10.244.0.0/16, \"fd00:10::/64\"]
crds: {{install: false}}
priorityClass: {{create: true, value: 5, preemptionPolicy: Never}}
operator:
  replicas: 1
  {component}
gateway:
  replicas: 3
  autoscaling: {{enabled: true, minReplicas: 3, maxReplicas: 5, cpu: 2, metrics: [{{type: External, external: {{metric: {{name: queue}}, target: {{type: Value, value: 5}}}}}}], behavior: {{scaleDown: {{stabilizationWindowSeconds: 60}}}}}}
  {component}
  credentialNamespaces: [lab]
  secretNames: [cloud-key]
  tokenReview: {{enabled: true, maxAgeSeconds: 3}}
  drainDelaySeconds: 7
  drainTimeoutSeconds: 33
ledger:
{}worker: {{repository: registry.example/w, digest: {DIGEST}}}
workerFloor: {{repository: registry.example/wf, digest: {DIGEST}}}
workerCuda: {{repository: registry.example/wc, digest: {DIGEST}}}
test: {{repository: registry.example/t, digest: {DIGEST}}}
sidecar: {{repository: registry.example/s, digest: {DIGEST}, log: debug, resources: {{requests: {{cpu: 1}}}}}}
engines: {{vllm: {{nvidia: \"\", amd: registry.example/vllm:rocm}}, llamaCpp: {{cpu: registry.example/llama:cpu}}}}
floor: {{enabled: true, replicas: 2, kvMemory: 128Mi, resources: {{requests: {{cpu: 1, memory: 1Gi}}}}}}
networkPolicy: {{enabled: true, gateway: {{egress: {{cidrs: [10.0.0.1/32, 2001:db8::/32]}}}}}}
uninstall: {{deleteVolumes: true}}
extraObjects: [{{apiVersion: v1, kind: ConfigMap, metadata: {{name: of-yours, namespace: mesh-system}}, data: {{a: b}}}}]
monitoring:
  podMonitor: {{enabled: true, labels: {{release: prometheus}}, interval: 10s}}
  prometheusRule: {{enabled: true, labels: {{release: prometheus}}, runbookUrl: \"https://wiki.example/mesh/\", maxProviderShare: 0.5}}
  dashboards: {{enabled: true, labels: {{find: me}}, folder: Ours, grafanaOperator: {{enabled: true, matchLabels: {{grafana: ours}}}}}}
",
        ledger::values()
    )
}

/// Names of sets of values, and the sets: ours, and the profiles that come with the chart.
fn sets() -> Vec<(String, String)> {
    let own = [
        ("default", String::new()),
        ("everything", everything()),
        (
            "autoscaled",
            String::from(
                "gateway: {autoscaling: {enabled: true}}\npriorityClass: {create: true}\n",
            ),
        ),
        (
            "audited",
            String::from("ledger: {enabled: true, persistence: {existingClaim: mine}}\n"),
        ),
        (
            "scaled-by-somebody",
            String::from("gateway: {replicas: null}\n"),
        ),
        (
            "bare",
            String::from(
                "injection: {enabled: false}\nfloor: {enabled: false}\nnetworkPolicy: {enabled: false}\ncrds: {install: false}\noperator: {replicas: 1}\ngateway: {replicas: 1}\n",
            ),
        ),
        (
            "namespaced",
            String::from(
                "scope: namespaced\ncrds: {install: false}\nuninstall: {deleteVolumes: true}\nnetworkPolicy: {gateway: {egress: {cidrs: [10.0.0.1/32]}}}\n",
            ),
        ),
        ("namespaced-with-kinds", String::from("scope: namespaced\n")),
    ];
    let mut all: Vec<(String, String)> = own.map(|(name, values)| (name.to_owned(), values)).into();
    for profile in PROFILES {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/inference-mesh/ci");
        let values = std::fs::read_to_string(folder.join(format!("{profile}.yaml"))).unwrap();
        all.push((format!("profile {profile}"), values));
    }
    all
}

/// What an API server sees of a manifest, document by document: Helm 3 and 4 place comments, empty lines
/// and kinds that they do not know differently.
fn told(manifest: &str) -> Vec<String> {
    let documents = manifest.split("---\n").map(|document| {
        let lines = document.lines().map(str::trim_end);
        let told = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        told.collect::<Vec<_>>().join("\n")
    });
    let mut documents: Vec<String> = documents.filter(|document| !document.is_empty()).collect();
    documents.sort();
    documents
}

/// Renders a set twice, and by the Helm before; has schemas and the API server look at every object, and gives them.
fn rendered(world: &World, schemas: &Schemas, name: &str, values: &str) -> Vec<Value> {
    let values = world.file(&format!("{name}.values.yaml"), values);
    let args = [&["-n", HOME, "-f", &values], FOREIGN.as_slice()].concat();
    world
        .lint(&values)
        .unwrap_or_else(|said| panic!("{name}: {said}"));
    let render = || {
        world
            .helm("template", "mesh", &args)
            .unwrap_or_else(|said| panic!("{name}: {said}"))
    };
    let manifest = render();
    assert_eq!(manifest, render(), "{name}: two renders differ");
    let before = world.rendered_by_helm_3(&args);
    let (now, before) = (told(&manifest), told(&before));
    assert_eq!(now.len(), before.len(), "{name}: Helm 4 and 3");
    for (now, before) in now.iter().zip(&before) {
        assert_eq!(now, before, "{name}: Helm 4 and 3");
    }
    schemas.take(world, name, &manifest);
    let manifest = world.file(&format!("{name}.yaml"), &manifest);
    let said = world.kubectl_said(&[
        "apply",
        "--server-side",
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        &manifest,
    ]);
    let complaints = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{name}: {complaints}");
    assert!(
        !complaints.to_lowercase().contains("warn"),
        "{name}: {complaints}"
    );
    let list: Value = serde_json::from_slice(&said.stdout).unwrap();
    list["items"].as_array().unwrap().clone()
}

pub(super) fn of<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

pub(super) fn pods(objects: &[Value]) -> impl Iterator<Item = (&str, &Value)> {
    objects.iter().filter_map(|object| {
        let spec = match text(&object["kind"]) {
            "Deployment" | "Job" | "StatefulSet" => &object["spec"]["template"]["spec"],
            "Pod" => &object["spec"],
            _ => return None,
        };
        Some((text(&object["metadata"]["name"]), spec))
    })
}

/// Every pod is restricted, says what it needs, and is spread.
fn pods_are_modest(set: &str, objects: &[Value]) {
    let mut count = 0;
    for (name, pod) in pods(objects) {
        count += 1;
        let what = format!("{set}: {name}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{what}");
        assert_eq!(pod["enableServiceLinks"], false, "{what}");
        let one = name == "mesh-ledger";
        assert_ne!(pod["topologySpreadConstraints"].is_array(), one, "{what}");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{what}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{what}");
            assert!(
                !container["resources"]["requests"]["memory"].is_null(),
                "{what} says what it needs"
            );
        }
    }
    let kept = usize::from(of(objects, "StatefulSet", "mesh-ledger").is_some());
    assert_eq!(
        count - kept,
        6,
        "{set}: operator, gateway, hook, three tests"
    );
}

/// The pod lives longer than the gateway takes to drain.
fn grace_covers_the_drain(set: &str, objects: &[Value]) {
    let gateway = &of(objects, "Deployment", "mesh-gateway").unwrap()["spec"]["template"]["spec"];
    let seconds = |name: &str| -> u64 {
        let all = gateway["containers"][0]["env"].as_array().unwrap();
        let value = all.iter().find(|env| env["name"] == name).unwrap();
        text(&value["value"]).trim_end_matches('s').parse().unwrap()
    };
    let needed = seconds("MESH_DRAIN_DELAY") + seconds("MESH_DRAIN_TIMEOUT");
    let grace = gateway["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= needed + 5, "{set}: {grace} s for {needed} s");
}

fn budgets_follow_replicas(set: &str, objects: &[Value]) {
    let scaler = of(objects, "HorizontalPodAutoscaler", "mesh-gateway");
    for name in ["mesh-gateway", "mesh-operator"] {
        let spec = &of(objects, "Deployment", name).unwrap()["spec"];
        // What is left out is the API server's to say: one, until somebody else decides.
        let left_out = name == "mesh-gateway" && (scaler.is_some() || set == "scaled-by-somebody");
        let replicas = match scaler {
            Some(scaler) if left_out => scaler["spec"]["minReplicas"].as_u64().unwrap(),
            _ if left_out => 2,
            _ => spec["replicas"].as_u64().unwrap(),
        };
        assert!(!left_out || spec["replicas"] == 1, "{set}: {spec}");
        let budget = of(objects, "PodDisruptionBudget", name);
        assert_eq!(budget.is_some(), replicas >= 2, "{set}: {name}");
        if let Some(budget) = budget {
            assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
        }
    }
}

fn labels_are_on_everything(set: &str, objects: &[Value], common: Option<(&str, &str)>) {
    let yours = |object: &&Value| object["metadata"]["name"] == "of-yours";
    for object in objects.iter().filter(|object| !yours(object)) {
        let labels = &object["metadata"]["labels"];
        let what = format!("{set}: {} {}", object["kind"], object["metadata"]["name"]);
        assert_eq!(
            labels["app.kubernetes.io/part-of"], "inference-mesh",
            "{what}"
        );
        assert_eq!(labels["app.kubernetes.io/instance"], "mesh", "{what}");
        if let Some((key, value)) = common {
            assert_eq!(labels[key], value, "{what}");
        }
    }
}

#[test]
fn every_set_of_values_is_taken_by_the_api_server_and_nonsense_is_refused() {
    let Some(world) = World::start("chartrender") else {
        return;
    };
    world.namespace(HOME);
    world.namespace("lab");
    // A pod is taken only where its account is, also when it is only tried.
    world.kubectl(&["create", "serviceaccount", "mesh-test", "-n", HOME]);
    foreign_kinds(&world);
    refused::all(&world);
    let schemas = Schemas::of(&world);
    for (set, values) in sets() {
        let set = set.as_str();
        // Pods are taken only where their class is, also when they are only tried.
        let class = ["priorityclass", "inference-mesh"];
        if set == "autoscaled" {
            world.kubectl(&[&["create"], &class[..], &["--value=1000000"]].concat());
        }
        let objects = rendered(&world, &schemas, set, &values);
        if set == "autoscaled" {
            world.kubectl(&[&["delete"], &class[..]].concat());
        }
        pods_are_modest(set, &objects);
        grace_covers_the_drain(set, &objects);
        budgets_follow_replicas(set, &objects);
        narrow::rights(set, &objects);
        let common = (set == "everything").then_some(("team", "platform"));
        labels_are_on_everything(set, &objects, common);
        let wide: Vec<String> = objects
            .iter()
            .filter(|object| WIDE.contains(&text(&object["kind"])))
            .map(|object| text(&object["kind"]).to_owned())
            .collect();
        match set {
            "namespaced" | "profile namespaced" => assert!(wide.is_empty(), "{wide:?}"),
            "namespaced-with-kinds" => assert!(
                wide.iter().all(|kind| kind == "CustomResourceDefinition"),
                "{wide:?}"
            ),
            _ => assert!(!wide.is_empty(), "{set}"),
        }
        if set == "everything" {
            placed(&objects);
            extras(&objects);
            secrets(&objects);
            monitored(&objects);
            shown(&objects);
        }
        let kinds = ["PodMonitor", "PrometheusRule", "GrafanaDashboard"];
        let made = objects
            .iter()
            .filter(|one| kinds.contains(&text(&one["kind"])));
        let monitored = ["everything", "profile ha"].contains(&set);
        assert_eq!(made.count() > 0, monitored, "{set}");
        narrow::injection(set, &objects);
        ledger::kept(set, &objects);
        scaled::decided(set, &objects);
        if set == "bare" {
            assert!(of(&objects, "ConfigMap", "mesh-bootstrap").is_none());
        }
    }
}

/// Every pod is what the values say: image, place, priority.
fn placed(objects: &[Value]) {
    for (name, pod) in pods(objects).filter(|(name, _)| *name != "mesh-ledger") {
        let image = text(&pod["containers"][0]["image"]);
        let own = if name.starts_with("mesh-test-") {
            "t"
        } else {
            "own"
        };
        assert_eq!(image, format!("registry.example/{own}@{DIGEST}"), "{name}");
        assert_eq!(pod["imagePullSecrets"][1]["name"], "two", "{name}");
        assert_eq!(
            pod["priorityClassName"], "system-cluster-critical",
            "{name}"
        );
        assert_eq!(pod["tolerations"][0]["key"], "dedicated", "{name}");
        assert_eq!(pod["hostUsers"], false, "{name}");
        let spread = &pod["topologySpreadConstraints"];
        assert_eq!(spread.as_array().map(Vec::len), Some(1), "{name}");
        assert_eq!(spread[0]["topologyKey"], "zone", "{name}");
    }
}

/// Kinds of others that the chart makes objects of.
fn foreign_kinds(world: &World) {
    let file = world.file("foreign.yaml", include_str!("foreign.yaml"));
    world.kubectl(&["apply", "--server-side", "-f", &file]);
    for kind in [
        "podmonitors.monitoring.coreos.com",
        "prometheusrules.monitoring.coreos.com",
        "grafanadashboards.grafana.integreatly.org",
    ] {
        world.cluster_knows(kind);
    }
}

/// A Prometheus operator finds what it selects, with what the values say.
fn monitored(objects: &[Value]) {
    for name in [
        "mesh-operator",
        "mesh-gateway",
        "mesh-ledger",
        "mesh-worker",
        "mesh-sidecar",
    ] {
        let monitor = of(objects, "PodMonitor", name).unwrap();
        assert_eq!(
            monitor["metadata"]["labels"]["release"], "prometheus",
            "{name}"
        );
        let everywhere = monitor["spec"]["namespaceSelector"]["any"] == true;
        assert_eq!(everywhere, ["mesh-worker", "mesh-sidecar"].contains(&name));
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        // What is in somebody else's hands does not name its namespace itself.
        assert_eq!(endpoint["honorLabels"], !everywhere, "{name}");
        assert_eq!(endpoint["interval"], "10s", "{name}");
    }
    let sidecars = of(objects, "PodMonitor", "mesh-sidecar").unwrap();
    let endpoint = &sidecars["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], "mesh-admin");
    assert_eq!(endpoint["relabelings"][0]["targetLabel"], "mesh_namespace");
    let rules = of(objects, "PrometheusRule", "mesh").unwrap().to_string();
    assert!(
        rules.contains("vector(0.5)") && !rules.contains("vector(0.8)"),
        "{rules}"
    );
    assert!(
        rules.contains("https://wiki.example/mesh/MeshFloorNotReady"),
        "{rules}"
    );
}

/// The gateways read what is listed and no more.
fn secrets(objects: &[Value]) {
    let secrets = of(objects, "Role", "mesh-gateway-secrets").unwrap();
    let names = json!(["mesh-api-keys", "cloud-key"]);
    assert_eq!(secrets["rules"][0]["resourceNames"], names);
}

/// What the chart does not know of reaches pods and the release.
fn extras(objects: &[Value]) {
    for name in ["mesh-operator", "mesh-gateway"] {
        let template = &of(objects, "Deployment", name).unwrap()["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["pod"], "ours", "{name}");
        assert_eq!(
            template["metadata"]["annotations"]["note"], "ours",
            "{name}"
        );
        let container = &template["spec"]["containers"][0];
        let has = |list: &Value, field: &str, value: &str| {
            list.as_array()
                .is_some_and(|all| all.iter().any(|one| one[field] == value))
        };
        assert!(has(&container["env"], "name", "HTTPS_PROXY"), "{name}");
        assert!(
            has(&container["volumeMounts"], "mountPath", "/more"),
            "{name}"
        );
        assert!(has(&template["spec"]["volumes"], "name", "more"), "{name}");
    }
    assert_eq!(
        of(objects, "ConfigMap", "of-yours").unwrap()["data"]["a"],
        "b"
    );
}

/// A Grafana finds every dashboard by label and by object, in its folder, as it was committed.
fn shown(objects: &[Value]) {
    for uid in [
        "mesh-sovereignty",
        "mesh-traffic",
        "mesh-backends",
        "mesh-operator",
    ] {
        let name = format!("{uid}-dashboard");
        let map = of(objects, "ConfigMap", &name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(map["metadata"]["labels"]["find"], "me", "{name}");
        assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Ours");
        let page: Value = serde_json::from_str(text(&map["data"][format!("{uid}.json")])).unwrap();
        assert_eq!(page["uid"], uid);
        let object = of(objects, "GrafanaDashboard", uid).unwrap();
        assert_eq!(object["spec"]["configMapRef"]["name"], name.as_str());
        let selector = &object["spec"]["instanceSelector"]["matchLabels"];
        assert_eq!(selector["grafana"], "ours");
    }
}
