//! Models' files: bad sources, pins, volumes, smaller versions.

use std::time::Duration;

use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::chapter::{adapter, egress};
use crate::world::{World, until};

/// Namespace of everything here.
pub(crate) const PLACE: &str = "models";
pub(crate) const LIMIT: Duration = Duration::from_mins(3);
/// SHA-256 of what `models.py` has.
const GOOD: &str = "2312394bd99545d9de131c24efb781e765ac1aec243f2ed9347597a793a415e9";
const CLASS: &str = "mesh-test-local";
pub(crate) const SMALL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub(crate) const SMALL_DIGEST: &str =
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// How the first source is bad, and what is said of it.
const FAULTS: [(&str, &str); 4] = [
    ("wrong", "DigestMismatch"),
    ("truncated", "Truncated"),
    ("errors", "HttpError"),
    ("hangs", "Timeout"),
];

pub(crate) fn cache(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"namespace": PLACE, "name": name}, "spec": spec})
}

pub(crate) fn get(world: &World, kind: &str, name: &str) -> Value {
    world.get(&["-n", PLACE, &format!("{kind}/{name}")])
}

pub(crate) fn condition(object: &Value, type_: &str) -> Value {
    let all = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut found = all.filter(|one| one["type"] == type_);
    found.next().cloned().unwrap_or_default()
}

pub(crate) fn message(object: &Value, type_: &str) -> String {
    text(&condition(object, type_)["message"]).to_owned()
}

/// A model server with a certificate of a private authority, unless it is there.
pub(crate) fn server(world: &World) {
    if world
        .try_kubectl(&["get", "-n", PLACE, "pod/files"])
        .is_ok()
    {
        return;
    }
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": {"pod-security.kubernetes.io/warn": "restricted"}}}));
    let host = format!("files.{PLACE}.svc");
    let made = rcgen::generate_simple_self_signed(vec![host]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": PLACE, "name": "files-tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": PLACE, "name": "files-ca"}, "data": {"ca.crt": certificate}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": PLACE, "name": "files-key"}, "stringData": {"key": "open-sesame\n"}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": PLACE, "name": "files"}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": PLACE, "name": "files"},
        "spec": {"selector": {"app": "files"}, "ports": [{"port": 443, "targetPort": 8443}]}}));
    world.apply(&adapter::files(PLACE));
    let script = world.python.script("models.py");
    let args = [script.as_str(), "8443", "/tls", "/adapter"];
    let mut pod = world
        .python
        .pod(PLACE, "files", Cluster::PAUSE_IMAGE, &args);
    for (name, volume) in [
        ("tls", json!({"secret": {"secretName": "files-tls"}})),
        ("adapter", json!({"configMap": {"name": adapter::FILES}})),
    ] {
        let mut volume = volume;
        volume["name"] = json!(name);
        let mount = json!({"name": name, "mountPath": format!("/{name}"), "readOnly": true});
        pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
        let container = &mut pod["spec"]["containers"][0];
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(mount);
    }
    world.apply(&pod);
    world.wait(PLACE, "pod/files", "Ready", Duration::from_mins(1));
}

pub(crate) fn source(behavior: &str) -> Value {
    json!({"http": {"url": format!("https://files.{PLACE}.svc/{behavior}/"), "tls": {"caRef": {"configMap": {"name": "files-ca", "key": "ca.crt"}}}}})
}

/// Caches whose first source is bad; the one that hangs takes long, so they are looked at later.
fn begin(world: &World) {
    server(world);
    for (fault, _) in FAULTS {
        let sources = json!([source(fault), source("good")]);
        let spec = if fault == "wrong" {
            // Only a digest tells that bytes are wrong, and who knows it need not pin: into a volume.
            json!({"artifacts": [{"path": "m.bin", "sha256": GOOD}], "sources": sources,
                "storage": {"persistentVolumeClaim": {"size": "64Mi", "storageClassName": CLASS}}})
        } else {
            json!({"artifacts": [{"path": "m.bin"}], "sources": sources})
        };
        world.apply(&cache(&format!("bad-{fault}"), &spec));
    }
    let mut locked = source("locked");
    locked["http"]["credentials"] = json!({"secretRef": {"name": "files-key", "key": "key"}});
    world.apply(&cache(
        "locked",
        &json!({"artifacts": [{"path": "m.bin"}], "sources": [locked]}),
    ));
}

