//! A disk that is too small for the models it is to hold: told with bytes, tried no more while it is so, in nobody's way,
//! and served from once it has grown. One model is announced with its size, of the other nobody says how large it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::application::Said;
use crate::chapter::caches::{
    LIMIT, PLACE, SMALL, SMALL_DIGEST, cache, condition, get, message, server, source,
};
use crate::chapter::install::text;
use crate::world::{TEAM, World, until};

/// Mebibytes of the disk, before and afterwards. The announced model has 94, the other 64.
const BEFORE: u32 = 40;
const AFTER: u32 = 224;
const CLASS: &str = "mesh-test-tight";
const ANNOUNCED: &str = "tight";
const POURED: &str = "poured";
const FULL: &str = "DiskFull";
/// What a store keeps beside models.
const NOTES: u64 = 64 * 1024;

/// One small disk, on which two volumes are.
fn disk(world: &World) -> PathBuf {
    let folder = PathBuf::from(world.scratch("tight"));
    world.cluster.put_disk(&folder, BEFORE).unwrap();
    world.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}));
    for name in [ANNOUNCED, POURED] {
        let path = folder.join(name);
        let here = world.cluster.on_node(1, &path).unwrap();
        fs::create_dir(&here).unwrap();
        fs::set_permissions(&here, fs::Permissions::from_mode(0o777)).unwrap();
        world.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("mesh-test-{name}")}, "spec": {
            "capacity": {"storage": mebibytes(BEFORE)}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}}));
    }
    folder
}

fn mebibytes(number: u32) -> String {
    format!("{number}Mi")
}

fn declared(world: &World) {
    let storage =
        json!({"persistentVolumeClaim": {"size": mebibytes(BEFORE), "storageClassName": CLASS}});
    world.apply(&cache(
        ANNOUNCED,
        &json!({"artifacts": [{"path": SMALL, "sha256": SMALL_DIGEST}], "sources": [{"builtin": {}}], "storage": storage}),
    ));
    world.apply(&cache(
        POURED,
        &json!({"artifacts": [{"path": "m.bin"}], "sources": [source("unannounced")], "storage": storage}),
    ));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": PLACE, "name": ANNOUNCED},
        "spec": {"inCluster": {"modelRef": {"name": ANNOUNCED}}, "models": [{"name": ANNOUNCED}]}}));
}

/// The Job that fills a volume, once it was given up with the volume's size noted on it.
fn given_up(world: &World, name: &str) -> Value {
    until(&format!("{name} is given up"), LIMIT, || {
        let selector = format!("inferencemesh.dev/model-cache={name}");
        let jobs = world.get(&["jobs", "-n", PLACE, "-l", &selector]);
        let [job] = &jobs["items"].as_array()?[..] else {
            return None;
        };
        let noted = &job["metadata"]["annotations"]["inferencemesh.dev/capacity"];
        let mut ends = job["status"]["conditions"].as_array()?.iter();
        let failed = ends.find(|one| one["type"] == "Failed")?;
        // Not after further attempts: there are none.
        assert_eq!(text(&failed["reason"]), "PodFailurePolicy", "{job}");
        (*noted == mebibytes(BEFORE)).then(|| job.clone())
    })
}

/// The numbers of a message.
fn numbers(message: &str) -> Vec<u64> {
    let (_, after) = message.split_once(" (").unwrap_or_default();
    let (inside, _) = after.split_once(')').unwrap_or_default();
    let words = inside.split(' ');
    words.filter_map(|word| word.parse().ok()).collect()
}

fn told(world: &World, name: &str) -> Vec<u64> {
    let full = || {
        let object = get(world, "modelcache", name);
        (condition(&object, "Fetched")["reason"] == FULL).then_some(object)
    };
    let object = until(&format!("{name} tells of a full disk"), LIMIT, full);
    assert_eq!(condition(&object, "Ready")["reason"], FULL, "{object}");
    let blamed = condition(&object, "SourceResolved");
    assert_eq!(blamed["status"], "True", "no source is to blame: {blamed}");
    let selector = format!("--field-selector=involvedObject.name={name}");
    until("an event tells of it", LIMIT, || {
        let events = world.get(&["events", "-n", PLACE, &selector]);
        let mut all = events["items"].as_array()?.iter();
        all.find(|event| event["reason"] == FULL && event["type"] == "Warning")
            .map(drop)
    });
    let said = message(&object, "Fetched");
    assert!(
        said.contains("tried again once the volume has grown"),
        "{said}"
    );
    numbers(&said)
}

/// Bytes of everything below a folder; no model may be seen in it.
fn bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let seen = fs::symlink_metadata(&path).unwrap();
        let name = path.file_name().unwrap_or_default();
        assert!(name != SMALL && name != "m.bin", "{}", path.display());
        sum += if seen.is_dir() {
            bytes(&path)
        } else {
            seen.len()
        };
    }
    sum
}

