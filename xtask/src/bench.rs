//! `cargo xtask bench`: what the gateway adds to a call, against the same upstream called directly in
//! the same run, and how fast the floor is. Prints ratios and never judges absolute times.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_e2e::bench::{Latencies, Load, usage};
use mesh_e2e::mesh::Mesh;
use mesh_e2e::upstream::Upstream;

use crate::context::Context;
use crate::images;
use crate::model;
use crate::process::run as run_command;
use crate::sdk::Scratch;

/// At one connection an instant upstream shows the bare cost; at sixteen a delay keeps the loop from
/// measuring nothing but throughput.
const CASES: [(usize, Duration); 2] = [(1, Duration::ZERO), (16, Duration::from_millis(20))];
const PROMPT_BYTES: usize = 4096;
const PATH: &str = "/v1/chat/completions";

/// How a request goes through the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// One named cloud, level Public.
    PassThrough,
    /// `auto` over two clouds with weights, constraints and every detector.
    Full,
}

/// A part that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// What a sidecar adds to a call of the gateway.
    Sidecar,
    /// How long an entry of the audit takes until it is on disk, and how fast a log is verified.
    Audit,
}

/// Writes to a log in the folder of what is built.
pub(crate) fn audit(context: &Context, requests: usize) -> Result<()> {
    let mut cargo = images::static_cargo(context, "run");
    cargo
        .args(["-p", "mesh-ledger", "--example", "throughput", "--"])
        .arg(context.root.join("target"))
        .arg(requests.to_string());
    run_command(&mut cargo)
}

/// The program of the images, between a client and a scripted gateway over TLS.
pub(crate) fn sidecar(context: &Context, requests: usize) -> Result<()> {
    let programs = images::programs(context)?;
    // Beside what is built for images, so that little more is.
    let mut cargo = images::static_cargo(context, "run");
    cargo
        .args(["-p", "mesh-sidecar", "--example", "overhead", "--"])
        .arg(programs.join("mesh-sidecar"))
        .arg(requests.to_string());
    run_command(&mut cargo)
}

pub(crate) fn run(context: &Context, requests: usize, gateway_only: bool) -> Result<()> {
    if cfg!(debug_assertions) {
        return optimized(context, requests, gateway_only);
    }
    let binary = context.release_binary()?;
    let size = fs::metadata(&binary)?.len();
    println!("\nbinary: {} MiB ({} B)", size >> 20, size);
    gateway(context, &binary, requests)?;
    if gateway_only {
        return Ok(());
    }
    println!("\nfloor");
    let file = model::obtain(context)?;
    let mut cargo = context.shared_cargo();
    cargo
        .args([
            "run",
            "--release",
            "--locked",
            "-p",
            "mesh-engine",
            "--example",
            "bench",
            "--",
        ])
        .arg(file);
    run_command(&mut cargo)
}

/// A debug build of the client would be measured along with the mesh, so this program builds itself anew.
fn optimized(context: &Context, requests: usize, gateway_only: bool) -> Result<()> {
    let mut cargo = context.shared_cargo();
    cargo.args([
        "run",
        "--release",
        "--quiet",
        "--locked",
        "--package",
        "xtask",
        "--",
        "bench",
        "--requests",
    ]);
    cargo.arg(requests.to_string());
    if gateway_only {
        cargo.arg("--gateway-only");
    }
    run_command(&mut cargo)
}

fn gateway(context: &Context, binary: &Path, requests: usize) -> Result<()> {
    println!(
        "\ngateway: {PROMPT_BYTES} B prompt, not streamed, closed loop, {requests} requests per connection"
    );
    println!(
        "{:<14} {:>4} {:>8} {:>10} {:>10} {:>10} {:>10} {:>12} {:>9}",
        "route", "c", "delay", "p50 us", "p99 us", "+p50 us", "+p99 us", "CPU us/req", "RSS MiB"
    );
    for (connections, delay) in CASES {
        let upstream = Upstream::start(delay)?;
        // A delayed upstream bounds the rate; fewer requests give the same percentiles in the same time.
        let requests = if delay.is_zero() {
            requests
        } else {
            (requests / 8).max(50)
        };
        let direct = load(&upstream.url, "big", connections, requests).run()?;
        print_row("direct", connections, delay, &direct, None);
        for route in [Route::PassThrough, Route::Full] {
            measure(
                context,
                binary,
                route,
                &upstream,
                (connections, delay, requests),
                &direct,
            )?;
        }
    }
    Ok(())
}

fn measure(
    context: &Context,
    binary: &Path,
    route: Route,
    upstream: &Upstream,
    (connections, delay, requests): (usize, Duration, usize),
    direct: &Latencies,
) -> Result<()> {
    let scratch = Scratch::new(context, "bench")?;
    let (folder, store) = (scratch.path().join("kinds"), scratch.path().join("store"));
    fs::create_dir(&folder)?;
    fs::write(folder.join("mesh.yaml"), kinds(route, &upstream.url))?;
    let mesh = Mesh::start(
        binary,
        &folder,
        &["--models-dir".as_ref(), store.as_os_str()],
    )?;
    let idle = usage(mesh.pid())?;
    let model = if route == Route::Full { "auto" } else { "big" };
    let before = upstream.chats();
    let through = load(&mesh.api, model, connections, requests)
        .run()
        .context("the mesh did not serve")?;
    let after = usage(mesh.pid())?;
    let served = upstream.chats() - before;
    if served < (connections * requests) as u64 {
        bail!(
            "only {served} of {} requests reached the upstream",
            connections * requests
        );
    }
    // Warm-up included on both sides of the division.
    let cpu = (after.cpu.saturating_sub(idle.cpu)).as_micros() / u128::from(served.max(1));
    print_row(
        name(route),
        connections,
        delay,
        &through,
        Some((direct, cpu, after.resident)),
    );
    if connections == 1 && route == Route::PassThrough {
        println!(
            "{:<14} idle without a model: {:.1} MiB",
            "",
            mib(idle.resident)
        );
    }
    Ok(())
}