/// A class of local volumes, and volumes on the only node.
fn volumes(world: &World) {
    world.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    for (number, size) in ["64Mi", "128Mi", "1Gi"].iter().enumerate() {
        let folder = world.scratch(&format!("volume-{number}"));
        world.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("mesh-test-{number}")}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}}));
    }
}

pub(crate) fn prepare(world: &World) {
    volumes(world);
    begin(world);
}

/// Every way to be bad is seen, told and survived.
pub(crate) fn bad_sources(world: &World) {
    for (fault, reason) in FAULTS {
        let name = format!("bad-{fault}");
        let ready = || {
            let object = get(world, "modelcache", &name);
            (object["status"]["artifacts"].as_array()?.len() == 1).then_some(object)
        };
        let object = until(&format!("{name} has its files"), LIMIT, ready);
        world.wait(PLACE, &format!("modelcache/{name}"), "Ready", LIMIT);
        for artifact in object["status"]["artifacts"].as_array().unwrap() {
            assert!(text(&artifact["source"]).contains("/good/"), "{artifact}");
            assert_eq!(text(&artifact["sha256"]), GOOD, "{artifact}");
        }
        let said = message(&object, "SourceResolved");
        assert!(
            said.contains(reason) && said.contains(&format!("/{fault}/")),
            "{said}"
        );
        let selector = format!("--field-selector=involvedObject.name={name}");
        let told = || {
            let events = world.get(&["events", "-n", PLACE, &selector]);
            let all = events["items"].as_array()?;
            all.iter()
                .any(|event| text(&event["message"]).contains(reason))
                .then_some(())
        };
        until(&format!("an event tells of {fault}"), LIMIT, told);
        assert!(object["status"]["progress"].is_null(), "it is finished");
    }
}

/// A key reaches the source, and nobody else sees it.
pub(crate) fn locked(world: &World) {
    world.wait(PLACE, "modelcache/locked", "Ready", LIMIT);
    let object = get(world, "modelcache", "locked");
    assert_eq!(
        text(&object["status"]["artifacts"][0]["sha256"]),
        GOOD,
        "pinned: {}",
        object["status"]
    );
    let jobs = world.kubectl(&["get", "jobs,pods", "-n", PLACE, "-o", "yaml"]);
    assert!(
        !jobs.contains("open-sesame"),
        "the key is in no object but its Secret"
    );
    let log = world.kubectl(&["logs", "-n", PLACE, "pod/files"]);
    assert!(
        log.contains("Bearer open-sesame"),
        "the source was asked with the key"
    );
}

/// A volume is filled, a smaller version is made in it, and a worker serves that.
pub(crate) fn volume(world: &World) {
    let spec = json!({"artifacts": [{"path": SMALL, "sha256": SMALL_DIGEST}], "sources": [{"builtin": {}}],
        "derive": [{"quantization": "Q8_0"}],
        "storage": {"persistentVolumeClaim": {"size": "512Mi", "storageClassName": CLASS}}, "verification": {"interval": "24h"}});
    world.apply(&cache("kept", &spec));
    let base = json!({"name": "kept", "sha256": SMALL_DIGEST});
    let files = json!({"persistentVolumeClaim": {"size": "64Mi", "storageClassName": CLASS}});
    world.apply(&cache(
        adapter::NAME,
        &adapter::spec(&base, &source("adapter"), &files),
    ));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": PLACE, "name": "kept"},
        "spec": {"inCluster": {"modelRef": {"name": "kept", "quantization": "Q8_0"}, "adapters": [{"name": adapter::NAME}]},
            "models": [{"name": "kept"}, {"name": "law", "target": adapter::NAME}]}}));
    world.wait(PLACE, "modelcache/kept", "Ready", LIMIT);
    let object = get(world, "modelcache", "kept");
    let derived = &object["status"]["derived"][0];
    assert_eq!(
        text(&derived["parentSha256"]),
        SMALL_DIGEST,
        "{}",
        object["status"]
    );
    for condition in ["Fetched", "Verified", "Quantized", "Distributed"] {
        world.wait(PLACE, "modelcache/kept", condition, Duration::from_secs(5));
    }
    world.wait(PLACE, "inferencebackend/kept", "Ready", LIMIT);
    let pods = world.get(&["pods", "-n", PLACE, "-l", "inferencemesh.dev/backend=kept"]);
    let pod = &pods["items"][0];
    let proof = &pod["spec"]["initContainers"][0];
    assert_eq!(text(&proof["args"][0]), "prove", "{proof}");
    assert!(
        pod["metadata"]["labels"]["inferencemesh.dev/fetching"].is_null(),
        "it never goes out"
    );
    // One volume of one node serves one replica.
    world.kubectl(&[
        "scale",
        "-n",
        PLACE,
        "inferencebackend/kept",
        "--replicas=2",
    ]);
    until("two replicas are refused", LIMIT, || {
        let backend = get(world, "inferencebackend", "kept");
        message(&backend, "Ready")
            .contains("ReadWriteMany")
            .then_some(())
    });
    world.kubectl(&[
        "scale",
        "-n",
        PLACE,
        "inferencebackend/kept",
        "--replicas=1",
    ]);
}

