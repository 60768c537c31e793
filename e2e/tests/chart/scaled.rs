//! Who decides how many gateways there are, when several would: Helm 4 and 3 after somebody scaled.

use serde_json::Value;

use super::render::{of, pods};
use super::world::{HELM, HELM_3, World};

const HOME: &str = "mesh-system";
const AUTO: &str = "gateway.autoscaling.enabled=true";

fn replicas(world: &World) -> String {
    let path = "jsonpath={.spec.replicas}";
    world.kubectl(&["get", "-n", HOME, "deployment/mesh-gateway", "-o", path])
}

/// As an autoscaler does it, or a person.
fn scale(world: &World, replicas: &str) {
    let wanted = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", HOME, "deployment/mesh-gateway", &wanted]);
}

fn upgrade(world: &World, set: &str) -> Result<String, String> {
    world.helm("upgrade", "mesh", &["-n", HOME, "--set", set])
}

/// Once an autoscaler decides, no upgrade does; how many there are right after the upgrade that says so.
fn left_to_the_autoscaler(world: &World, at_first: &str) {
    let notes = upgrade(world, AUTO).unwrap();
    assert_eq!(replicas(world), at_first);
    assert!(notes.contains("kubectl get hpa"), "{notes}");
    world.kubectl(&["get", "-n", HOME, "hpa/mesh-gateway", "pdb/mesh-gateway"]);
    scale(world, "7");
    upgrade(world, &format!("{AUTO},gateway.log=debug")).unwrap();
    assert_eq!(replicas(world), "7");
    scale(world, "4");
    upgrade(world, AUTO).unwrap();
    assert_eq!(replicas(world), "4");
}

#[test]
fn what_an_autoscaler_decided_stays_when_the_release_is_upgraded() {
    let Some(world) = World::with("chartscaled", HELM) else {
        return;
    };
    world.namespace(HOME);
    world.helm("install", "mesh", &["-n", HOME]).unwrap();
    assert_eq!(replicas(&world), "2");
    // Without being told, Helm 4 sees that somebody else decided, and says so instead of taking it back.
    scale(&world, "5");
    let said = upgrade(&world, "gateway.log=debug").unwrap_err();
    assert!(said.contains(".spec.replicas"), "{said}");
    // Who scaled keeps what was decided when the chart stops saying a number: never a moment with one.
    left_to_the_autoscaler(&world, "5");
    // The same where the chart makes no autoscaler.
    upgrade(&world, "gateway.replicas=null").unwrap();
    assert_eq!(replicas(&world), "4");
    assert!(
        world
            .try_kubectl(&["get", "-n", HOME, "hpa/mesh-gateway"])
            .is_err()
    );

    let world = world.turned_to(HELM_3);
    let away = ["-n", HOME, "--no-hooks"];
    world.helm("uninstall", "mesh", &away).unwrap();
    world.helm("install", "mesh", &["-n", HOME]).unwrap();
    // It does not look who decided: an upgrade without being told takes it back, which is why it is to be told.
    scale(&world, "5");
    upgrade(&world, "gateway.replicas=3").unwrap();
    assert_eq!(replicas(&world), "3");
    // Nor whether anybody else decides: until the autoscaler has looked, there is one.
    left_to_the_autoscaler(&world, "1");
}

/// Who decides how many gateways there are, and who gets a node first.
pub(super) fn decided(set: &str, objects: &[Value]) {
    let scaler = of(objects, "HorizontalPodAutoscaler", "mesh-gateway");
    assert_eq!(
        scaler.is_some(),
        ["autoscaled", "everything"].contains(&set),
        "{set}"
    );
    let class = of(objects, "PriorityClass", "inference-mesh");
    assert_eq!(class.is_some(), scaler.is_some(), "{set}");
    let (Some(scaler), Some(class)) = (scaler, class) else {
        return;
    };
    let metric = &scaler["spec"]["metrics"][0];
    if set == "autoscaled" {
        assert_eq!(metric["resource"]["target"]["averageValue"], "500m");
        assert_eq!(class["value"], 1_000_000);
        for (name, pod) in pods(objects) {
            assert_eq!(pod["priorityClassName"], "inference-mesh", "{name}");
        }
        let floor = of(objects, "ConfigMap", "mesh-bootstrap").unwrap()["data"].to_string();
        assert!(
            floor.contains("priorityClassName: inference-mesh"),
            "{floor}"
        );
    } else {
        assert_eq!(metric["external"]["metric"]["name"], "queue");
        assert_eq!(
            scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"],
            60
        );
        assert_eq!(class["preemptionPolicy"], "Never");
    }
}
