//! Backends that are other meshes: a class, a reason, and nothing made for them.

use mesh_e2e::operator::HOME;
use mesh_e2e::stage::{Stage, backend, cloud};
use serde_json::{Value, json};

use crate::{SOON, complete, events, room};

const KEY: &str = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";
const REASON: &str = "PeerTrafficNotServed";

fn peer(namespace: &str, name: &str, address: &str, trust: &str) -> Value {
    let mut object = cloud(namespace, name);
    let peer = json!({"address": address, "identity": KEY, "trust": trust});
    object["spec"] = json!({"peer": peer, "models": [{"name": "theirs"}]});
    object
}

/// The status once it says this class.
fn classed(stage: &Stage, namespace: &str, name: &str, class: &str) -> Value {
    let backend = format!("inferencebackend/{name}");
    let what = format!("{namespace}/{name} is a {class}");
    let judged = || {
        let found = stage.get(&["-n", namespace, &backend])?;
        let status = found["status"].clone();
        let current = status["observedGeneration"] == found["metadata"]["generation"];
        Ok((current && status["sovereignty"]["class"] == class).then_some(status))
    };
    stage.until(&what, SOON, judged).unwrap()
}

/// Status and reason of a condition.
fn said<'s>(status: &'s Value, type_: &str) -> (&'s Value, &'s Value) {
    let all = status["conditions"].as_array().unwrap();
    let one = all.iter().find(|one| one["type"] == type_).unwrap();
    (&one["status"], &one["reason"])
}

pub(crate) fn judged(stage: &Stage) {
    let operator = stage.lead("peers").unwrap();
    room(stage, "peers");
    let address = "mesh.partner.example:8444";
    stage
        .apply(&peer(HOME, "partner", address, "Invited"))
        .unwrap();
    stage
        .apply(&peer("peers", "anybody", address, "Open"))
        .unwrap();
    // Where no admission policy stands, as here, an invitation of a tenant is read and does not count.
    stage
        .apply(&peer("peers", "friend", address, "Invited"))
        .unwrap();
    let home = classed(stage, HOME, "partner", "TrustedSwarm");
    let (no, yes, reason) = (json!("False"), json!("True"), json!(REASON));
    assert_eq!(said(&home, "Ready"), (&no, &reason));
    assert_eq!(said(&home, "Stalled"), (&yes, &reason));
    assert_eq!(said(&home, "Reconciling").0, &no, "nothing is at work");
    assert_eq!(home["sovereignty"]["score"], "0.7");
    let evidence = home["sovereignty"]["evidence"].to_string();
    for fact in [
        "invited by the owners",
        address,
        KEY,
        "not proven by anybody yet",
    ] {
        assert!(evidence.contains(fact), "{fact}: {evidence}");
    }
    assert_eq!(
        (&home["health"]["state"], &home["health"]["reason"]),
        (&json!("Unknown"), &reason)
    );
    for name in ["anybody", "friend"] {
        let status = classed(stage, "peers", name, "OpenSwarm");
        assert_eq!(status["sovereignty"]["score"], "0.5");
        assert_eq!(said(&status, "Ready"), (&no, &reason));
    }
    let table = stage
        .kubectl(&["get", "ib", "-n", HOME, "partner"])
        .unwrap();
    for word in ["TrustedSwarm", "Unknown", "theirs", "False", REASON] {
        assert!(table.contains(word), "{word}: {table}");
    }
    stage.settled(&operator, SOON).unwrap();
    assert_eq!(stage.made("peers").unwrap(), Vec::<String>::new());
    let told = events(stage, HOME, "InferenceBackend");
    let told: Vec<&[String; 3]> = told.iter().filter(|one| one[1] == REASON).collect();
    assert!(
        told.len() == 1 && told[0][0] == "Warning" && told[0][2].contains("never asked"),
        "{told:?}"
    );
    itself(stage);
    changes(stage);
    stage
        .kubectl(&["delete", "ib", "-n", HOME, "partner"])
        .unwrap();
    assert!(operator.terminate().unwrap().success());
}

/// The gateway's own machine is no peer.
fn itself(stage: &Stage) {
    stage
        .apply(&peer("peers", "anybody", "127.0.0.1:8443", "Open"))
        .unwrap();
    let object = ["peers", "inferencebackend", "anybody"];
    let named = || {
        let ready = stage.condition(object, "Ready", "False", SOON)?;
        Ok((ready["reason"] == "NotInCluster").then_some(()))
    };
    stage.until("its address is named", SOON, named).unwrap();
    stage.condition(object, "Stalled", "True", SOON).unwrap();
}

/// What had pods and becomes a peer keeps none, and the other way round it gets its own.
fn changes(stage: &Stage) {
    stage
        .apply(&backend("peers", "friend", "model", 1))
        .unwrap();
    complete(stage, "peers", "friend");
    stage
        .apply(&peer(
            "peers",
            "friend",
            "mesh.partner.example:8444",
            "Open",
        ))
        .unwrap();
    classed(stage, "peers", "friend", "OpenSwarm");
    let gone = || Ok(stage.made("peers")?.is_empty().then_some(()));
    stage.until("its children are gone", SOON, gone).unwrap();
    stage.apply(&cloud("peers", "friend")).unwrap();
    let object = ["peers", "inferencebackend", "friend"];
    stage.condition(object, "Ready", "True", SOON).unwrap();
    stage.condition(object, "Stalled", "False", SOON).unwrap();
    assert_eq!(stage.made("peers").unwrap(), Vec::<String>::new());
}