/// The adapter of that worker is a model of its own name.
pub(crate) fn adapted(world: &World) {
    world.wait(PLACE, "inferencebackend/kept", "AdaptersLoaded", LIMIT);
    adapter::answers(world, PLACE, ("kept", "law"));
}

/// A pod whose first source is outside may go out, and no longer once its files are there.
/// That it was answered by the server tells that it could.
pub(crate) fn confined(world: &World) {
    let outside = egress::outside(world);
    let spec = json!({"artifacts": [{"path": SMALL, "sha256": SMALL_DIGEST}], "sources": [source("errors"), {"builtin": {}}]});
    world.apply(&cache("roaming", &spec));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": PLACE, "name": "roaming"},
        "spec": {"inCluster": {"modelRef": {"name": "roaming"}}, "models": [{"name": "roaming"}]}}));
    world.wait(PLACE, "inferencebackend/roaming", "Ready", LIMIT);
    world.wait(PLACE, "inferencebackend/roaming", "EgressConfined", LIMIT);
    let template = get(world, "deployment", "roaming-worker");
    let mark = "inferencemesh.dev/fetching";
    assert_eq!(
        text(&template["spec"]["template"]["metadata"]["labels"][mark]),
        "true"
    );
    let pods = world.get(&[
        "pods",
        "-n",
        PLACE,
        "-l",
        "inferencemesh.dev/backend=roaming",
    ]);
    for pod in pods["items"].as_array().unwrap() {
        let name = text(&pod["metadata"]["name"]);
        assert!(
            pod["metadata"]["labels"][mark].is_null(),
            "{name} may still go out"
        );
        egress::beside(world, PLACE, name);
        until("the network holds it too", LIMIT, || {
            (!egress::answered(world, PLACE, name, &outside)).then_some(())
        });
    }
    let object = get(world, "modelcache", "roaming");
    let said = message(&object, "SourceResolved");
    assert!(
        said.contains("HttpError"),
        "what pods met is told as well: {said}"
    );
    world.kubectl(&[
        "delete",
        "-n",
        PLACE,
        "inferencebackend/roaming",
        "modelcache/roaming",
    ]);
}

/// What belongs to a cache goes with it.
pub(crate) fn gone(world: &World) {
    world.kubectl(&[
        "delete",
        "-n",
        PLACE,
        "inferencebackend/kept",
        "modelcache/kept",
    ]);
    until("its volume and its Jobs are gone", LIMIT, || {
        let left = world.kubectl(&[
            "get",
            "jobs,pvc,pods,networkpolicies",
            "-n",
            PLACE,
            "-l",
            "inferencemesh.dev/model-cache=kept",
            "-o",
            "name",
        ]);
        left.trim().is_empty().then_some(())
    });
    world.kubectl(&["delete", "namespace", PLACE, "--timeout=120s"]);
}
