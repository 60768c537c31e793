//! No gateway answers: the floor does, if it may, and says so; else nobody, and that is said too.

use mesh_core::{PrivacyLevel, SovereigntyClass};
use serde_json::{Value, json};

use crate::peer::{Act, Peer};
use crate::world::{Mesh, Pod, Running, World, chat, floor_at, line, policy};

#[tokio::test]
async fn a_dead_gateway_is_replaced_by_the_floor_until_it_is_back() {
    let (world, running) = World::new()
        .await
        .told(&policy(PrivacyLevel::Internal))
        .await;
    let World {
        mesh,
        pod,
        gateway,
        floor,
    } = world;
    let address = gateway.address;
    assert!(gateway.kill().await.is_empty());
    let mut body = chat("hello");
    body["model"] = json!("large");
    let answer = running
        .ask(&[("authorization", "Bearer sk-canary")], &body)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for (name, value) in [
        ("mesh-backend", "floor"),
        ("mesh-model", "smollm2"),
        ("mesh-sovereignty-class", "OwnHardware"),
        ("mesh-privacy", "internal"),
        ("mesh-degraded", "floor_only, model_substituted"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(
        answer
            .header("mesh-decision")
            .is_some_and(|id| id.len() == 26)
    );
    let arrived = floor.arrived();
    assert_eq!(arrived.len(), 1);
    let bearer = format!("Bearer {}", pod.token);
    assert_eq!(arrived[0].header("authorization"), Some(bearer.as_str()));
    assert_eq!(arrived[0].header("mesh-overflow"), Some("trim-history"));
    assert!(!format!("{arrived:?}").contains("canary"));
    let sent: Value = serde_json::from_str(&arrived[0].body).expect("JSON");
    assert_eq!(sent["model"], "smollm2");
    assert_eq!(sent["messages"], body["messages"]);
    let names = running.get("/v1/models").await;
    assert_eq!(names.header("mesh-degraded"), Some("floor_only"));
    assert_eq!(names.json()["data"][2]["id"], "smollm2");

    let back = Peer::at(address, &mesh.gateway()).await;
    back.push(&line(&policy(PrivacyLevel::Internal)));
    running.until(|state| state["gateway"] == "answers").await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!((answer.status, answer.header("mesh-degraded")), (200, None));
    assert_eq!(back.arrived().len(), 1);
    assert_eq!(floor.arrived().len(), 1);
}

#[tokio::test]
async fn what_a_gateway_may_have_begun_is_not_asked_of_a_second_one_and_the_floor_answers() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    world.gateway.then(Act::Hangup);
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-degraded")),
        (200, Some("floor_only"))
    );
    let counts = || (world.gateway.arrived().len(), world.floor.arrived().len());
    assert_eq!(counts(), (1, 1), "a cloud is not paid twice");
    // The next one is asked as ever.
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!((answer.status, answer.header("mesh-degraded")), (200, None));
    assert_eq!(counts(), (2, 1));
    // What costs nothing is asked again.
    world.gateway.then(Act::Hangup);
    assert_eq!(running.get("/v1/models").await.status, 200);
    assert_eq!(counts(), (4, 1));
    // Not a gateway's words: somebody between us says that there is none.
    world.gateway.then(Act::json(503, "{}"));
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!((answer.status, answer.header("mesh-degraded")), (200, None));
    assert_eq!(counts(), (6, 1), "another replica may answer");
    world.gateway.then(Act::json(504, "{}"));
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(answer.header("mesh-degraded"), Some("floor_only"));
    assert_eq!(counts(), (7, 2));
}

#[tokio::test]
async fn a_gateway_that_took_a_request_and_says_nothing_is_waited_for_as_long_as_is_allowed_and_nobody_else_is_asked()
 {
    let world = World::new().await;
    let mut hasty = policy(PrivacyLevel::Public);
    hasty.deadline_ms = 200;
    world.gateway.push(&line(&hasty));
    let more = ["--answer-timeout", "1"];
    let running = Running::start(&world.pod, world.gateway.address, &more).await;
    let running = running.told().await;
    world.gateway.then(Act::Silence);
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-reason")),
        (503, Some("no_backend"))
    );
    assert!(
        answer.text.contains("did not answer in time"),
        "{}",
        answer.text
    );
    assert!(answer.header("retry-after").is_some());
    assert!(world.floor.arrived().is_empty(), "it may be at work still");
    assert_eq!(world.gateway.arrived().len(), 1);
    // One slow request is no gateway that is gone.
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!((answer.status, answer.header("mesh-degraded")), (200, None));
}

#[tokio::test]
async fn a_gateway_that_hangs_is_not_asked_until_it_tells_the_policy_again() {
    let world = World::new().await;
    let told = line(&policy(PrivacyLevel::Public));
    world.pod.keep_snapshot(&told);
    world.gateway.push(&told);
    world.gateway.hang(true);
    let running = Running::start(&world.pod, world.gateway.address, &[]).await;
    let running = running.knows_a_floor().await;
    running.until(|state| state["gateway"] == "rests").await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-degraded")),
        (200, Some("floor_only"))
    );
    assert!(world.gateway.arrived().is_empty());
    world.gateway.hang(false);
    running.until(|state| state["gateway"] == "answers").await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!((answer.status, answer.header("mesh-degraded")), (200, None));
}

/// A gateway, a floor on rented hardware by the word of `mesh-trust`, and a pod that knows both.
async fn beside_a_rented_floor() -> (Peer, Peer, Pod) {
    let mesh = Mesh::new();
    let (gateway, floor) = (
        Peer::start(&mesh.gateway()).await,
        Peer::start(&mesh.floor()).await,
    );
    let mut rented = floor_at(floor.address);
    rented.class = SovereigntyClass::RentedHardware;
    let pod = Pod::new(&mesh, &[rented]);
    (gateway, floor, pod)
}

