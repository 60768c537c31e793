//! What `ownership.networks` makes of addresses that pods and Services have.

use serde_json::{Value, json};

use super::{HOME, LONG, SOON, World};

fn external(name: &str, address: &str) -> Value {
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": HOME, "name": name},
        "spec": {"external": {"url": format!("http://{address}:8000/v1"), "insecurePlaintext": true}, "models": [{"name": name}]}})
}

fn class(world: &World, name: &str, wanted: &str) -> String {
    let stage = &world.stage;
    stage
        .until(&format!("{name} is {wanted}"), SOON, || {
            let object = stage.get(&["-n", HOME, "inferencebackend", name])?;
            let found = &object["status"]["sovereignty"];
            anyhow::ensure!(found["class"] == wanted, "it is {found}");
            Ok(Some(found["evidence"].to_string()))
        })
        .unwrap()
}

pub(super) fn are_nobodys(world: &World) {
    let stage = &world.stage;
    let stated = [("MESH_CLUSTER_CIDRS", "10.2.0.0/16")];
    let operator = world.operator("networks", &stated);
    let policy = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy",
        "metadata": {"namespace": HOME, "name": "networks"}, "spec": {"ownership": {"networks": ["10.0.0.0/8"]}}});
    stage.apply(&policy).unwrap();
    // The API server's own network of Services is 10.0.0.0/24.
    for (name, address) in [
        ("server", "10.1.0.5"),
        ("service", "10.0.0.7"),
        ("stated", "10.2.0.5"),
    ] {
        stage.apply(&external(name, address)).unwrap();
    }
    class(world, "server", "OwnHardware");
    for name in ["service", "stated"] {
        let evidence = class(world, name, "CloudRetained");
        assert!(evidence.contains("pods or Services"), "{evidence}");
    }
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "joined"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}});
    stage.apply(&node).unwrap();
    class(world, "server", "CloudRetained");
    stage.kubectl(&["delete", "node", "joined"]).unwrap();
    class(world, "server", "OwnHardware");
    for name in ["server", "service", "stated"] {
        stage
            .kubectl(&["delete", "-n", HOME, "inferencebackend", name])
            .unwrap();
    }
    stage
        .kubectl(&["delete", "-n", HOME, "sovereigntypolicy", "networks"])
        .unwrap();
    stage.settled(&operator, LONG).unwrap();
    assert!(operator.terminate().unwrap().success());
}
