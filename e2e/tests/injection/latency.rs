//! What the webhook adds to a pod that is made: a measurement, which judges nothing. In dry runs over one kept
//! connection, one with the webhook after one without.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_cluster::Tier;
use mesh_e2e::bench::Latencies;
use mesh_e2e::http::Connection;

use super::{World, pod};

const COUNTED: usize = 300;
const BEFORE: usize = 30;

fn made(connection: &mut Connection, namespace: &str) -> Duration {
    let body = pod(namespace, "measured", "").to_string();
    let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
    let begun = Instant::now();
    let answer = connection.post(&path, &[], &body).unwrap();
    let took = begun.elapsed();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(
        answer.text().contains("mesh-sidecar"),
        namespace == "asking"
    );
    took
}

#[test]
#[ignore = "a measurement; run it with an optimized operator"]
fn the_webhook_takes_time() {
    let Some(world) = World::start("injecttime", Tier::ControlPlane) else {
        return;
    };
    world.bundles();
    let mut proxy = world.stage.cluster.kubectl_command().unwrap();
    let proxy = proxy.args(["proxy", "--port=0"]).stdout(Stdio::piped());
    let mut proxy = proxy.spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(proxy.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap();
    let mut connection = Connection::open(&format!("http://127.0.0.1:{port}")).unwrap();

    let (mut without, mut with) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for number in 0..BEFORE + COUNTED {
        let took = ["plain", "asking"].map(|namespace| made(&mut connection, namespace));
        if number >= BEFORE {
            without.push(took[0]);
            with.push(took[1]);
        }
    }
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    let wall = begun.elapsed();
    for (what, samples) in [("without", without), ("with", with)] {
        let all = Latencies::new(samples, wall);
        let (p50, p99) = (all.percentile(50), all.percentile(99));
        writeln!(
            std::io::stdout(),
            "a pod {what} the webhook: p50 {p50:?}, p99 {p99:?} of {}",
            all.count()
        )
        .unwrap();
    }
}
