//! Secret `mesh-ca` is deleted while requests run, through a gateway to the guard of a model server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_e2e::http::Connection;
use mesh_e2e::operator::{HOME, Operator};
use mesh_e2e::part::{Part, token};
use mesh_e2e::stage::{backend, cache, ownership};
use mesh_e2e::upstream::Upstream;
use serde_json::json;

use super::{LONG, TEAM, World};

/// Seconds that the authority lives. One that somebody asked for signs after a hundredth of that, and the one before is
/// trusted for two hundredths more; members hear of either within twelve seconds here.
const LIFE: &str = "1500";
const CALLERS: usize = 3;
const CHAT: &str = "/v1/chat/completions";

/// Requests one after the other, every other one a stream, until stopped.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<Mutex<Vec<String>>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(api: &str, token: &str) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            good: Arc::default(),
            bad: Arc::default(),
            callers: Vec::new(),
        };
        for _ in 0..CALLERS {
            let (api, token) = (api.to_owned(), token.to_owned());
            let (stop, good, bad) = (
                Arc::clone(&load.stop),
                Arc::clone(&load.good),
                Arc::clone(&load.bad),
            );
            load.callers.push(std::thread::spawn(move || {
                let (begun, mut stream) = (Instant::now(), false);
                while !stop.load(Ordering::Relaxed) {
                    stream = !stream;
                    match ask(&api, &token, stream) {
                        Ok(()) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => bad.lock().unwrap().push(format!(
                            "after {:.1} s: {error:#}",
                            begun.elapsed().as_secs_f32()
                        )),
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }));
        }
        load
    }

    fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().unwrap();
        }
        let bad = self.bad.lock().unwrap().clone();
        (self.good.load(Ordering::Relaxed), bad)
    }
}

fn ask(api: &str, token: &str, stream: bool) -> Result<()> {
    let body = json!({"model": "floor", "stream": stream, "messages": [{"role": "user", "content": "What is the answer?"}]});
    let bearer = format!("Bearer {token}");
    let mut connection = Connection::open(api)?;
    let answer = connection.post(
        CHAT,
        &[("authorization", bearer.as_str())],
        &body.to_string(),
    )?;
    let text = answer.text();
    ensure!(answer.status == 200, "{}: {text}", answer.status);
    ensure!(!stream || text.contains("[DONE]"), "cut: {text}");
    ensure!(
        answer.header("mesh-backend") == Some("floor"),
        "not by the pod"
    );
    Ok(())
}

