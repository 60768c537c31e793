//! What a record holds: who asked whom, and nothing of what was written.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh_ledger::{Entry, Memory};
use serde_json::{Value, json};

use crate::records::{cloud, recorded};
use crate::world::ask;

/// Somebody's secrets, which no record may hold: one that is seen, and one that is not.
const SECRET: &str = "hunter2-4111-1111-1111-1111";
const NAME: &str = "alice_hunter2";

/// Lines as they are kept.
fn lines(ledger: &Memory) -> Vec<String> {
    let entries = ledger.entries();
    let line = |entry: &Entry| serde_json::to_string(entry).expect("JSON");
    entries.iter().map(line).collect()
}

#[tokio::test]
async fn a_record_says_who_asked_whom_and_holds_nothing_of_what_was_written() {
    let (first, second) = (cloud("fine").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second)
        .backend("first", |first| {
            first.models[0].aliases = vec![String::from("*")];
        })
        .start();
    for (model, stream) in [("auto", false), ("big", true), (SECRET, false)] {
        let mut body = ask(&format!("my password is {SECRET}"));
        body["model"] = json!(model);
        body["stream"] = json!(stream);
        body["user"] = json!(SECRET);
        world.chat(body).await;
    }
    assert!(world.floor.saw(SECRET), "it was asked for real");
    // Nobody declares vectors for what takes any name, and a field that nobody knows: both are said to the caller.
    let vectors = json!({"model": NAME, "input": "hello"});
    let reply = world.post("/v1/embeddings", vectors, &[]).await;
    assert!(reply.json().to_string().contains(NAME), "{reply:?}");
    let mut field = ask("hello");
    field[NAME] = json!(1);
    let internal = [("mesh-privacy", "internal")];
    world.post("/v1/chat/completions", field, &internal).await;
    world.plane.end_records(Duration::from_secs(20)).await;
    let lines = lines(&ledger);
    let held: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("hunter2"))
        .collect();
    assert!(held.is_empty(), "{held:#?}");
    let decided: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &Value| line["event"] == "decided")
        .collect();
    assert_eq!(decided.len(), 5);
    assert_eq!(decided[0]["caller"]["subject"], "local");
    assert_eq!(decided[0]["surface"], "chat");
    assert_eq!(decided[0]["gateway"], "mesh");
    assert_eq!(decided[0]["decision"]["privacy"], "restricted");
    let bytes = decided[0]["bytes"].as_u64();
    assert!(bytes.is_some_and(|bytes| bytes > 100));
    assert_eq!(decided[1]["decision"]["model"], "big");
    assert_eq!(decided[2]["decision"]["model"], "(left out)");
    let vectors = |one: &&Value| one["surface"] == "embeddings";
    let refused = decided.iter().find(vectors).expect("what was refused");
    assert_eq!(refused["decision"]["model"], "(left out)");
}

#[tokio::test]
async fn a_request_that_nobody_could_serve_by_its_own_fault_fills_no_log() {
    let (first, second) = (cloud("first").await, cloud("second").await);
    let ledger = Arc::new(Memory::new());
    let world = recorded(&ledger, &first, &second).start();
    let mut unknown = ask("hello");
    unknown["model"] = json!("nobody-has-this");
    assert_eq!(world.chat(unknown).await.status, StatusCode::NOT_FOUND);
    world.plane.end_records(Duration::from_secs(20)).await;
    assert_eq!(ledger.entries(), []);
}
