//! Applications ask: who is served, by whom, and what leaves.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{HOME, TEAM, World, until};

/// Namespace of the pod that plays a cloud.
pub(crate) const CLOUDS: &str = "clouds";
/// The backend that names it.
pub(crate) const CLOUD: &str = "scripted-cloud";
const CARD: &str = "4111 1111 1111 1111";
const KEY: &str = "a-key-that-only-the-cloud-may-see";

pub(crate) fn answer(world: &World) {
    let limit = Duration::from_mins(1);
    let said = until("the floor answers", limit, || {
        let said = world.ask(TEAM, &json!({"model": "smollm2", "text": "What is the capital of France?", "max_tokens": 24}));
        (said.status() == 200).then_some(said)
    });
    assert!(!said.text().is_empty(), "{said:?}");
    assert_eq!(
        said.header("mesh-sovereignty-class"),
        "OwnHardware",
        "{said:?}"
    );
    assert_eq!(said.header("mesh-privacy"), "confidential", "{said:?}");
    let streamed = world.ask(TEAM, &json!({"model": "smollm2", "text": "What is the capital of France?", "max_tokens": 24, "stream": true}));
    assert_eq!(
        streamed.text(),
        said.text(),
        "a stream says the same: {streamed:?}"
    );
}

pub(crate) fn strangers(world: &World) {
    for token in ["placeholder", "e30.e30.e30"] {
        let said = world.ask(TEAM, &json!({"text": "Hello", "token": token}));
        assert_eq!(said.status(), 401, "{said:?}");
        assert!(!said.code().is_empty(), "{said:?}");
    }
    // A token for the API server itself is not one for the mesh.
    let other = world.kubectl(&["create", "token", "-n", TEAM, "app"]);
    let said = world.ask(TEAM, &json!({"text": "Hello", "token": other.trim()}));
    assert_eq!(said.status(), 401, "{said:?}");
}

pub(crate) fn api_key(world: &World) {
    // SHA-256 of `secret`, from `printf %s secret | sha256sum`.
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": HOME, "name": "mesh-api-keys"}, "stringData": {"alice": hash}}));
    let ask = || {
        world
            .ask(
                TEAM,
                &json!({"text": "Hello", "token": "secret", "max_tokens": 2}),
            )
            .status()
    };
    until("the key is let in", Duration::from_secs(90), || {
        (ask() == 200).then_some(())
    });
    world.kubectl(&["delete", "secret", "-n", HOME, "mesh-api-keys"]);
    until("the key is refused again", Duration::from_secs(90), || {
        (ask() == 401).then_some(())
    });
}

/// A pod that plays a cloud.
pub(crate) fn cloud_pod(world: &World) {
    let script = world.python.script("cloud.py");
    world.python_pod(CLOUDS, "cloud", &[&script, "8000"]);
}

/// A cloud and a policy by which it may be asked, unless they are there.
pub(crate) fn with_cloud(world: &World) {
    let place = ["get", "-n", HOME, "sovereigntypolicy/organization"];
    if world.try_kubectl(&place).is_err() {
        world.application(TEAM);
        cloud(world);
        organization(world);
    }
}

/// A pod that plays a cloud, and a backend that names it.
pub(crate) fn cloud(world: &World) {
    cloud_pod(world);
    world.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": CLOUDS, "name": "cloud"},
        "spec": {"selector": {"app": "cloud"}, "ports": [{"port": 8000}]}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": HOME, "name": "cloud-key"}, "stringData": {"apiKey": KEY}}));
    world.apply(&backend(HOME, CLOUD));
    world.wait(
        HOME,
        "inferencebackend/scripted-cloud",
        "Ready",
        Duration::from_mins(1),
    );
}

pub(crate) fn backend(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": namespace, "name": name},
    "spec": {
        "cloud": {
            "provider": "scripted", "url": "http://cloud.clouds.svc:8000/v1", "insecurePlaintext": true,
            "credentials": {"secretRef": {"name": "cloud-key", "key": "apiKey"}},
            "claims": {"seat": ["DE"], "dataCenters": ["DE"], "governingLaw": ["DE"], "retention": {"days": 0, "training": false}, "expires": "2031-01-01"},
        },
        "models": [{"name": "big", "license": "LicenseRef-proprietary", "capabilities": {"contextTokens": 100_000, "tasks": [{"name": "Chat", "quality": "0.90", "source": "test"}]}}],
    }})
}

pub(crate) fn cloud_log(world: &World) -> String {
    world.kubectl(&["logs", "-n", CLOUDS, "cloud"])
}

