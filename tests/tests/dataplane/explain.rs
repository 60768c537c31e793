//! What is explained is what is served: one code path, tested over random requests.

use std::collections::BTreeSet;

use http::StatusCode;
use mesh_core::Caller;
use mesh_dataplane::clock::system_clock;
use mesh_dataplane::{Decider, Hints, Question};
use mesh_protocol::Surface;
use mesh_testkit::upstream::ScriptedUpstream;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::world::{World, ask, world};

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
    let model = pick(
        random,
        &["auto", "local", "big", "small", "smollm2", "nobody"],
    );
    let (path, mut body) = if random.random_bool(0.8) {
        ("chat", json!({"model": model, "messages": messages}))
    } else {
        (
            "completions",
            json!({"model": model, "prompt": pick(random, TEXTS)}),
        )
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

/// Explains and serves one request; gives who served, empty if nobody.
async fn compare(
    world: &World,
    (surface, body, headers): (&str, Value, Vec<(&str, &str)>),
) -> String {
    let path = format!("/mesh/v1/explain?surface={surface}");
    let explained = world.post(&path, body.clone(), &headers).await;
    assert_eq!(explained.status, StatusCode::OK, "{body}");
    let decision = explained.json();
    assert_eq!(decision["decision"], explained.header("mesh-decision"));

    let path = match surface {
        "chat" => "/v1/chat/completions",
        _ => "/v1/completions",
    };
    let served = world.post(path, body.clone(), &headers).await;
    let first = &decision["plan"][0];
    if served.status == StatusCode::OK {
        for (field, header) in [
            (&first["backend"], "mesh-backend"),
            (&first["model"], "mesh-model"),
            (&first["class"], "mesh-sovereignty-class"),
            (&decision["privacy"], "mesh-privacy"),
        ] {
            assert_eq!(field, served.header(header), "{header}: {body}");
        }
    } else {
        assert!(first.is_null(), "{body} {decision}");
        let verdict = decision["verdict"].as_object();
        let verdict = verdict.and_then(|verdict| verdict.keys().next());
        let reason = verdict.expect("a reason").as_str();
        assert_eq!(served.header("mesh-reason"), reason, "{body}");
    }
    served.header("mesh-backend").to_owned()
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
    let mut served_by = BTreeSet::new();
    for _ in 0..300 {
        served_by.insert(compare(&world, random_request(&mut random)).await);
    }
    let all = ["", "floor", "one", "two"].map(str::to_owned);
    assert_eq!(served_by, BTreeSet::from(all), "all kinds were met");
    let count = |name: &str| {
        let line = format!(
            "mesh_gateway_attempts_total{{backend=\"{name}\",sovereignty_class=\"cloud_domestic\",outcome=\"ok\"}}"
        );
        world.metric(&line).expect("a count")
    };
    let asked = u32::try_from(one.count() + two.count()).expect("a small number");
    assert!(
        (count("one") + count("two") - f64::from(asked)).abs() < 0.5,
        "explaining sends nothing"
    );
}

/// What is decided from files says so, and agrees with the mesh that runs.
#[tokio::test]
async fn what_is_decided_from_files_agrees_and_says_that_health_is_assumed() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world().cloud("one", &cloud, 0.9).floor().start();
    let decider = Decider::from_files(world.store.clone(), 64, system_clock());
    for text in TEXTS {
        let body = ask(text);
        let job = decider
            .decide(Question {
                surface: Surface::Chat,
                body: body.to_string().into(),
                hints: Hints::default(),
                caller: Caller::local("default"),
            })
            .expect("a decision");
        let decision = serde_json::to_value(&job.decided.decision).expect("JSON");
        let explained = world.post("/mesh/v1/explain", body, &[]).await.json();
        for field in ["privacy", "plan", "verdict", "facts", "policies", "task"] {
            assert_eq!(decision[field], explained[field], "{field}: {text}");
        }
        assert_eq!(decision["health_assumed"], true);
        assert!(explained.get("health_assumed").is_none());
    }
    assert_eq!(cloud.connections(), 0);
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
    assert!(
        decision["facts"]
            .as_array()
            .is_some_and(|facts| !facts.is_empty())
    );
    let shown = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(
        !shown.contains("canaryword") && !shown.contains("4111"),
        "{shown}"
    );
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