/// A pod of the floor at an address where the guard listens.
fn pod(world: &World) {
    let stage = &world.stage;
    stage
        .apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "only"}}))
        .unwrap();
    stage.apply(&cache(HOME, "model")).unwrap();
    stage.apply(&backend(HOME, "floor", "model", 1)).unwrap();
    stage.apply(&ownership(None)).unwrap();
    let made = || {
        Ok(stage
            .get(&["-n", HOME, "serviceaccount", "floor-worker"])
            .ok())
    };
    stage.until("its account is made", LONG, made).unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": HOME, "name": "floor-0", "labels": {
            "app.kubernetes.io/component": "worker", "app.kubernetes.io/managed-by": "mesh-operator",
            "app.kubernetes.io/part-of": "inference-mesh", "inferencemesh.dev/backend": "floor"}},
        "spec": {"nodeName": "only", "serviceAccountName": "floor-worker", "automountServiceAccountToken": false,
            "containers": [{"name": "worker", "image": "none"}]}});
    stage.apply(&pod).unwrap();
    let ready = json!({"podIP": world.address, "podIPs": [{"ip": world.address}], "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]});
    stage.says(HOME, "pod/floor-0", &ready).unwrap();
}

fn identity(folder: &Path, member: &str) -> String {
    std::fs::read_to_string(folder.join(member).join("identity.pem")).unwrap()
}

/// The guard of a model server at that address.
fn guard(world: &World, operator: &Operator, upstream: &Upstream) -> Part {
    let member = world.member(operator, "floor-worker", "guard");
    let listen = format!("{}:8444", world.address);
    let mut env: Vec<(&str, &str)> = member
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let guarded = upstream.url.trim_start_matches("http://");
    env.extend([
        ("MESH_TLS_LISTEN", listen.as_str()),
        ("MESH_GUARDED", guarded),
    ]);
    let guard = Part::start(&world.worker, &["guard"], &env).unwrap();
    guard.ready(LONG).unwrap();
    guard
}

/// Deletes the Secret and waits until another authority is all that is left.
fn replaced(world: &World) {
    let stage = &world.stage;
    let before = world.trust.authorities();
    assert_eq!(before.len(), 1, "{before:?}");
    let since = Instant::now();
    stage
        .kubectl(&["delete", "secret", "mesh-ca", "-n", HOME])
        .unwrap();
    // Trusted beside the old one, which still signs; then it signs; then it is alone.
    for (what, wanted) in [
        ("another authority is trusted", [2, 0]),
        ("it signs", [2, 1]),
        ("the old one is forgotten", [1, 9]),
    ] {
        stage
            .until(what, LONG, || {
                let all = world.trust.authorities();
                let place = all.iter().position(|one| *one == before[0]);
                let place = place.unwrap_or(9);
                ensure!(
                    [all.len(), place] == wanted,
                    "{} of them, the old at {place}",
                    all.len()
                );
                Ok(Some(()))
            })
            .unwrap();
        println!("  {what} after {:.0} s", since.elapsed().as_secs_f32());
    }
}

pub(super) fn deleted(world: &World) {
    let (stage, folder) = (&world.stage, world.folder.path());
    let operator = world.operator("authority", &[("MESH_AUTHORITY_SECONDS", LIFE)]);
    pod(world);
    let upstream = Upstream::start(Duration::from_millis(30)).unwrap();
    let _guard = guard(world, &operator, &upstream);
    let gateway = world.gateway(&operator, "authority", &[]);
    let app = token(stage, TEAM, "app", None).unwrap();
    let served = || ask(&gateway.api, &app, true).map(Some);
    stage.until("the pod answers", LONG, served).unwrap();

    let before = ["guard", "authority"].map(|member| identity(folder, member));
    let load = Load::start(&gateway.api, &app);
    stage
        .until(
            "requests run",
            LONG,
            || Ok((load.good() > 20).then_some(())),
        )
        .unwrap();
    replaced(world);
    for (member, before) in ["guard", "authority"].iter().zip(&before) {
        assert_ne!(
            identity(folder, member),
            *before,
            "{member} has another certificate"
        );
    }
    // Long enough for both to hear that the old one is not trusted any more.
    let seen = (Instant::now(), load.good());
    stage
        .until("requests go on", LONG, || {
            let long = seen.0.elapsed() >= Duration::from_secs(7);
            Ok((long && load.good() > seen.1 + 20).then_some(()))
        })
        .unwrap();
    let (good, bad) = load.end();
    println!("  {good} requests were answered, {} failed", bad.len());
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(operator.terminate().unwrap().success());

    // Where its key is known to others: without an operator that would write it back, nobody trusts it from then on.
    let known = world.trust.authorities();
    stage
        .kubectl(&["delete", "secret", "mesh-ca", "-n", HOME])
        .unwrap();
    let operator = world.operator("authority-new", &[("MESH_AUTHORITY_SECONDS", LIFE)]);
    stage
        .until("another authority alone is trusted", LONG, || {
            let all = world.trust.authorities();
            let leaked = all.iter().any(|one| known.contains(one));
            Ok((all.len() == 1 && !leaked).then_some(()))
        })
        .unwrap();
    stage
        .until("the pod answers by new certificates", LONG, served)
        .unwrap();
    assert!(operator.terminate().unwrap().success());
}