/// As its owner and the driver of its storage make a volume larger.
fn grow(world: &World, name: &str) {
    let size = mebibytes(AFTER);
    let spec = json!({"spec": {"storage": {"persistentVolumeClaim": {"size": size}}}}).to_string();
    let patch = |what: &str, more: &[&str], patch: &str| {
        let args = ["patch", what, "-n", PLACE, "--type=merge", "-p", patch];
        world.kubectl(&[&args[..], more].concat());
    };
    patch(&format!("modelcache/{name}"), &[], &spec);
    let selector = format!("inferencemesh.dev/model-cache={name}");
    let claim = until("the claim asks for more", LIMIT, || {
        let claims = world.get(&["pvc", "-n", PLACE, "-l", &selector]);
        let claim = claims["items"][0].clone();
        (claim["spec"]["resources"]["requests"]["storage"] == *size).then_some(claim)
    });
    let there = json!({"capacity": {"storage": size}});
    let volume = format!("pv/{}", text(&claim["spec"]["volumeName"]));
    patch(&volume, &[], &json!({"spec": there}).to_string());
    let claim = format!("pvc/{}", text(&claim["metadata"]["name"]));
    let status = json!({"status": there}).to_string();
    patch(&claim, &["--subresource=status"], &status);
}

/// One question of the pod that has the model server, which has a token as every pod of the tests.
fn asked(world: &World, model: &str) -> Said {
    let request = json!({"model": model, "text": "Hello", "max_tokens": 4}).to_string();
    let (python, script) = (world.python.command(), world.python.script("ask.py"));
    let args = [
        "exec", "-n", PLACE, "files", "--", &python, &script, &request,
    ];
    Said::parse(&world.kubectl(&args)).unwrap()
}

pub(crate) fn until_it_grows(world: &World) {
    server(world);
    let folder = disk(world);
    declared(world);
    let small = u64::from(BEFORE) << 20;
    let [needed, room] = told(world, ANNOUNCED)[..] else {
        panic!("two numbers are told");
    };
    assert!(needed > small && room <= small, "{needed} {room}");
    let [room] = told(world, POURED)[..] else {
        panic!("one number is told");
    };
    assert!(room > 0 && room <= small, "{room}");
    let jobs = [ANNOUNCED, POURED].map(|name| given_up(world, name));

    let said = world.ask(
        TEAM,
        &json!({"model": "smollm2", "text": "Hello", "max_tokens": 4}),
    );
    assert_eq!(said.status(), 200, "the floor has other files: {said:?}");
    let seen = world.cluster.on_node(1, &folder).unwrap();
    assert!(bytes(&seen) < NOTES, "what did not fit is gone");
    let backend = get(world, "inferencebackend", ANNOUNCED);
    let why = message(&backend, "Ready");
    assert!(why.contains("ModelCache tight is not there yet"), "{why}");
    let pods = ["pods", "-n", PLACE, "-l", "inferencemesh.dev/backend=tight"];
    assert_eq!(world.get(&pods)["items"], json!([]), "nothing serves it");
    let log = world.kubectl(&["logs", "-n", PLACE, "pod/files"]);
    let asked_for = log.matches("/unannounced/").count();
    assert!(asked_for <= 2, "it was asked for {asked_for} times");
    let after = [ANNOUNCED, POURED].map(|name| given_up(world, name));
    for (job, later) in jobs.iter().zip(&after) {
        assert_eq!(job["metadata"]["uid"], later["metadata"]["uid"]);
    }

    world.cluster.put_disk(&folder, AFTER).unwrap();
    for name in [ANNOUNCED, POURED] {
        grow(world, name);
    }
    for name in [ANNOUNCED, POURED] {
        world.wait(PLACE, &format!("modelcache/{name}"), "Ready", LIMIT);
    }
    world.wait(PLACE, "inferencebackend/tight", "Ready", LIMIT);
    let said = until("it is served", LIMIT, || {
        let said = asked(world, ANNOUNCED);
        (said.status() == 200).then_some(said)
    });
    assert_eq!(said.header("mesh-backend"), "models/tight", "{said:?}");
    gone(world, &folder);
}

fn gone(world: &World, folder: &Path) {
    let all = [
        "inferencebackend/tight",
        "modelcache/tight",
        "modelcache/poured",
    ];
    world.kubectl(&[&["delete", "-n", PLACE][..], &all].concat());
    until("its volumes are given back", LIMIT, || {
        let both = "inferencemesh.dev/model-cache in (tight, poured)";
        let left = world.kubectl(&["get", "pvc,pods", "-n", PLACE, "-l", both, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
    world.kubectl(&["delete", "pv", "mesh-test-tight", "mesh-test-poured"]);
    world.kubectl(&["delete", "storageclass", CLASS]);
    until("nobody has the disk", LIMIT, || {
        world.cluster.take_disk(folder).ok()
    });
}
