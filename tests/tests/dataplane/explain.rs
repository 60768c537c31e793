//! What is explained is what is served: one code path, tested over random requests.

use http::StatusCode;
use mesh_testkit::upstream::ScriptedUpstream;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::world::{ask, world};

const TEXTS: &[&str] = &[
    "hello",
    "Translate to French: good morning",
    "My card is 4111 1111 1111 1111",
    "IBAN DE89 3704 0044 0532 0130 00",
    "write to jane.doe@example.com",
    "fn main() { println!(\"hi\"); } fix this",
    "Summarize the following text in two sentences.",
    "",
];

fn random_request(random: &mut StdRng) -> (&'static str, Value, Vec<(&'static str, &'static str)>) {
    let pick = |random: &mut StdRng, from: &[&'static str]| *from.choose(random).expect("words");
    let mut messages = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let role = pick(random, &["system", "user", "assistant"]);
        messages.push(json!({"role": role, "content": pick(random, TEXTS)}));
    }
    let model = pick(random, &["auto", "local", "big", "small", "smollm2", "nobody"]);
    let (path, mut body) = if random.random_bool(0.8) {
        ("chat", json!({"model": model, "messages": messages}))
    } else {
        ("completions", json!({"model": model, "prompt": pick(random, TEXTS)}))
    };
    if random.random_bool(0.3) {
        body["stream"] = json!(true);
    }
    if random.random_bool(0.2) {
        body["zeta"] = json!("unknown");
    }
    if random.random_bool(0.2) {
        body["max_tokens"] = json!(random.random_range(1..4000));
    }
    if path == "chat" && random.random_bool(0.2) {
        body["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
        if random.random_bool(0.5) {
            body["tool_choice"] = json!("required");
        }
    }
    let mut headers = Vec::new();
    if random.random_bool(0.4) {
        let levels = ["public", "internal", "confidential", "restricted"];
        headers.push(("mesh-privacy", pick(random, &levels)));
    }
    if random.random_bool(0.2) {
        headers.push(("mesh-task", pick(random, &["chat", "code", "reasoning"])));
    }
    (path, body, headers)
}

#[tokio::test]
async fn explain_and_the_served_decision_always_agree() {
    let (one, two) = (
        ScriptedUpstream::start().await.expect("a cloud"),
        ScriptedUpstream::start().await.expect("a cloud"),
    );
    let world = world()
        .cloud("one", &one, 0.9)
        .cloud_with("two", &two, 0.7, |backend| {
            backend.models[0].name = String::from("small");
        })
        .floor()
        .start();
    let mut random = StdRng::seed_from_u64(3);
    let mut served_by = std::collections::BTreeSet::new();
    for round in 0..300 {
        let (surface, body, headers) = random_request(&mut random);
        let path = format!("/mesh/v1/explain?surface={surface}");
        let asked_before = (one.count(), two.count(), world.floor.calls());
        let explained = world.post(&path, body.clone(), &headers).await;
        assert_eq!(asked_before, (one.count(), two.count(), world.floor.calls()));
        assert_eq!(explained.status, StatusCode::OK, "{round}: {body}");
        let decision = explained.json();
        assert_eq!(decision["decision"], explained.header("mesh-decision"));

        let path = match surface {
            "chat" => "/v1/chat/completions",
            _ => "/v1/completions",
        };
        let served = world.post(path, body.clone(), &headers).await;
        let first = &decision["plan"][0];
        if served.status == StatusCode::OK {
            assert_eq!(first["backend"], served.header("mesh-backend"), "{round}: {body}");
            assert_eq!(first["model"], served.header("mesh-model"), "{round}: {body}");
            assert_eq!(decision["privacy"], served.header("mesh-privacy"), "{round}: {body}");
            assert_eq!(first["class"], served.header("mesh-sovereignty-class"), "{round}");
        } else {
            assert!(first.is_null(), "{round}: {body} {decision}");
            let verdict = decision["verdict"].as_object().and_then(|verdict| verdict.keys().next());
            let verdict = verdict.expect("a reason").clone();
            assert_eq!(served.header("mesh-reason"), verdict, "{round}: {body}");
        }
        served_by.insert(served.header("mesh-backend").to_owned());
    }
    let all = ["", "floor", "one", "two"].map(str::to_owned);
    assert_eq!(served_by, std::collections::BTreeSet::from(all), "all kinds were met");
}

#[tokio::test]
async fn explain_tells_who_spoke_and_never_the_text() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world().cloud("one", &cloud, 0.9).floor().start();
    let text = "canaryword: charge 4111 1111 1111 1111";
    let reply = world.post("/mesh/v1/explain", ask(text), &[]).await;
    let decision = reply.json();
    assert_eq!(decision["privacy"], "restricted");
    assert_eq!(decision["policies"][0]["name"], "default");
    assert!(decision["facts"].as_array().is_some_and(|facts| !facts.is_empty()));
    let shown = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(!shown.contains("canaryword") && !shown.contains("4111"), "{shown}");
    assert_eq!((cloud.connections(), world.floor.calls()), (0, 0));
}

#[tokio::test]
async fn the_surface_is_known_by_its_shape_or_by_the_query() {
    let world = world().floor().start();
    let path = "/mesh/v1/explain";
    for body in [
        ask("hello"),
        json!({"model": "auto", "prompt": "hello"}),
        json!({"model": "auto", "input": "hello"}),
    ] {
        let reply = world.post(path, body, &[]).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    let embeddings = json!({"model": "auto", "input": "hello"});
    let task = world.post(path, embeddings.clone(), &[]).await.json()["task"].clone();
    assert_eq!(task, "Embed");
    let forced = world.post("/mesh/v1/explain?surface=chat", embeddings.clone(), &[]);
    assert_eq!(forced.await.json()["error"]["param"], "messages");
    let unknown = world.post("/mesh/v1/explain?surface=x", embeddings, &[]);
    assert_eq!(unknown.await.json()["error"]["param"], "surface");
}
