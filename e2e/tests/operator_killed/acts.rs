//! What an installation begins with, what is changed, and what is taken away.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_e2e::lives::{Act, Played};
use mesh_e2e::operator::HOME;
use mesh_e2e::stage::{Stage, backend, cache, cloud, namespace, ownership, policy};
use serde_json::{Value, json};

use crate::room::Room;
use crate::{AFTER, BOTH, Kept, around, declare, made, settings, told, trusted};

/// Accepted versions of a policy that are kept.
const KEPT: u64 = 5;

/// The objects of an installation, as the chart hands them to the operator.
fn bootstrap(stage: &Stage) -> String {
    let objects = [
        cache(HOME, "model"),
        backend(HOME, "floor", "model", 1),
        ownership(None),
    ];
    let bare = |mut object: Value| {
        object["metadata"] = json!({"name": object["metadata"]["name"]});
        object.to_string()
    };
    let file = stage.cluster.folder().join("bootstrap.yaml");
    std::fs::write(&file, objects.map(bare).join("\n---\n")).unwrap();
    file.display().to_string()
}

/// Everything of an installation once, and said of the specs that are.
fn installed(stage: &Stage, authority: &Kept) -> Result<()> {
    let home = Room::look(stage, HOME)?;
    let children = [
        "Deployment/floor-worker",
        "NetworkPolicy/floor-worker",
        "Service/floor-worker",
        "ServiceAccount/floor-worker",
        "ConfigMap/mesh-trust",
    ];
    home.holds(&children)?;
    for (kind, name) in [
        ("ModelCache", "model"),
        ("InferenceBackend", "floor"),
        ("SovereigntyPolicy", "default"),
    ] {
        ensure!(home.of(kind) == [name], "{kind}: {:?}", home.of(kind));
        let labels = &home.one(kind, name)?["metadata"]["labels"];
        ensure!(labels["inferencemesh.dev/bootstrap"] == "true", "{labels}");
    }
    ensure!(home.revisions() == [1], "{:?}", home.revisions());
    home.says(["SovereigntyPolicy", "default"], "Accepted", "True")?;
    trusted(&home, authority)
}

/// By which authorities the API server knows the webhooks.
pub(crate) fn known(stage: &Stage) -> Result<Vec<String>> {
    let found = stage.get(&["mutatingwebhookconfiguration", "mesh-inject"])?;
    let all = found["webhooks"].as_array().context("webhooks")?;
    let bundle = |one: &Value| {
        let text = one["clientConfig"]["caBundle"].as_str();
        let text = text.context("a bundle")?;
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    };
    all.iter().map(bundle).collect()
}

pub(crate) fn installation(stage: &Stage) {
    around(stage);
    declare(stage, "team");
    let act = Act {
        settings: settings(stage).env("MESH_BOOTSTRAP", &bootstrap(stage)),
        moments: BOTH,
        aside: &[],
        stage,
    };
    let done = || {
        let authority = Kept::read(stage)?;
        ensure!(authority.entries() == ["ca.crt", "ca.key"], "{authority:?}");
        installed(stage, &authority)?;
        let bundles = known(stage)?;
        let same = bundles.iter().all(|one| *one == authority.trusted());
        ensure!(same && bundles.len() == 6, "{bundles:?}");
        let team = Room::look(stage, "team")?;
        made(&team)?;
        team.generation("Deployment", "floor-worker", 1)?;
        trusted(&team, &authority)
    };
    let played = act.play(|| Ok(()), done).unwrap();
    told(&played);
    let steps = [
        "POST modelcaches mesh-system/model",
        "POST inferencebackends mesh-system/floor",
        "POST sovereigntypolicies mesh-system/default",
        "POST:ca.crt+ca.key secrets mesh-system/mesh-ca",
        "POST configmaps mesh-system/mesh-trust",
        "POST configmaps team/mesh-trust",
        "APPLY mutatingwebhookconfigurations /mesh-inject",
        "APPLY modelcaches/status team/model",
        "POST serviceaccounts team/floor-worker",
        "POST networkpolicies team/floor-worker",
        "POST services team/floor-worker",
        "POST deployments team/floor-worker",
        "POST poddisruptionbudgets team/floor-worker",
        "APPLY inferencebackends/status team/floor",
        "POST controllerrevisions team/rules-",
        "APPLY sovereigntypolicies/status team/rules",
    ];
    played.ended_at(&steps).unwrap();
}

/// Lets an operator that nobody kills make a room.
fn prepared(stage: &Stage, name: &str) {
    around(stage);
    stage.floor().unwrap();
    declare(stage, name);
    let operator = stage.begin(&settings(stage)).unwrap();
    operator.leads(crate::SOON).unwrap();
    let there = || made(&Room::look(stage, name)?).map(Some);
    stage.until("the room is made", crate::SOON, there).unwrap();
    stage.settled(&operator, crate::SOON).unwrap();
    assert!(operator.terminate().unwrap().success());
}

/// Versions that look as if the policy had been changed often.
fn versions(stage: &Stage, room: &str) {
    let all = stage.get(&["-n", room, "controllerrevisions"]).unwrap();
    let first = &all["items"][0];
    let name = first["metadata"]["name"].as_str().unwrap();
    let stem = name.strip_suffix("-1").unwrap();
    let copy = |number: u64| {
        let (kept, mut copy) = (&first["metadata"], first.clone());
        copy["metadata"] = json!({"name": format!("{stem}-{number}"), "namespace": room, "labels": kept["labels"],
            "annotations": kept["annotations"], "ownerReferences": kept["ownerReferences"]});
        copy["revision"] = json!(number);
        copy
    };
    let copies: Vec<Value> = (2..=KEPT).map(copy).collect();
    stage
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": copies}))
        .unwrap();
}

