//! Another mesh is known and shown, and nothing is sent to it: no request, no probe, no drill.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use http::StatusCode;
use mesh_testkit::upstream::{Behavior, ScriptedUpstream};
use serde_json::{Value, json};

use crate::world::{FLOOR_SAYS, Reply, World, ask, world};

const UNSERVED: &str = "not supported yet: requests are not sent to other meshes";

/// Where a peer would listen; whoever connects is seen.
struct Listening(TcpListener);

impl Listening {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        Self(listener)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// Whoever has connected would wait here to be accepted.
    fn untouched(&self) {
        let waiting = self.0.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(waiting, Err(ErrorKind::WouldBlock), "somebody connected");
    }
}

fn named(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}

fn candidate(decision: &Value, backend: &str) -> Value {
    let candidates = decision["candidates"].as_array().expect("candidates");
    let found = candidates.iter().find(|one| one["backend"] == backend);
    found.expect("the backend is named").clone()
}

async fn explained(world: &World, body: Value) -> Value {
    let said = world.post("/mesh/v1/explain?surface=chat", body, &[]).await;
    assert_eq!(said.status, StatusCode::OK);
    said.json()
}

fn served(reply: &Reply) -> (u16, &str, &str) {
    (
        reply.status.as_u16(),
        reply.header("mesh-backend"),
        reply.header("mesh-degraded"),
    )
}

#[tokio::test]
async fn everybody_else_answers_and_explain_names_what_keeps_the_peer_out() {
    let partner = Listening::start();
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world()
        .peer("partner", partner.address())
        .cloud("cloud", &cloud, 0.5)
        .floor()
        .start();
    let answer = world.chat(ask("Hello")).await;
    assert_eq!(served(&answer), (200, "cloud", ""));
    let decision = explained(&world, ask("Hello")).await;
    let excluded = candidate(&decision, "partner");
    assert_eq!(excluded["class"], "TrustedSwarm");
    assert_eq!(
        excluded["refusal"],
        json!({"constraint": "peer_traffic", "message": UNSERVED})
    );
    assert!(excluded["score"].is_null() && excluded["unavailable"].is_null());
    // The cloud fails: the floor, and not the better class beside it.
    cloud.set(Behavior::status(500));
    let answer = world.chat(ask("Hello")).await;
    assert_eq!(served(&answer), (200, "floor", "floor_only"));
    // By its own name: what was asked for is not there, and somebody stands in.
    let answer = world.chat(named("theirs")).await;
    assert_eq!(served(&answer), (200, "floor", "model_substituted"));
    assert_eq!(answer.text(), FLOOR_SAYS);
    partner.untouched();
}

#[tokio::test]
async fn where_only_a_peer_would_serve_the_answer_says_what_is_missing() {
    let partner = Listening::start();
    let world = world().peer("partner", partner.address()).start();
    for model in ["auto", "theirs"] {
        let answer = world.chat(named(model)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{model}");
        assert_eq!(answer.header("mesh-reason"), "no_backend");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(UNSERVED), "{message}");
    }
    assert_eq!(
        world.metric("mesh_gateway_refusals_total{constraint=\"peer_traffic\"}"),
        Some(2.0)
    );
    partner.untouched();
}

#[tokio::test]
async fn a_peer_is_shown_with_its_class_and_why_it_is_not_asked_and_its_names_are_not_offered() {
    let partner = Listening::start();
    let world = world().peer("partner", partner.address()).floor().start();
    let shown = world.get("/mesh/v1/backends").await.json();
    let backends = shown["backends"].as_array().expect("backends");
    let one = backends.iter().find(|one| one["backend"] == "partner");
    let one = one.expect("it is shown");
    assert_eq!(
        (&one["class"], &one["available"], &one["floor"]),
        (&json!("TrustedSwarm"), &json!(false), &json!(false))
    );
    let health = &one["models"][0]["health"];
    assert_eq!(
        (&health["state"], &health["reason"]),
        (&json!("not_ready"), &json!(UNSERVED))
    );
    let evidence = one["evidence"].to_string();
    assert!(evidence.contains("not proven by anybody yet"), "{evidence}");
    let models = world.get("/v1/models").await.json().to_string();
    assert!(
        models.contains("smollm2") && !models.contains("theirs"),
        "{models}"
    );
    let standings = world.plane.standings();
    let told = standings.backends.iter().find(|one| one.name == "partner");
    assert_eq!(
        serde_json::to_value(told).expect("JSON"),
        json!({"namespace": "default", "name": "partner", "state": "Unknown", "reason": "PeerTrafficNotServed"})
    );
    // It is declared, and whether it is up is nobody's knowledge: no alert may come of it.
    let metrics = world.metrics();
    let about = |name: &str| {
        let line = format!("mesh_gateway_{name}{{backend=\"partner\"");
        metrics.lines().any(|found| found.starts_with(&line))
    };
    assert!(about("backend_info") && !about("backend_up"), "{metrics}");
    assert_eq!(world.metric("mesh_gateway_floor_endpoints"), Some(1.0));
    partner.untouched();
}

#[tokio::test(start_paused = true)]
async fn no_probe_and_no_drill_goes_to_a_peer_that_a_policy_names_as_its_floor() {
    let partner = Listening::start();
    let world = world()
        .peer("floor", partner.address())
        .named_floor()
        .drilled(Duration::from_secs(1))
        .start();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let answer = world.chat(ask("Hello")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.metric("mesh_gateway_floor_ready"), Some(0.0));
    assert_eq!(world.metric("mesh_gateway_floor_endpoints"), Some(0.0));
    let failed = "mesh_gateway_floor_drills_total{backend=\"floor\",outcome=\"failed\"}";
    assert!(world.metric(failed) > Some(1.0), "{}", world.metrics());
    partner.untouched();
}