/// The organization's own policy, in the place of what came with the installation, which makes everything
/// Confidential.
pub(crate) fn organization(world: &World) {
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": HOME, "name": "organization"},
        "spec": {
            "ownership": {"nodeSelector": {}, "homeJurisdictions": ["DE"]},
            "defaults": {"privacy": "Public"},
            "floor": {"backendRef": {"name": "floor"}, "protect": true, "drill": {"interval": "1m"}},
            "tests": [{"name": "card numbers stay home", "request": {"text": format!("Charge {CARD}")}, "expect": {"privacy": "Restricted", "lowestClass": "OwnHardware"}}],
        }}));
    world.wait(
        HOME,
        "sovereigntypolicy/organization",
        "Ready",
        Duration::from_mins(1),
    );
}

pub(crate) fn card(world: &World) {
    cloud(world);
    organization(world);
    let public = until(
        "the cloud answers what is public",
        Duration::from_secs(30),
        || {
            let said = world.ask(
                TEAM,
                &json!({"model": "big", "text": "Say something public."}),
            );
            (said.header("mesh-backend") == "scripted-cloud").then_some(said)
        },
    );
    assert_eq!(
        (public.status(), public.text()),
        (200, "Greetings from the cloud."),
        "{public:?}"
    );
    for stream in [false, true] {
        for model in ["auto", "big"] {
            let said = world.ask(TEAM, &json!({"model": model, "text": format!("Charge {CARD} please."), "stream": stream}));
            assert_ne!(said.header("mesh-backend"), "scripted-cloud", "{said:?}");
            assert!(
                said.status() == 200 && said.header("mesh-privacy") == "restricted"
                    || said.status() == 403,
                "{said:?}"
            );
        }
    }
    let raised = world.ask(TEAM, &json!({"model": "auto", "text": "Raised by its caller.", "headers": {"mesh-privacy": "restricted"}}));
    assert_eq!(
        raised.header("mesh-sovereignty-class"),
        "OwnHardware",
        "{raised:?}"
    );
    let log = cloud_log(world);
    assert!(log.contains("Say something public."), "{log}");
    assert!(
        !log.contains("4111") && !log.contains("Charge") && !log.contains("Raised by"),
        "{log}"
    );
    for pod in ["operator", "gateway", "worker"] {
        let selector = format!("app.kubernetes.io/component={pod}");
        let log = world.kubectl(&[
            "logs",
            "-n",
            HOME,
            "-l",
            &selector,
            "--all-containers",
            "--tail=-1",
        ]);
        assert!(
            !log.contains("4111") && !log.contains("something public"),
            "{pod} wrote a prompt: {log}"
        );
    }
}

pub(crate) fn secrets(world: &World) {
    assert!(
        cloud_log(world).contains(&format!("Bearer {KEY}")),
        "the cloud gets its key"
    );
    // Every namespace has this one, of the cluster's own authority; who is behind it does not matter here.
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": HOME, "name": "proven"},
        "spec": {"external": {"url": "https://proven.invalid/v1", "tls": {"caRef": {"configMap": {"name": "kube-root-ca.crt", "key": "ca.crt"}}}},
            "availableTo": {"namespaceSelector": {"matchLabels": {"served": "nobody"}}}, "models": [{"name": "proven"}]}}));
    // A tenant names the Secret of the mesh namespace: there is none of that name in its own.
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": TEAM, "name": "mine"},
        "spec": backend(TEAM, "mine")["spec"]}));
    let reason = until(
        "the tenant's backend is judged",
        Duration::from_secs(30),
        || {
            let object = world.get(&["-n", TEAM, "inferencebackend/mine"]);
            object["status"]["conditions"]
                .as_array()?
                .iter()
                .find(|one| one["type"] == "Ready" && one["status"] == "False")
                .cloned()
        },
    );
    assert_eq!(reason["reason"], "CredentialsUnreadable", "{reason}");
    let readable = |namespace: &str, name: &str| {
        let object = world.get(&["-n", namespace, &format!("inferencebackend/{name}")]);
        let conditions = object["status"]["conditions"].as_array().unwrap().clone();
        let mut found = conditions
            .into_iter()
            .filter(|one| one["type"] == "CredentialsReadable");
        found.next().map(|one| one["status"].clone())
    };
    assert_eq!(readable(TEAM, "mine"), Some(json!("False")));
    assert_eq!(readable(HOME, "scripted-cloud"), Some(json!("True")));
    assert_eq!(readable(HOME, "floor"), None, "it has no key");
    let before = cloud_log(world).matches(KEY).count();
    for _ in 0..3 {
        let said = world.ask(TEAM, &json!({"model": "big", "text": "Hello"}));
        assert_ne!(said.header("mesh-backend"), "team/mine", "{said:?}");
    }
    let asked = cloud_log(world).matches(KEY).count() - before;
    assert!(
        asked <= 3,
        "the mesh's own backend may have been asked, with its own key: {asked}"
    );
    world.kubectl(&["delete", "inferencebackend", "-n", TEAM, "mine"]);
    let proven = "inferencebackend/proven";
    world.wait(HOME, proven, "AuthorityReadable", Duration::from_mins(1));
    world.wait(HOME, proven, "Ready", Duration::from_mins(1));
    world.kubectl(&["delete", "-n", HOME, proven]);
}
