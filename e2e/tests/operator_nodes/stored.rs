//! Files that move into a volume which pods share, and out of it again, with the real controllers: whoever serves goes
//! on until those that take its place do, and the claim stays for as long as a pod has it. One node is played here, the
//! one that has the volume, since nobody else would say what a fetch found.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::lives::Act;
use mesh_e2e::proxy::Moment;
use mesh_e2e::stage::{Stage, backend, cache, children, namespace};
use serde_json::{Value, json};

use super::{SOON, lead, nothing};

const ROOM: &str = "stored";
const NODE: &str = "disk";
const CLAIM: &str = "model-models";
const OBJECT: [&str; 3] = [ROOM, "inferencebackend", "a"];
/// A node of which nothing is heard for longer than this, some times over, is lost.
const BEAT: Duration = Duration::from_secs(10);

/// The node with the volume.
struct Disk<'s> {
    stage: &'s Stage,
    beaten: Cell<Option<Instant>>,
}

fn list(found: &Value) -> Vec<Value> {
    found["items"].as_array().cloned().unwrap_or_default()
}

fn going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn is(pod: &Value, condition: &str) -> bool {
    let all = pod["status"]["conditions"].as_array();
    let mut all = all.into_iter().flatten();
    all.any(|one| one["type"] == condition && one["status"] == "True")
}

fn mounts(pod: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array();
    let mut volumes = volumes.into_iter().flatten();
    volumes.any(|one| one["persistentVolumeClaim"]["claimName"] == CLAIM)
}

fn ended(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
}

impl<'s> Disk<'s> {
    fn new(stage: &'s Stage) -> Self {
        let labels = json!({"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}});
        stage.apply(&node).unwrap();
        let only = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]});
        stage
            .apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "shared"}, "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "shared",
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/shared"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [only]}}}}))
            .unwrap();
        let disk = Self {
            stage,
            beaten: Cell::new(None),
        };
        disk.beat().unwrap();
        disk
    }

    fn beat(&self) -> Result<()> {
        if self.beaten.get().is_some_and(|at| at.elapsed() < BEAT) {
            return Ok(());
        }
        self.beaten.set(Some(Instant::now()));
        let (now, room) = (
            jiff::Timestamp::now().to_string(),
            json!({"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"}),
        );
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played",
            "lastHeartbeatTime": now, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let said = json!({"capacity": room, "allocatable": room, "conditions": [ready]});
        self.stage.says(ROOM, &format!("node/{NODE}"), &said)
    }

    /// What a kubelet does: pods serve, a fetch finds what it should, and what is to go goes.
    fn play(&self) -> Result<()> {
        self.beat()?;
        let here = format!("spec.nodeName={NODE}");
        let pods = self
            .stage
            .get(&["-n", ROOM, "pods", "--field-selector", &here])?;
        for pod in list(&pods) {
            let name = pod["metadata"]["name"].as_str().context("a name")?;
            let fetches = pod["metadata"]["ownerReferences"][0]["kind"] == "Job";
            let done = if fetches {
                ended(&pod)
            } else {
                is(&pod, "Ready")
            };
            if going(&pod) {
                let gone = ["delete", "pod", "-n", ROOM, name, "--ignore-not-found"];
                let now = ["--force", "--grace-period=0", "--wait=false"];
                self.stage.kubectl(&[&gone[..], &now].concat())?;
            } else if !done {
                let said = if fetches { fetched(&pod) } else { serving() };
                self.stage.says(ROOM, &format!("pod/{name}"), &said)?;
            }
        }
        Ok(())
    }

    /// Somebody serves, and no pod that has the claim loses it.
    fn holds(&self) -> Result<()> {
        self.play()?;
        let taken = claim(self.stage)?.is_some_and(|claim| going(&claim));
        let pods = list(&self.stage.get(&["-n", ROOM, "pods"])?);
        let serves = |pod: &&Value| {
            let of = &pod["metadata"]["labels"]["inferencemesh.dev/backend"];
            *of == "a" && is(pod, "Ready") && !going(pod)
        };
        ensure!(
            pods.iter().any(|pod| serves(&pod)),
            "nobody serves: {pods:?}"
        );
        let has = pods.iter().find(|pod| mounts(pod) && !ended(pod));
        if let Some(pod) = has.filter(|_| taken) {
            let (name, status) = (&pod["metadata"]["name"], &pod["status"]["phase"]);
            bail!("its claim is taken from pod {name}, {status}");
        }
        Ok(())
    }

    /// Until this is so; meanwhile everything holds.
    fn until(&self, what: &str, mut found: impl FnMut() -> Result<bool>) {
        let so = || {
            self.holds().unwrap();
            Ok(found()?.then_some(()))
        };
        self.stage.until(what, 2 * SOON, so).unwrap();
    }
}

