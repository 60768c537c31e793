//! What an installation sees once in a while: pods that get volumes of their own, a volume that is not wanted
//! any more, a policy that is changed often, an authority near its end.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mesh_e2e::operator::HOME;
use mesh_e2e::stage::{Stage, backend, cache, cloud, namespace, policy};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::{SOON, relabeled, room};

/// Accepted specs of a policy that are kept.
const KEPT: usize = 5;

fn names(stage: &Stage, namespace: &str, kinds: &str) -> Vec<String> {
    let all = stage.kubectl(&["get", kinds, "-n", namespace, "-o", "name"]);
    all.unwrap().lines().map(str::to_owned).collect()
}

/// Waits until these, and no others of these kinds, are in a namespace.
fn only(stage: &Stage, namespace: &str, kinds: &str, wanted: &[&str]) {
    let what = format!("of {kinds} only {wanted:?} are there");
    let same = || Ok((names(stage, namespace, kinds) == wanted).then_some(()));
    stage.until(&what, SOON, same).unwrap();
}

pub(crate) fn unusable(stage: &Stage) {
    let operator = stage.lead("unusable").unwrap();
    room(stage, "unusable");
    for name in ["a.b", &"x".repeat(64)] {
        stage.apply(&backend("unusable", name, "model", 1)).unwrap();
        let object = ["unusable", "inferencebackend", name];
        let ready = stage.condition(object, "Ready", "False", SOON).unwrap();
        let told = || {
            let ready = stage.condition(object, "Ready", "False", SOON)?;
            Ok((ready["reason"] == "UnusableName").then_some(()))
        };
        if ready["reason"] != "UnusableName" {
            stage.until("its name is named", SOON, told).unwrap();
        }
        stage.condition(object, "Stalled", "True", SOON).unwrap();
    }
    let mut here = cloud("unusable", "here");
    here["spec"] =
        json!({"external": {"url": "http://127.0.0.1:8081/v1"}, "models": [{"name": "here"}]});
    stage.apply(&here).unwrap();
    let object = ["unusable", "inferencebackend", "here"];
    let ready = stage.condition(object, "Ready", "False", SOON).unwrap();
    assert_eq!(ready["reason"], "NotInCluster", "the gateway's own machine");
    ways(stage);
    // Longer than a label may be, and as long as a name may be.
    stage.floor().unwrap();
    let long = format!("p{}", ".long".repeat(50));
    stage.apply(&policy("unusable", &long)).unwrap();
    let object = ["unusable", "sovereigntypolicy", long.as_str()];
    stage.condition(object, "Accepted", "True", SOON).unwrap();
    only(stage, "unusable", "deployments,services", &[]);
    assert!(operator.terminate().unwrap().success());
}

/// Where the gateway would be led, and what it would have to read, by what stands beside an address.
fn ways(stage: &Stage) {
    let of = |namespace: &str, name: &str, way: &Value| {
        let mut there = cloud(namespace, name);
        let mut external = json!({"url": "https://llama.lab.example/v1"});
        for (field, value) in way.as_object().unwrap() {
            external[field] = value.clone();
        }
        there["spec"] = json!({"external": external, "models": [{"name": name}]});
        stage.apply(&there)
    };
    let ca = json!({"tls": {"caRef": {"configMap": {"name": "ca", "key": "ca.crt"}}}});
    let key = json!({"secretRef": {"name": "proxy", "key": "user"}});
    for (namespace, name, way, reason) in [
        (
            "unusable",
            "loops",
            json!({"proxy": {"url": "http://127.0.0.1:3128"}}),
            "NotInCluster",
        ),
        (
            "unusable",
            "asks",
            json!({"proxy": {"url": "http://169.254.169.254"}}),
            "NotInCluster",
        ),
        (
            "unusable",
            "pays",
            json!({"proxy": {"url": "http://proxy.example:3128", "credentials": key}}),
            "CredentialsUnreadable",
        ),
        ("unusable", "trusts", ca.clone(), "AuthorityUnreadable"),
        (HOME, "trusts", ca.clone(), "Progressing"),
    ] {
        of(namespace, name, &way).unwrap();
        let object = [namespace, "inferencebackend", name];
        let ready = stage.condition(object, "Ready", "False", SOON).unwrap();
        assert_eq!(ready["reason"], reason, "{namespace} {name}: {ready}");
    }
    // Whose right it is depends on the namespace; whether it is one, gateways say, and there are none here.
    let object = ["unusable", "inferencebackend", "trusts"];
    let read = stage.condition(object, "AuthorityReadable", "False", SOON);
    let read = read.unwrap();
    let message = read["message"].as_str().unwrap();
    assert!(message.contains("gateway.credentialNamespaces"), "{read}");
    stage.condition(object, "Stalled", "True", SOON).unwrap();
    let object = [HOME, "inferencebackend", "trusts"];
    let waits = |type_: &str, status: &str| stage.condition(object, type_, status, SOON);
    waits("AuthorityReadable", "Unknown").unwrap();
    waits("Reconciling", "True").unwrap();
    waits("Stalled", "False").unwrap();
    // What nobody may write at all.
    let plain = json!({"url": "http://a.example/v1", "insecurePlaintext": true, "proxy": {"url": "http://p.example:3128"}});
    let refused = of("unusable", "plain", &plain).unwrap_err().to_string();
    assert!(refused.contains("the proxy would read along"), "{refused}");
    let mut loose = ca;
    loose["url"] = json!("http://127.0.0.1:1/v1");
    let refused = of("unusable", "loose", &loose).unwrap_err().to_string();
    assert!(refused.contains("an authority is for https"), "{refused}");
    stage
        .kubectl(&["delete", "-n", HOME, "inferencebackend", "trusts"])
        .unwrap();
}

