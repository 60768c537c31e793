//! A caller who leaves takes the work with them: upstream, on the floor, before and after the first
//! token, over a real connection.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::world::{Play, World, ask, ask_streaming, world};

/// Serves the world on a loopback port; the server ends with the test's runtime.
async fn listen(world: &World) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = world.plane.router();
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await.is_ok() });
    address
}

async fn send(address: std::net::SocketAddr, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(body.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn who_leaves_before_the_first_token_cancels_the_upstream_call() {
    for (body, fault) in [
        (ask("hello"), Behavior::HangBeforeHeaders),
        (
            ask_streaming("hello"),
            Answer::tokens(3).hang_before_first_token().into(),
        ),
    ] {
        let cloud = ScriptedUpstream::start().await.expect("a cloud");
        cloud.set(fault);
        let world = patient(world().cloud("cloud", &cloud, 0.9).floor());
        let address = listen(&world).await;
        let stream = send(address, &body).await;
        cloud.asked(1).await;
        drop(stream);
        cloud.disconnected(1).await;
        assert_eq!(
            world.floor.calls(),
            0,
            "nobody else is asked for someone who left"
        );
        let canceled = "mesh_gateway_attempts_total{backend=\"cloud\",sovereignty_class=\"cloud_domestic\",outcome=\"canceled\"}";
        eventually(|| world.metric(canceled) == Some(1.0)).await;
        assert_eq!(
            world.metric("mesh_gateway_backend_up{backend=\"cloud\"}"),
            Some(1.0)
        );
    }
}

#[tokio::test]
async fn who_leaves_in_the_middle_of_a_stream_cancels_the_upstream_call() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    cloud.set(Answer::tokens(6).stall_after(3));
    let world = patient(world().cloud("cloud", &cloud, 0.9));
    let address = listen(&world).await;
    let mut stream = send(address, &ask_streaming("hello")).await;
    let mut text = String::new();
    while !text.contains("t2 ") {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.expect("bytes");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    drop(stream);
    cloud.disconnected(1).await;
    let canceled =
        "mesh_gateway_request_duration_seconds_count{surface=\"chat\",outcome=\"canceled\"}";
    eventually(|| world.metric(canceled) == Some(1.0)).await;
}

#[tokio::test]
async fn who_leaves_frees_the_floor_at_once() {
    let world = patient(world().floor());
    world.floor.set(Play::Hang);
    let address = listen(&world).await;
    let stream = send(address, &ask("hello")).await;
    eventually(|| world.floor.running() == 1).await;
    drop(stream);
    eventually(|| world.floor.running() == 0).await;
}

#[tokio::test]
async fn a_dropped_answer_gives_its_places_back() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    cloud.set(Answer::tokens(6).stall_after(3));
    let builder = world().cloud_with("cloud", &cloud, 0.9, |backend| {
        backend.limits.concurrent_requests = Some(1);
    });
    let world = patient(builder);
    for _ in 0..3 {
        let request = Request::post("/v1/chat/completions")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Body::from(ask_streaming("hello").to_string()));
        let response = world.open(request.expect("a request")).await;
        assert_eq!(response.headers()["mesh-backend"], "cloud");
    }
}

/// Long limits: what ends here ends because somebody left.
fn patient(builder: crate::world::Builder) -> World {
    builder
        .policy(|policy| {
            let failover = policy.failover.as_mut().expect("failover");
            failover.deadline = Duration::from_mins(10);
            failover.time_to_first_token = Duration::from_mins(10);
            failover.between_tokens = Duration::from_mins(10);
        })
        .start()
}

/// Waits for what another task will do next, without guessing how long it takes.
async fn eventually(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}