/// The shared claim, if there is one.
fn claim(stage: &Stage) -> Result<Option<Value>> {
    let all = list(&stage.get(&["-n", ROOM, "persistentvolumeclaims"])?);
    Ok(all.into_iter().find(|one| one["metadata"]["name"] == CLAIM))
}

fn serving() -> Value {
    let condition = |type_: &str| json!({"type": type_, "status": "True"});
    json!({"phase": "Running", "podIP": "10.9.0.1", "conditions": [condition("Ready"), condition("ContainersReady")]})
}

fn fetched(pod: &Value) -> Value {
    let digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    let words = json!({"artifacts": [{"path": "model.gguf", "sha256": digest, "sizeBytes": 7, "source": "builtin",
        "verifiedAt": jiff::Timestamp::now().to_string()}]});
    let container = &pod["spec"]["containers"][0]["name"];
    let end =
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": words.to_string()}});
    json!({"phase": "Succeeded", "containerStatuses": [{"name": container, "image": "i", "imageID": "i", "ready": false,
        "restartCount": 0, "state": end}]})
}

/// A claim that its volume remembers cannot be bound anew.
fn free(stage: &Stage) {
    let patch = ["patch", "persistentvolume", "shared", "--type=merge", "-p"];
    let none = r#"{"spec": {"claimRef": null}}"#;
    stage.kubectl(&[&patch[..], &[none]].concat()).unwrap();
}

/// What the backend's pods ask of a node, given or taken away; a fetch asks for nothing.
fn place(stage: &Stage, label: &str) {
    for node in [NODE, "cpu-4"] {
        let args = ["label", "node", node, label, "--overwrite"];
        stage.kubectl(&args).unwrap();
    }
}

/// Only one generation of pods, with the claim or without, and told to be Ready.
fn settled(stage: &Stage, shared: bool) -> Result<bool> {
    let pods = list(&stage.get(&["-n", ROOM, "pods", "-l", "inferencemesh.dev/backend=a"])?);
    let sets = list(&stage.get(&["-n", ROOM, "statefulsets"])?);
    let one = pods.len() == 1 && mounts(&pods[0]) == shared && sets.is_empty();
    if !one || claim(stage)?.is_some() != shared {
        return Ok(false);
    }
    let ready = stage.condition(OBJECT, "Ready", "True", Duration::from_millis(1));
    let mut wanted = children("a");
    // Of the fetch, which stays as the record.
    wanted.extend(shared.then(|| String::from("networkpolicy.networking.k8s.io/model-jobs")));
    wanted.sort();
    Ok(ready.is_ok() && stage.made(ROOM)? == wanted)
}

