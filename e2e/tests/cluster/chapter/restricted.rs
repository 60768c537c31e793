//! Restricted text on its three ways to a cloud: through the sidecar, by a gateway, and past both. What the cloud
//! got is read in its log, and counted as packets behind the policy engine; both are shown to see what does get there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::application::Said;
use crate::chapter::ask::{CLOUD, cloud_log};
use crate::chapter::confine::{CLOSED, direct};
use crate::world::{HOME, World, until};

const LIMIT: Duration = Duration::from_mins(1);
const PUBLIC: &str = "What everybody may know, also in a confined namespace.";
const RESTRICTED: &str = "Charge 4111 1111 1111 1111 in the name of the confined.";

/// What a request says of its way: with the pod's environment it goes through the sidecar.
fn ways() -> [(&'static str, Value); 2] {
    let gateway = format!("http://mesh-gateway.{HOME}.svc:8080/v1");
    [
        ("sidecar", json!({"token": "any"})),
        ("gateway", json!({"base_url": gateway})),
    ]
}

fn ask(world: &World, way: &Value, request: &Value) -> Said {
    let mut asked = way.clone();
    let parts = request.as_object().unwrap();
    for (key, value) in parts {
        asked[key] = value.clone();
    }
    world.ask(CLOSED, &asked)
}

/// What is public is answered by the cloud, which is counted.
fn public(world: &World, (name, way): &(&str, Value)) {
    let counted = || world.cluster.counted_packets().unwrap();
    let before = counted();
    let request = json!({"model": "big", "text": PUBLIC});
    until(
        &format!("public text goes out by the {name}"),
        LIMIT,
        || {
            let said = ask(world, way, &request);
            assert_eq!(said.status(), 200, "{said:?}");
            (said.header("mesh-backend") == CLOUD).then_some(())
        },
    );
    let after = counted();
    assert!(
        after.data > before.data,
        "the counter does not see what the {name} sends: {after:?}"
    );
    assert_eq!(after.of_pod, 0, "the mesh sends for the application");
}

/// The application has address `app`, the cloud `cloud`.
pub(crate) fn by_three_ways(world: &World, app: &str, cloud: &str) {
    let count = || world.cluster.count_packets(app, cloud).unwrap();
    count();
    for way in &ways() {
        public(world, way);
    }
    // From zero.
    count();
    for (name, way) in &ways() {
        for (model, stream) in [("auto", false), ("big", true)] {
            let request =
                json!({"model": model, "text": RESTRICTED, "stream": stream, "max_tokens": 4});
            let said = ask(world, way, &request);
            assert_ne!(said.header("mesh-backend"), CLOUD, "{name}: {said:?}");
            let kept = said.status() == 200 && said.header("mesh-privacy") == "restricted";
            assert!(kept || said.status() == 403, "{name}: {said:?}");
            // What is left to choose is answered, at home.
            assert!(kept || model == "big", "{name}: {said:?}");
        }
    }
    assert!(!direct(world, cloud, RESTRICTED));
    let counted = world.cluster.counted_packets().unwrap();
    assert_eq!(
        (counted.of_pod, counted.data),
        (0, 0),
        "packets left for the cloud"
    );
    // And it was counted all the time.
    public(world, &ways()[1]);
    let log = cloud_log(world);
    assert!(log.contains(PUBLIC), "{log}");
    assert!(
        !log.contains("4111") && !log.contains("the confined."),
        "{log}"
    );
}
