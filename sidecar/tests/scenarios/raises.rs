//! What reaches the gateway: the pod's credential instead of the application's, and a level that is only raised.

use mesh_core::PrivacyLevel;
use serde_json::json;

use crate::peer::{Act, Peer};
use crate::world::{Pod, Running, World, chat, floor_at, line, policy};

#[tokio::test]
async fn the_gateway_sees_the_pod_and_the_application_sees_the_gateway() {
    let (world, running) = World::new()
        .await
        .told(&policy(PrivacyLevel::Internal))
        .await;
    world.gateway.then(Act::Answer(
        200,
        vec![
            ("content-type", String::from("application/json")),
            ("mesh-backend", String::from("cloud")),
            ("mesh-decision", String::from("01")),
            ("x-request-id", String::from("02")),
        ],
        String::from("{\"said\":\"hello\"}"),
    ));
    let body = chat("hello");
    let answer = running
        .ask(
            &[
                ("authorization", "Bearer sk-canary"),
                ("api-key", "canary"),
                ("x-api-key", "canary"),
                ("cookie", "canary"),
                ("mesh-task", "code"),
            ],
            &body,
        )
        .await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, "{\"said\":\"hello\"}")
    );
    for (name, value) in [
        ("mesh-backend", "cloud"),
        ("mesh-decision", "01"),
        ("x-request-id", "02"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    assert_eq!(answer.header("mesh-degraded"), None);
    let arrived = world.gateway.arrived();
    assert_eq!(arrived.len(), 1);
    let bearer = format!("Bearer {}", world.pod.token);
    assert_eq!(arrived[0].header("authorization"), Some(bearer.as_str()));
    assert_eq!(arrived[0].header("mesh-privacy"), Some("internal"));
    assert_eq!(arrived[0].header("mesh-task"), Some("code"));
    assert_eq!(arrived[0].body, body.to_string(), "not one byte is changed");
    assert!(!format!("{arrived:?}").contains("canary"), "{arrived:?}");
    assert!(world.floor.arrived().is_empty());
}

#[tokio::test]
async fn the_level_is_the_highest_that_anybody_says() {
    let (world, running) = World::new()
        .await
        .told(&policy(PrivacyLevel::Internal))
        .await;
    let large = format!("{} Charge 4111 1111 1111 1111", "word ".repeat(20_000));
    for (text, header, level) in [
        ("hello", Some("public"), "internal"),
        ("hello", Some("confidential"), "confidential"),
        ("Charge 4111 1111 1111 1111", Some("public"), "restricted"),
        (large.as_str(), None, "restricted"),
    ] {
        let before = world.gateway.arrived().len();
        let headers: Vec<_> = header.iter().map(|word| ("mesh-privacy", *word)).collect();
        running.ask(&headers, &chat(text)).await;
        let arrived = world.gateway.arrived();
        assert_eq!(arrived.len(), before + 1);
        assert_eq!(
            arrived[before].header("mesh-privacy"),
            Some(level),
            "{header:?}"
        );
    }
    // What cannot be read is as sensitive as the policy says of such.
    let garbage = running.post("/v1/chat/completions", &[], String::from("{\"model\": 7"));
    running.open(garbage).await;
    let last = world.gateway.arrived().pop().expect("it went on");
    assert_eq!(last.header("mesh-privacy"), Some("restricted"));
    let unknown = running.post("/v1/responses", &[], json!({"input": "hello"}).to_string());
    running.open(unknown).await;
    let last = world.gateway.arrived().pop().expect("it went on");
    assert_eq!(
        (last.path.as_str(), last.header("mesh-privacy")),
        ("/v1/responses", Some("restricted"))
    );
}

#[tokio::test]
async fn the_annotation_of_the_pod_raises_everything_it_sends() {
    let world = World::new().await;
    world.gateway.push(&line(&policy(PrivacyLevel::Public)));
    for (word, level) in [("confidential", "confidential"), ("nonsense", "restricted")] {
        let more = ["--privacy", word];
        let running = Running::start(&world.pod, world.gateway.address, &more).await;
        let running = running.told().await;
        running
            .ask(&[("mesh-privacy", "public")], &chat("hello"))
            .await;
        let last = world.gateway.arrived().pop().expect("it went on");
        assert_eq!(last.header("mesh-privacy"), Some(level), "{word}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_here_and_goes_nowhere() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    let path = "/v1/chat/completions";
    let body = || chat("hello").to_string();
    let ask = async |path: &str, headers: &[(&str, &str)], body: String| {
        let answer = running.open(running.post(path, headers, body)).await;
        let reason = answer.headers().get("mesh-reason").cloned();
        let reason = reason.map(|word| word.to_str().expect("a word").to_owned());
        (answer.status().as_u16(), reason.unwrap_or_default())
    };
    let found = ask(path, &[("mesh-privacy", "secret")], body()).await;
    assert_eq!(found, (400, String::from("invalid_request")));
    let found = ask(path, &[("origin", "https://evil.example")], body()).await;
    assert_eq!(found, (403, String::from("foreign_origin")));
    let found = ask("/mesh/v1/snapshot", &[], body()).await;
    assert_eq!(found, (404, String::from("not_found")));
    let found = ask(path, &[], "x".repeat((8 << 20) + 1)).await;
    assert_eq!(found, (413, String::from("request_too_large")));
    assert!(world.gateway.arrived().is_empty());
    assert!(world.floor.arrived().is_empty());
}

#[tokio::test]
async fn a_peer_that_is_not_the_gateway_is_sent_nothing() {
    let world = World::new().await;
    // Of this mesh, but somebody else.
    let other = world.mesh.member("team", "small-worker", &["elsewhere"]);
    let impostor = Peer::start(&other).await;
    impostor.push(&line(&policy(PrivacyLevel::Public)));
    let pod = Pod::new(&world.mesh, &[floor_at(world.floor.address)]);
    let running = Running::start(&pod, impostor.address, &[]).await;
    let running = running.knows_a_floor().await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(answer.header("mesh-backend"), Some("floor"));
    assert_eq!(
        answer.header("mesh-privacy"),
        Some("restricted"),
        "it was told nothing"
    );
    assert!(impostor.arrived().is_empty());
}
