//! What a sidecar adds to a call of the gateway: a scripted gateway over TLS on loopback, asked directly and through
//! `mesh-sidecar` as its own process, in turns: first on cores as they are, then on cores that something of lowest priority keeps from sleeping, since waking a
//! sleeping core takes longer than a sidecar does, and a virtual one longest. Prints and judges nothing. Usage: `overhead PROGRAM REQUESTS`.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on ends"
)]
#![expect(
    dead_code,
    reason = "the parts of the tests that a measurement needs no"
)]

#[path = "../tests/scenarios/peer.rs"]
mod peer;
#[path = "../tests/scenarios/process.rs"]
mod process;
#[path = "../tests/scenarios/world.rs"]
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use mesh_core::PrivacyLevel;
use mesh_identity::client_config;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::peer::Act;
use crate::process::Process;
use crate::world::{World, line, policy};

/// Rounds, so that what else the machine does meets both ways alike.
const ROUNDS: usize = 20;
const PROMPT_BYTES: usize = 1024;
const PIECES: usize = 50;

struct Way {
    sender: SendRequest<Full<Bytes>>,
    bearer: String,
    tracker: TaskTracker,
}

impl Way {
    async fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("no delay");
        Self::over(TokioIo::new(stream), String::from("Bearer any")).await
    }

    async fn secured(world: &World) -> Self {
        let config = client_config(None, &world.mesh.trust(), None).expect("TLS");
        let stream = TcpStream::connect(world.gateway.address)
            .await
            .expect("connected");
        stream.set_nodelay(true).expect("no delay");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.expect("TLS");
        let bearer = format!("Bearer {}", world.pod.token);
        Self::over(TokioIo::new(stream), bearer).await
    }

    async fn over<S>(stream: S, bearer: String) -> Self
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(stream).await.expect("HTTP");
        let tracker = TaskTracker::new();
        tracker.spawn(async move { drop(connection.await) });
        Self {
            sender,
            bearer,
            tracker,
        }
    }

    fn request(&self, stream: bool) -> Request<Full<Bytes>> {
        let prompt: String = "The quarterly numbers of the region were good. "
            .chars()
            .cycle()
            .take(PROMPT_BYTES)
            .collect();
        let body = json!({"model": "auto", "stream": stream, "messages": [{"role": "user", "content": prompt}]});
        Request::post("/v1/chat/completions")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", &self.bearer)
            .body(Full::from(body.to_string()))
            .expect("a request")
    }

    async fn once(&mut self) -> Duration {
        let request = self.request(false);
        let begun = Instant::now();
        self.sender.ready().await.expect("open");
        let answer = self.sender.send_request(request).await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.into_body().collect().await.expect("whole");
        begun.elapsed()
    }

    /// How long each piece of a stream takes from the gateway to here.
    async fn pieces(&mut self, world: &World) -> Vec<Duration> {
        let (pieces, act) = Act::stream();
        world.gateway.then(act);
        let request = self.request(true);
        self.sender.ready().await.expect("open");
        let answer = self.sender.send_request(request).await.expect("an answer");
        let mut body = answer.into_body();
        let mut took = Vec::with_capacity(PIECES);
        for _ in 0..PIECES {
            let begun = Instant::now();
            pieces
                .send(Bytes::from_static(
                    b"data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n",
                ))
                .expect("open");
            body.frame().await.expect("a piece").expect("whole");
            took.push(begun.elapsed());
        }
        drop(pieces);
        while body.frame().await.is_some() {}
        took
    }
}

fn percentile(samples: &mut [Duration], percent: usize) -> i128 {
    samples.sort_unstable();
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    i128::try_from(samples[rank - 1].as_micros()).unwrap_or_default()
}

fn row(name: &str, direct: &mut [Duration], through: &mut [Duration]) {
    let [d50, t50] = [percentile(direct, 50), percentile(through, 50)];
    let [d99, t99] = [percentile(direct, 99), percentile(through, 99)];
    println!(
        "{name:<10} {d50:>10} {d99:>10} {t50:>10} {t99:>10} {:>+10} {:>+10}",
        t50 - d50,
        t99 - d99
    );
}

async fn measure(program: PathBuf, requests: usize) {
    let world = World::new().await;
    world.gateway.forget();
    world.gateway.push(&line(&policy(PrivacyLevel::Public)));
    let process = Process::start(&program, &world);
    let (mut direct, mut through) = (
        Way::secured(&world).await,
        Way::plain(process.address).await,
    );
    for _ in 0..(requests / 10).max(20) {
        direct.once().await;
        through.once().await;
    }
    println!("idle: {:.1} MiB resident", process.resident_mib());
    println!(
        "{:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "us", "direct p50", "p99", "sidecar p50", "p99", "+p50", "+p99"
    );
    let [mut d, mut t, mut ds, mut ts] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for _ in 0..requests / ROUNDS {
            d.push(direct.once().await);
        }
        for _ in 0..requests / ROUNDS {
            t.push(through.once().await);
        }
        ds.extend(direct.pieces(&world).await);
        ts.extend(through.pieces(&world).await);
    }
    row("request", &mut d, &mut t);
    row("piece", &mut ds, &mut ts);
}

/// Keeps every core from sleeping, and takes it from nobody: its scheduling class runs where nothing else would.
struct Awake(Vec<std::process::Child>);

impl Awake {
    fn new() -> std::io::Result<Self> {
        let (own, cores) = (
            std::env::current_exe()?,
            std::thread::available_parallelism()?,
        );
        let spin = |_| {
            let mut chrt = std::process::Command::new("chrt");
            chrt.args(["--idle", "0"]).arg(&own).arg(SPIN).spawn()
        };
        (0..cores.get())
            .map(spin)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The word by which this program is asked to keep a core awake.
const SPIN: &str = "spin";

fn main() {
    let mut args = std::env::args().skip(1);
    let program = args.next().expect("the program");
    if program == SPIN {
        loop {
            std::hint::spin_loop();
        }
    }
    let program = PathBuf::from(program);
    let requests = args
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(2000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    println!("cores as they are");
    runtime.block_on(measure(program.clone(), requests));
    match Awake::new() {
        Ok(_awake) => {
            println!("cores kept awake");
            runtime.block_on(measure(program, requests));
        }
        Err(error) => println!("cores could not be kept awake (chrt of util-linux): {error}"),
    }
}