pub(crate) fn budget(stage: &Stage) {
    let operator = stage.lead("budget").unwrap();
    room(stage, "budget");
    stage.apply(&backend("budget", "a", "model", 2)).unwrap();
    let budgets = "poddisruptionbudgets";
    only(
        stage,
        "budget",
        budgets,
        &["poddisruptionbudget.policy/a-worker"],
    );
    relabeled(stage, "budget", &["poddisruptionbudget/a-worker"]);
    stage.apply(&backend("budget", "a", "model", 1)).unwrap();
    only(stage, "budget", budgets, &[]);
    assert!(operator.terminate().unwrap().success());
}

fn kept(namespace: &str, storage: &Value) -> Value {
    let mut cache = cache(namespace, "model");
    cache["spec"]["storage"] = storage.clone();
    cache
}

pub(crate) fn own_volumes(stage: &Stage) {
    let operator = stage.lead("own").unwrap();
    // Not a room, whose cache is of another sort: an operator that sees the backend first would begin with that.
    stage.apply(&namespace("own")).unwrap();
    let local = json!({"nodeLocal": {"storageClassName": "disks", "diskBudget": "1Gi"}});
    stage.apply(&kept("own", &local)).unwrap();
    stage.apply(&backend("own", "a", "model", 1)).unwrap();
    let kinds = "deployments,statefulsets";
    only(stage, "own", kinds, &["statefulset.apps/a-worker"]);
    relabeled(stage, "own", &["statefulset/a-worker"]);
    let both = ["deployment.apps/a-worker", "statefulset.apps/a-worker"];
    stage.apply(&kept("own", &json!({"emptyDir": {}}))).unwrap();
    only(stage, "own", kinds, &both);
    stage.serves("own", "deployment/a-worker").unwrap();
    only(stage, "own", kinds, &["deployment.apps/a-worker"]);
    stage.apply(&kept("own", &local)).unwrap();
    only(stage, "own", kinds, &both);
    stage.serves("own", "statefulset/a-worker").unwrap();
    only(stage, "own", kinds, &["statefulset.apps/a-worker"]);
    stage.apply(&cloud("own", "a")).unwrap();
    only(stage, "own", kinds, &[]);
    assert!(operator.terminate().unwrap().success());
}

