//! Without an operator everything that runs goes on: gateways, workers and sidecars need none. One worker is killed
//! meanwhile, and those that ask for a sidecar are not started without.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::chapter::serve::{scale_to, two_workers, unharmed, workers};
use crate::chapter::sidecar::{self, BESIDE};
use crate::world::{HOME, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(2);
const OPERATOR: &str = "deployment/mesh-operator";
/// Requests of each caller while there is no operator.
const EACH: u64 = 10;
const CALLERS: usize = 2;

/// No operator runs as long as this lives.
struct Away<'w> {
    world: &'w World,
    replicas: u64,
}

impl<'w> Away<'w> {
    fn begin(world: &'w World) -> Self {
        let before = world.get(&["-n", HOME, OPERATOR]);
        let away = Self {
            world,
            replicas: before["spec"]["replicas"].as_u64().unwrap_or(1),
        };
        world.kubectl(&["scale", "-n", HOME, OPERATOR, "--replicas=0"]);
        until("the operator is gone", LIMIT, || {
            operators(world).is_empty().then_some(())
        });
        away
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        // Also after a failure: what follows needs it.
        let wanted = format!("--replicas={}", self.replicas);
        drop(
            self.world
                .try_kubectl(&["scale", "-n", HOME, OPERATOR, &wanted]),
        );
    }
}

fn operators(world: &World) -> Vec<Value> {
    let component = "app.kubernetes.io/component=operator";
    let pods = world.get(&["pods", "-n", HOME, "-l", component]);
    pods["items"].as_array().unwrap().clone()
}

/// One question each, directly and through a sidecar.
fn answered(world: &World) {
    let asked = json!({"model": "smollm2", "text": "Hello", "max_tokens": 4});
    for said in [world.ask(TEAM, &asked), sidecar::asked(world, "Hello")] {
        assert_eq!(said.status(), 200, "{said:?}");
        assert!(said.header("mesh-degraded").is_empty(), "{said:?}");
    }
}

fn restarts(pod: &Value) -> u64 {
    let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    count.unwrap_or_default()
}

pub(crate) fn without_operator(world: &World) {
    sidecar::application(world);
    two_workers(world);
    let away = Away::begin(world);
    let victim = workers(world).remove(0);
    let uid = text(&victim["metadata"]["uid"]);
    let killed = world.cluster.kill_pod(uid).unwrap();
    assert!(killed > 0, "no process of {uid} was found");
    answered(world);
    answered(world);
    let loads = [TEAM, BESIDE].map(|from| world.load_from(from, "smollm2", CALLERS, EACH));
    sidecar::without_webhook(world);
    until("the worker that was killed serves again", LIMIT, || {
        let mut all = workers(world).into_iter();
        all.find(|pod| pod["metadata"]["uid"] == uid && restarts(pod) > restarts(&victim))
    });
    for load in loads {
        unharmed(load, EACH * CALLERS as u64);
    }
    assert!(operators(world).is_empty(), "an operator came back");
    drop(away);
    world.wait(HOME, OPERATOR, "Available", LIMIT);
    sidecar::with_webhook(world);
    scale_to(world, 1);
}