pub(crate) fn moves(stage: &Stage) {
    let operator = lead(stage);
    stage.apply(&namespace(ROOM)).unwrap();
    let disk = Disk::new(stage);
    place(stage, "stored=yes");
    let stored = |storage: Value| {
        let mut cache = cache(ROOM, "model");
        cache["spec"]["storage"] = storage;
        stage.apply(&cache).unwrap();
    };
    let shared = || json!({"persistentVolumeClaim": {"size": "1Gi", "accessMode": "ReadWriteMany", "storageClassName": "shared"}});
    let pods = || json!({"emptyDir": {}});
    stored(pods());
    let mut wanted = backend(ROOM, "a", "model", 1);
    wanted["spec"]["inCluster"]["nodeSelector"] = json!({"stored": "yes"});
    stage.apply(&wanted).unwrap();
    let serves = || {
        disk.play()?;
        settled(stage, false).map(|so| so.then_some(()))
    };
    stage.until("it serves", SOON, serves).unwrap();

    stored(shared());
    disk.until("it has its files from the volume", || settled(stage, true));
    hindered(&disk, &stored, [pods(), shared()]);
    let local = json!({"nodeLocal": {"storageClassName": "none", "diskBudget": "1Gi"}});
    elsewhere(&disk, &stored, [local, shared()]);
    assert!(operator.terminate().unwrap().success());

    stored(pods());
    killed(&disk);
    // And in again, for which the volume has to be another's no longer.
    free(stage);
    let operator = lead(stage);
    stored(shared());
    disk.until("it has its files from a volume again", || {
        settled(stage, true)
    });
    let objects = ["inferencebackend/a", "modelcache/model"];
    stage
        .kubectl(&[&["delete", "-n", ROOM], &objects[..]].concat())
        .unwrap();
    nothing(stage, ROOM);
    let delete = ["delete", "node", NODE, "--wait=false"];
    stage.kubectl(&delete).unwrap();
    assert!(operator.terminate().unwrap().success());
}

/// The way out of the volume, with an operator killed after each write.
fn killed(disk: &Disk<'_>) {
    let stage = disk.stage;
    let act = Act {
        stage,
        settings: stage.settings("stored").unwrap(),
        moments: &[Moment::After],
        aside: &[],
    };
    let done = || {
        ensure!(settled(stage, false)?, "it is not settled");
        Ok(())
    };
    let played = act.play(|| disk.holds(), done).unwrap();
    let steps = [
        "DELETE jobs stored/model-fetch-",
        "APPLY deployments stored/a-worker",
        "DELETE persistentvolumeclaims stored/model-models",
        "APPLY inferencebackends/status stored/a",
    ];
    played.ended_at(&steps).unwrap();
    println!("  {} operators were killed on the way", played.killed);
}

/// Pods without the volume find no place: the one with it stays, and so does its claim; and back.
fn hindered(disk: &Disk<'_>, stored: &dyn Fn(Value), [pods, shared]: [Value; 2]) {
    let stage = disk.stage;
    place(stage, "stored-");
    stored(pods);
    disk.until("a pod waits for a place", || {
        let pods = stage.get(&["-n", ROOM, "pods", "-l", "inferencemesh.dev/backend=a"])?;
        let waits = |pod: &&Value| pod["spec"]["nodeName"].is_null() && !mounts(pod);
        Ok(list(&pods).iter().any(|pod| waits(&pod)))
    });
    // It is told, so a pass has seen both.
    disk.until("that it waits is told", || {
        let told = stage.condition(OBJECT, "Ready", "False", Duration::from_millis(1));
        Ok(told.is_ok_and(|told| told["reason"] == "Unschedulable"))
    });
    stored(shared);
    disk.until("the pod that waited goes", || settled(stage, true));
    place(stage, "stored=yes");
}

/// The same where a pod with a volume of its own waits for one that nobody has.
fn elsewhere(disk: &Disk<'_>, stored: &dyn Fn(Value), [local, shared]: [Value; 2]) {
    let stage = disk.stage;
    stored(local);
    disk.until("a pod waits for a volume of its own", || {
        let pod = stage.get(&["-n", ROOM, "pod", "a-worker-0"]);
        Ok(pod.is_ok_and(|pod| pod["spec"]["nodeName"].is_null()))
    });
    stored(shared);
    disk.until("the pod that waited goes", || settled(stage, true));
}