fn name(route: Route) -> &'static str {
    match route {
        Route::PassThrough => "pass-through",
        Route::Full => "full pipeline",
    }
}

fn load(url: &str, model: &str, connections: usize, requests: usize) -> Load {
    let sentence =
        "The quarterly numbers of the northern region were better than those of the south. ";
    let prompt: String = sentence.chars().cycle().take(PROMPT_BYTES).collect();
    let body = serde_json::json!({
        "model": model,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": prompt}],
    });
    Load {
        url: url.to_owned(),
        path: PATH.to_owned(),
        body: body.to_string(),
        connections,
        requests,
    }
}

fn print_row(
    name: &str,
    connections: usize,
    delay: Duration,
    found: &Latencies,
    against: Option<(&Latencies, u128, u64)>,
) {
    let micros = |latencies: &Latencies, percent| {
        i128::try_from(latencies.percentile(percent).as_micros()).unwrap_or_default()
    };
    let (p50, p99) = (micros(found, 50), micros(found, 99));
    let start = format!(
        "{name:<14} {connections:>4} {:>5} ms {p50:>10} {p99:>10}",
        delay.as_millis()
    );
    match against {
        None => println!("{start}"),
        Some((direct, cpu, resident)) => println!(
            "{start} {:>+10} {:>+10} {cpu:>12} {:>9.1}",
            p50 - micros(direct, 50),
            p99 - micros(direct, 99),
            mib(resident)
        ),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "mebibytes with one decimal for a person"
)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The configuration of a route: clouds that are the same upstream under two names.
fn kinds(route: Route, upstream: &str) -> String {
    let backends = match route {
        Route::PassThrough => cloud("one", upstream, "0.80"),
        Route::Full => format!(
            "{}---\n{}",
            cloud("one", upstream, "0.80"),
            cloud("two", upstream, "0.60")
        ),
    };
    let constraints = match route {
        Route::PassThrough => "",
        Route::Full => {
            "  weights: {quality: \"0.30\", cost: \"0.15\", latency: \"0.15\", sovereignty: \"0.25\", privacy: \"0.15\"}\n\
             \x20 constraints:\n\
             \x20   minimumClass: {restricted: OwnHardware, confidential: RentedHardware, internal: CloudDomestic, public: CloudRetained}\n\
             \x20   jurisdictions: {deny: [XX], applyTo: [Seat, DataCenters, GoverningLaw]}\n"
        }
    };
    format!(
        "{backends}---\napiVersion: inferencemesh.dev/v1alpha1\nkind: SovereigntyPolicy\nmetadata: {{name: default}}\n\
         spec:\n  defaults: {{privacy: Public}}\n{constraints}"
    )
}

fn cloud(name: &str, upstream: &str, quality: &str) -> String {
    format!(
        "apiVersion: inferencemesh.dev/v1alpha1\nkind: InferenceBackend\nmetadata: {{name: {name}}}\nspec:\n  cloud:\n    \
         provider: {name}\n    protocol: OpenAI\n    url: {upstream}/v1\n    claims:\n      seat: [DE]\n      dataCenters: [DE]\n      \
         governingLaw: [DE]\n      retention: {{days: 0, training: false}}\n      evidence: https://example.com/dpa\n      \
         expires: \"2099-01-01\"\n  models:\n  - name: big\n    price: {{inputPerMillion: \"1.00\", outputPerMillion: \"2.00\", currency: EUR}}\n    \
         capabilities: {{contextTokens: 200000, tasks: [{{name: Chat, quality: \"{quality}\", source: \"bench\"}}]}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_one_policy_over_its_clouds() {
        let count = |route, kind: &str| {
            kinds(route, "http://127.0.0.1:1")
                .matches(&format!("kind: {kind}\n"))
                .count()
        };
        assert_eq!(
            (
                count(Route::PassThrough, "InferenceBackend"),
                count(Route::Full, "InferenceBackend")
            ),
            (1, 2)
        );
        assert_eq!(
            (
                count(Route::PassThrough, "SovereigntyPolicy"),
                count(Route::Full, "SovereigntyPolicy")
            ),
            (1, 1)
        );
    }

    /// With the real door for files, where it is built in.
    #[cfg(feature = "gen")]
    #[test]
    fn the_kinds_of_the_bench_and_of_the_binary_tests_are_valid() {
        let url = "http://127.0.0.1:1";
        let cloud = include_str!("../../e2e/tests/kinds/cloud.yaml").replace("UPSTREAM", url);
        let floor = include_str!("../../e2e/tests/kinds/floor.yaml").to_owned();
        let (plain, full) = (kinds(Route::PassThrough, url), kinds(Route::Full, url));
        for (text, objects) in [(cloud, 1), (floor, 3), (plain, 2), (full, 3)] {
            let parsed = mesh_crds::parse("test.yaml", &text);
            assert_eq!(parsed.problems, []);
            assert_eq!(parsed.documents.len(), objects, "{text}");
        }
    }

    #[test]
    fn the_prompt_has_the_size_that_is_printed() {
        let body: serde_json::Value = serde_json::from_str(&load("", "big", 1, 1).body).unwrap();
        assert_eq!(
            body["messages"][0]["content"].as_str().map(str::len),
            Some(PROMPT_BYTES)
        );
    }
}
