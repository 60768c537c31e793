//! How a cloud does, as the gateways see it, in the status of its backend.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::ask::{self, CLOUD, CLOUDS};
use crate::chapter::install::text;
use crate::world::{HOME, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(2);

fn backend(world: &World) -> Value {
    world.get(&["-n", HOME, "inferencebackend", CLOUD])
}

/// Asks until the status says this; gives the health then.
fn asked_until(world: &World, state: &str) -> Value {
    until(&format!("the cloud is {state}"), LIMIT, || {
        // The floor answers where the cloud does not.
        let request = json!({"model": "big", "text": "Say something public.", "max_tokens": 1});
        assert_eq!(world.ask(TEAM, &request).status(), 200);
        let health = backend(world)["status"]["health"].clone();
        (health["state"] == state).then_some(health)
    })
}

pub(crate) fn of_a_cloud(world: &World) {
    ask::with_cloud(world);
    let well = asked_until(world, "Healthy");
    assert!(well["reason"].is_null(), "{well}");

    world.kubectl(&["delete", "pod", "-n", CLOUDS, "cloud", "--now"]);
    let gone = asked_until(world, "Unhealthy");
    assert_eq!(gone["reason"], "Failures", "{gone}");
    let listed = world.kubectl(&["get", "inferencebackend", "-n", HOME, CLOUD]);
    assert!(listed.contains("Unhealthy"), "{listed}");
    world.wait(HOME, &format!("inferencebackend/{CLOUD}"), "Ready", LIMIT);

    ask::cloud_pod(world);
    let back = asked_until(world, "Healthy");
    assert!(
        text(&back["since"]) >= text(&gone["since"]),
        "{back} {gone}"
    );
    let selector = format!("--field-selector=involvedObject.name={CLOUD}");
    until("events tell both", LIMIT, || {
        let events = world.get(&["events", "-n", HOME, &selector]);
        let all = events["items"].as_array()?.iter();
        let reasons: Vec<&str> = all.map(|event| text(&event["reason"])).collect();
        ["Unhealthy", "Healthy"]
            .iter()
            .all(|reason| reasons.contains(reason))
            .then_some(())
    });
}
