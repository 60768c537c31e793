//! Tokens that are taken back, with a gateway that asks the API server about them and one that does not.

use std::time::{Duration, Instant};

use mesh_e2e::part::token;
use serde_json::json;

use super::{LONG, SOON, TEAM, World, account};

/// What the gateway's answers may be old.
const AGE: &str = "1s";
/// The API server keeps its own for ten seconds; the rest is for a busy machine.
const TAKEN_BACK: Duration = Duration::from_secs(30);

pub(super) fn taken_back(world: &World) {
    let stage = &world.stage;
    let operator = world.operator("review", &[]);
    let asking = world.gateway(&operator, "asking", &[("MESH_TOKEN_REVIEW", AGE)]);
    let offline = world.gateway(&operator, "offline", &[]);
    account(stage, TEAM, "leaver").unwrap();
    account(stage, TEAM, "runner").unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": TEAM, "name": "run"},
        "spec": {"serviceAccountName": "runner", "automountServiceAccountToken": false, "containers": [{"name": "a", "image": "none"}]}});
    stage.apply(&pod).unwrap();
    let of_account = token(stage, TEAM, "leaver", None).unwrap();
    let of_pod = token(stage, TEAM, "runner", Some("run")).unwrap();
    for one in [&of_account, &of_pod] {
        asking.answers(world, one, 200, SOON);
        offline.answers(world, one, 200, SOON);
    }
    asking.answers(world, "no.token.atall", 401, SOON);
    for (what, one) in [("serviceaccount/leaver", &of_account), ("pod/run", &of_pod)] {
        let since = Instant::now();
        stage
            .kubectl(&["delete", "-n", TEAM, what, "--force", "--grace-period=0"])
            .unwrap();
        asking.answers(world, one, 401, TAKEN_BACK);
        println!(
            "  {what}: refused after {:.1} s",
            since.elapsed().as_secs_f32()
        );
        // Its signature still holds, and nobody else is told.
        offline.answers(world, one, 200, Duration::ZERO);
    }
    let other = token(stage, TEAM, "app", None).unwrap();
    asking.answers(world, &other, 200, SOON);
    let counted = |outcome: &str| {
        let name = format!("mesh_gateway_token_reviews_total{{outcome=\"{outcome}\"}}");
        (
            asking.part.metric(&name).unwrap(),
            offline.part.metric(&name).unwrap(),
        )
    };
    assert!(counted("holds").0.is_some_and(|number| number >= 3.0));
    assert!(counted("taken_back").0.is_some_and(|number| number >= 2.0));
    assert_eq!(counted("holds").1, None, "who does not ask counts nothing");
    assert!(operator.terminate().unwrap().success());
}

pub(super) fn outage(world: &World) {
    let stage = &world.stage;
    stage.ours();
    let operator = world.operator("outage", &[]);
    let asking = world.gateway(&operator, "asking", &[("MESH_TOKEN_REVIEW", AGE)]);
    let patient = world.gateway(&operator, "patient", &[("MESH_TOKEN_REVIEW", "5m")]);
    let offline = world.gateway(&operator, "offline", &[]);
    let (known, new) = (
        token(stage, TEAM, "app", None).unwrap(),
        token(stage, TEAM, "other", None).unwrap(),
    );
    for gateway in [&asking, &patient, &offline] {
        gateway.answers(world, &known, 200, SOON);
    }
    stage.cluster.kill("kube-apiserver").unwrap();
    asking.answers(world, &known, 503, SOON);
    let refused = asking.models(&known).unwrap();
    assert_eq!(
        refused.header("retry-after"),
        Some("1"),
        "{}",
        refused.text()
    );
    assert!(refused.text().contains("still holds"), "{}", refused.text());
    patient.answers(world, &known, 200, Duration::ZERO);
    patient.answers(world, &new, 503, Duration::ZERO);
    for token in [&known, &new] {
        offline.answers(world, token, 200, Duration::ZERO);
    }
    stage.cluster.restart("kube-apiserver").unwrap();
    for gateway in [&asking, &patient] {
        gateway.answers(world, &new, 200, LONG);
    }
    operator.kill();
}