#[tokio::test]
async fn a_floor_that_mesh_trust_no_longer_thinks_so_well_of_is_believed_no_more() {
    let (gateway, floor, pod) = beside_a_rented_floor().await;
    let mut pushed = policy(PrivacyLevel::Public);
    pushed.floor = Some(floor_at(floor.address));
    // Told by the file first, so that both are known in the end.
    let running = Running::start(&pod, gateway.address, &[]).await;
    let running = running.knows_a_floor().await;
    gateway.push(&line(&pushed));
    let running = running.told().await;
    gateway.kill().await;
    let answer = running.ask(&[], &chat("Charge 4111 1111 1111 1111")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-reason")),
        (403, Some("policy_denied"))
    );
    assert!(floor.arrived().is_empty());
}

#[tokio::test]
async fn without_a_snapshot_everything_is_restricted_and_only_the_floor_is_asked() {
    let world = World::new().await;
    let running = Running::start(&world.pod, world.gateway.address, &[]).await;
    let running = running.knows_a_floor().await;
    let answer = running
        .ask(&[("mesh-privacy", "public")], &chat("hello"))
        .await;
    assert_eq!(answer.header("mesh-backend"), Some("floor"));
    assert_eq!(answer.header("mesh-privacy"), Some("restricted"));
    assert!(world.gateway.arrived().is_empty(), "though it is there");
    // What asks no model is the gateway's.
    assert_eq!(running.get("/v1/models").await.status, 200);
    assert_eq!(world.gateway.arrived().len(), 1);
}

#[tokio::test]
async fn a_floor_whose_class_does_not_admit_the_level_is_not_asked() {
    let (gateway, floor, pod) = beside_a_rented_floor().await;
    gateway.push(&line(&policy(PrivacyLevel::Internal)));
    let running = Running::start(&pod, gateway.address, &[])
        .await
        .told()
        .await;
    gateway.kill().await;
    let answer = running.ask(&[], &chat("Charge 4111 1111 1111 1111")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-reason")),
        (403, Some("policy_denied"))
    );
    assert_eq!(
        answer.json()["error"]["constraints"],
        json!(["minimum_class"])
    );
    let mut local = chat("hello");
    local["model"] = json!("local");
    let answer = running.ask(&[], &local).await;
    assert_eq!(answer.json()["error"]["constraints"], json!(["local_only"]));
    assert!(floor.arrived().is_empty());
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(
        answer.header("mesh-sovereignty-class"),
        Some("RentedHardware")
    );
}

#[tokio::test]
async fn what_the_floor_cannot_do_is_refused_and_what_can_be_left_out_is() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    world.gateway.kill().await;
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let mut body = chat("hello");
    body["tools"] = tool;
    let answer = running.ask(&[], &body).await;
    assert_eq!(
        answer.header("mesh-degraded"),
        Some("floor_only, tools_dropped")
    );
    assert!(!world.floor.arrived()[0].body.contains("tools"));
    body["tool_choice"] = json!("required");
    let answer = running.ask(&[], &body).await;
    assert_eq!(
        (answer.status, answer.header("mesh-reason")),
        (503, Some("no_backend"))
    );
    let mut schema = chat("hello");
    schema["response_format"] = json!({"type": "json_object"});
    assert_eq!(running.ask(&[], &schema).await.status, 503);
    assert_eq!(world.floor.arrived().len(), 1);
}

#[tokio::test]
async fn what_the_floor_refuses_is_told_in_its_words_or_in_ours() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    world.gateway.kill().await;
    let error = json!({"error": {"message": "too long", "type": "invalid_request_error", "param": null, "code": "context_length_exceeded"}});
    for (status, body, seen, code) in [
        (400, error, 400, "context_length_exceeded"),
        (429, json!({}), 429, "floor_busy"),
        (401, json!({}), 503, "no_backend"),
        (500, json!({}), 503, "no_backend"),
    ] {
        world.floor.then(Act::json(status, &body.to_string()));
        let answer = running.ask(&[], &chat("hello")).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (seen, &json!(code))
        );
        assert!(!answer.text.contains("localhost"), "no address is told");
    }
}

#[tokio::test]
async fn a_floor_that_does_not_prove_its_account_is_sent_nothing_and_nobody_answers() {
    let mesh = Mesh::new();
    let gateway = Peer::start(&mesh.gateway()).await;
    // Of this mesh, by the same host name, but the account of somebody else.
    let impostor = Peer::start(&mesh.member("team", "floor-worker", &["localhost"])).await;
    let pod = Pod::new(&mesh, &[floor_at(impostor.address)]);
    gateway.push(&line(&policy(PrivacyLevel::Public)));
    let running = Running::start(&pod, gateway.address, &[])
        .await
        .told()
        .await;
    gateway.kill().await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-reason")),
        (503, Some("no_backend"))
    );
    assert!(impostor.arrived().is_empty());
}

#[tokio::test]
async fn with_everything_dead_there_is_an_error_that_says_when_to_come_back() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    world.gateway.kill().await;
    world.floor.kill().await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("mesh-reason"), Some("no_backend"));
    assert!(answer.header("retry-after").is_some());
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("no_backend"), &json!("service_unavailable_error"))
    );
    assert_eq!(running.get("/mesh/v1/backends").await.status, 503);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let world = World::new().await;
    std::fs::remove_file(world.pod.path("token")).expect("removed");
    let running = Running::start(&world.pod, world.gateway.address, &[]).await;
    let running = running.knows_a_floor().await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(
        (answer.status, answer.header("mesh-reason")),
        (503, Some("no_backend"))
    );
    assert!(world.gateway.arrived().is_empty() && world.floor.arrived().is_empty());
}
