//! The process: it ends when it is asked to, soon if nothing is asked of it, and after the last answer.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_core::PrivacyLevel;
use serde_json::json;

use crate::peer::{Act, limited};
use crate::process::Process;
use crate::world::{World, chat, line, policy};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mesh-sidecar");
/// Longer than an end takes on any machine, shorter than what running answers get.
const SOON: Duration = Duration::from_secs(15);

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    limited(tokio::task::spawn_blocking(work))
        .await
        .expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_sidecar_ends_at_once_when_its_application_has() {
    let world = World::new().await;
    world.gateway.push(&line(&policy(PrivacyLevel::Public)));
    let process = Process::start(Path::new(PROGRAM), &world);
    let begun = Instant::now();
    process.terminate();
    let status = blocking(move || process.wait()).await;
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_runs_is_not_cut_by_the_end() {
    let world = World::new().await;
    world.gateway.push(&line(&policy(PrivacyLevel::Public)));
    let (pieces, act) = Act::stream();
    world.gateway.then(act);
    let process = Process::start(Path::new(PROGRAM), &world);
    let mut body = chat("hello");
    body["stream"] = json!(true);
    let request = Request::post(format!("http://{}/v1/chat/completions", process.address))
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body.to_string()))
        .expect("a request");
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = limited(client.request(request)).await.expect("an answer");
    let mut body = answer.into_body();
    pieces.send(Bytes::from("data: 1\n\n")).expect("open");
    let first = limited(body.frame())
        .await
        .expect("a piece")
        .expect("whole");
    assert_eq!(first.into_data().expect("data"), "data: 1\n\n");
    let address = process.address;
    process.terminate();
    // It has heard once nobody new is let in.
    let closing = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    limited(closing).await;
    pieces.send(Bytes::from("data: 2\n\n")).expect("open");
    drop(pieces);
    let rest = limited(body.collect()).await.expect("whole").to_bytes();
    assert_eq!(rest, "data: 2\n\n");
    let status = blocking(move || process.wait()).await;
    assert!(status.success(), "{status}");
}