fn changed(stage: &Stage, room: &str) -> Result<()> {
    let all = Room::look(stage, room)?;
    let children = [
        "Deployment/floor-worker",
        "NetworkPolicy/floor-worker",
        "Service/floor-worker",
        "ServiceAccount/floor-worker",
        "ConfigMap/mesh-trust",
    ];
    all.holds(&children)?;
    let deployment = all.one("Deployment", "floor-worker")?;
    let requests =
        &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"];
    ensure!(deployment["spec"]["replicas"] == 1, "{deployment}");
    ensure!(requests["cpu"] == "20m", "{requests}");
    // Both in one write, and that once.
    all.generation("Deployment", "floor-worker", 2)?;
    ensure!(all.revisions() == [2, 3, 4, 5, 6], "{:?}", all.revisions());
    all.says(["InferenceBackend", "floor"], "Reconciling", "True")?;
    all.says(["SovereigntyPolicy", "rules"], "Accepted", "True")
}

pub(crate) fn change(stage: &Stage) {
    let room = "changes";
    prepared(stage, room);
    versions(stage, room);
    let mut smaller = backend(room, "floor", "model", 1);
    smaller["spec"]["inCluster"]["resources"]["requests"]["cpu"] = json!("20m");
    let mut stricter = policy(room, "rules");
    stricter["spec"]["constraints"] = json!({"licenses": {"deny": ["Proprietary"]}});
    let mut asking = namespace("asking");
    asking["metadata"]["labels"] = json!({"inferencemesh.dev/inject": "enabled"});
    for object in [smaller, stricter, asking] {
        stage.apply(&object).unwrap();
    }
    let act = Act {
        settings: settings(stage),
        moments: AFTER,
        aside: &[],
        stage,
    };
    let done = || {
        changed(stage, room)?;
        trusted(&Room::look(stage, "asking")?, &Kept::read(stage)?)
    };
    let played = act.play(|| Ok(()), done).unwrap();
    told(&played);
    let steps = [
        // Its books are brought in order before the first apply.
        "PATCH deployments changes/floor-worker",
        "APPLY deployments changes/floor-worker",
        "DELETE poddisruptionbudgets changes/floor-worker",
        "APPLY inferencebackends/status changes/floor",
        "POST controllerrevisions changes/rules-",
        "DELETE controllerrevisions changes/rules-",
        "APPLY sovereigntypolicies/status changes/rules",
        "POST configmaps asking/mesh-trust",
    ];
    played.ended_at(&steps).unwrap();
}

pub(crate) fn removal(stage: &Stage) {
    let room = "removed";
    prepared(stage, room);
    let mut device = backend(room, "device", "model", 1);
    device["spec"]["inCluster"]["engine"] = json!("LlamaCpp");
    device["spec"]["inCluster"]["accelerator"] =
        json!({"vendor": "Nvidia", "count": 1, "deviceClassName": "gpu.example"});
    let mut asking = namespace("asked");
    asking["metadata"]["labels"] = json!({"inferencemesh.dev/inject": "enabled"});
    stage.apply(&device).unwrap();
    stage.apply(&asking).unwrap();
    let act = Act {
        settings: settings(stage),
        moments: AFTER,
        // As in an installation.
        aside: &["POST serv", "POST net", "POST dep", "POST con", "APPLY"],
        stage,
    };
    let claimed = || {
        let all = Room::look(stage, room)?;
        ensure!(all.of("ResourceClaimTemplate").len() == 1, "no template");
        all.one("Deployment", "device-worker")?;
        trusted(&Room::look(stage, "asked")?, &Kept::read(stage)?)
    };
    let played = act.play(|| Ok(()), claimed).unwrap();
    let template = "POST resourceclaimtemplates removed/device-worker-";
    played.ended_at(&[template]).unwrap();
    for name in ["floor", "device"] {
        stage.apply(&cloud(room, name)).unwrap();
    }
    let forget = ["label", "namespace", "asked", "inferencemesh.dev/inject-"];
    stage.kubectl(&forget).unwrap();
    let act = Act {
        settings: settings(stage),
        moments: AFTER,
        aside: &[],
        stage,
    };
    let done = || {
        let all = Room::look(stage, room)?;
        all.holds(&[])?;
        ensure!(all.revisions() == [1], "the policy stays");
        all.says(["InferenceBackend", "floor"], "Ready", "True")?;
        Room::look(stage, "asked")?.holds(&[])
    };
    told(&removed(act.play(|| Ok(()), done).unwrap()));
}

fn removed(played: Played) -> Played {
    let steps = [
        "DELETE deployments removed/floor-worker",
        "DELETE services removed/floor-worker",
        "DELETE poddisruptionbudgets removed/floor-worker",
        "DELETE networkpolicies removed/floor-worker",
        "DELETE serviceaccounts removed/floor-worker",
        "DELETE resourceclaimtemplates removed/device-worker-",
        "DELETE configmaps removed/mesh-trust",
        "DELETE configmaps asked/mesh-trust",
    ];
    played.ended_at(&steps).unwrap();
    played
}
