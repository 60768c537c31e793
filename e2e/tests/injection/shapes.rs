//! Pods of every shape, where Pod Security `restricted` is enforced.

use serde_json::{Value, json};

use super::{IMAGE, World, carries, container, pod};

fn objects() -> Vec<Value> {
    let with = |name: &str, spec: &Value| {
        let mut object = pod("guarded", name, "");
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        object
    };
    let probe = json!({"exec": {"command": ["true"]}});
    let mut proxy = container("proxy");
    proxy["restartPolicy"] = json!("Always");
    proxy["startupProbe"] = probe.clone();
    proxy["readinessProbe"] = probe;
    let mut own = container("app");
    own["env"] = json!([{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "A", "value": "$(OPENAI_BASE_URL)"}]);
    own["envFrom"] = json!([{"configMapRef": {"name": "c", "optional": true}}]);
    own["ports"] = json!([{"containerPort": 8080}]);
    let data = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-0"}}]);
    vec![
        pod("guarded", "plain", ""),
        with(
            "init",
            &json!({"initContainers": [proxy, container("migrate")]}),
        ),
        with(
            "job",
            &json!({"restartPolicy": "Never", "activeDeadlineSeconds": 60}),
        ),
        with("on-failure", &json!({"restartPolicy": "OnFailure"})),
        with(
            "stateful-0",
            &json!({"hostname": "stateful-0", "subdomain": "stateful", "volumes": data}),
        ),
        with(
            "daemon",
            &json!({"tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}}),
        ),
        with("tokenless", &json!({"automountServiceAccountToken": false})),
        with("env", &json!({"containers": [own, container("second")]})),
        with(
            "grouped",
            &json!({"securityContext": {"fsGroup": 7, "runAsUser": 1000, "supplementalGroups": [8]}}),
        ),
        with(
            "alone",
            &json!({"shareProcessNamespace": true, "dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.10"]}}),
        ),
    ]
}

/// Pods as controllers and people make them, where Pod Security `restricted` is enforced.
pub(super) fn all(world: &World) {
    let objects = objects();
    for object in &objects {
        world.stage.apply(object).unwrap();
    }
    let pods = world.stage.get(&["pods", "-n", "guarded"]).unwrap();
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), objects.len());
    for pod in pods {
        let name = &pod["metadata"]["name"];
        assert!(carries(pod), "{name}");
        let sidecar = &pod["spec"]["initContainers"][0];
        assert_eq!(sidecar["restartPolicy"], "Always", "{name}");
        assert_eq!(sidecar["image"], IMAGE, "{name}");
        let api = sidecar["volumeMounts"].to_string();
        assert!(
            !api.contains("kube-api-access"),
            "{name} has the API server's token: {api}"
        );
        for one in pod["spec"]["containers"].as_array().unwrap() {
            let env = one["env"].to_string();
            assert!(env.contains("http://127.0.0.1:14141/v1"), "{name}: {env}");
            assert_eq!(
                env.matches("\"OPENAI_API_KEY\"").count(),
                1,
                "{name}: {env}"
            );
        }
    }
}