pub(crate) fn volume(stage: &Stage) {
    let operator = stage.lead("volume").unwrap();
    room(stage, "volume");
    let claim = json!({"persistentVolumeClaim": {"size": "1Gi"}});
    stage.apply(&kept("volume", &claim)).unwrap();
    let claims = "persistentvolumeclaims";
    only(
        stage,
        "volume",
        claims,
        &["persistentvolumeclaim/model-models"],
    );
    relabeled(stage, "volume", &["persistentvolumeclaim/model-models"]);
    let one = || Ok(<[String; 1]>::try_from(names(stage, "volume", "jobs")).ok());
    let [first] = stage.until("a Job fetches", SOON, one).unwrap();
    // Other files want another Job, and the one for the old ones goes.
    let mut other = kept("volume", &claim);
    other["spec"]["artifacts"][0]["path"] = json!("other.gguf");
    stage.apply(&other).unwrap();
    let another = || {
        let [name] = one()?.unwrap_or_default();
        Ok((!name.is_empty() && name != first).then_some(()))
    };
    stage
        .until("another Job fetches, and it alone", SOON, another)
        .unwrap();
    let mut plain = other.clone();
    plain["spec"]["storage"] = json!({"emptyDir": {}});
    stage.apply(&plain).unwrap();
    only(stage, "volume", "jobs", &[]);
    // The plugin that protects claims takes its finalizer away with a controller that is not here.
    let asked = || {
        let line = String::from("delete persistentvolumeclaims volume/model-models");
        Ok(stage.wrote()?.contains(&line).then_some(()))
    };
    stage.until("its claim was deleted", SOON, asked).unwrap();
    assert!(operator.terminate().unwrap().success());
}

pub(crate) fn often(stage: &Stage) {
    let operator = stage.lead("often").unwrap();
    stage.floor().unwrap();
    room(stage, "often");
    let object = ["often", "sovereigntypolicy", "p"];
    for number in 1..=KEPT + 2 {
        let mut changed = policy("often", "p");
        changed["spec"]["constraints"] =
            json!({"licenses": {"deny": [format!("Proprietary-{number}")]}});
        stage.apply(&changed).unwrap();
        stage.condition(object, "Accepted", "True", SOON).unwrap();
    }
    let numbers = || {
        let found = stage.get(&["-n", "often", "controllerrevisions"])?;
        let mut all: Vec<u64> = found["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["revision"].as_u64())
            .collect();
        all.sort_unstable();
        Ok((all == [3, 4, 5, 6, 7]).then_some(()))
    };
    stage
        .until("the last five are kept", SOON, numbers)
        .unwrap();
    assert!(operator.terminate().unwrap().success());
}

/// An authority of which more than two thirds are over.
fn old_authority() -> (String, String) {
    let (key, now) = (KeyPair::generate().unwrap(), SystemTime::now());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now - Duration::from_mins(20)).into();
    params.not_after = (now + Duration::from_mins(5)).into();
    let certificate = params.self_signed(&key).unwrap().pem();
    (certificate, key.serialize_pem())
}

pub(crate) fn authority(stage: &Stage) {
    let (certificate, key) = old_authority();
    stage
        .kubectl(&[
            "delete",
            "secret",
            "-n",
            HOME,
            "mesh-ca",
            "--ignore-not-found",
        ])
        .unwrap();
    stage
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": HOME, "name": "mesh-ca"},
            "stringData": {"ca.crt": certificate, "ca.key": key}}))
        .unwrap();
    // A tenth of it, six seconds, both are trusted before the new one signs.
    let settings = stage.settings("authority").unwrap();
    let operator = stage
        .begin(&settings.env("MESH_AUTHORITY_SECONDS", "60"))
        .unwrap();
    operator.leads(SOON).unwrap();
    let data = || {
        let secret = stage.get(&["-n", HOME, "secret", "mesh-ca"])?;
        let data: BTreeMap<String, String> = serde_json::from_value(secret["data"].clone())?;
        Ok::<_, anyhow::Error>(data)
    };
    let before = data().unwrap();
    let next = || Ok(data()?.get("next.crt").cloned());
    let next = stage.until("another is made", SOON, next).unwrap();
    assert_eq!(data().unwrap()["ca.crt"], before["ca.crt"], "and waits");
    let signs = || Ok((data()?["ca.crt"] == next).then_some(()));
    stage
        .until("it signs once everybody has heard of it", SOON, signs)
        .unwrap();
    let after = data().unwrap();
    assert_eq!(
        after.get("previous.crt"),
        before.get("ca.crt"),
        "trusted still"
    );
    assert!(!after.contains_key("next.crt"));
    assert!(operator.terminate().unwrap().success());
    // The stories after this one have an authority with a life before it.
    stage
        .kubectl(&["delete", "secret", "-n", HOME, "mesh-ca"])
        .unwrap();
}
