//! A proxy that wants another password is not asked again and again: a directory locks the account for everybody who uses it.

use std::time::Duration;

use http::StatusCode;
use mesh_core::{Backend, Place, Proxy};
use mesh_testkit::proxy::{Says, ScriptedProxy};
use mesh_testkit::upstream::{Behavior, ScriptedUpstream};
use tokio::time::{sleep, timeout};

use crate::world::{World, ask, world};

/// Longest wait for probes; shorter than the rest after a refusal.
const LONG: Duration = Duration::from_secs(20);

fn behind(proxy: &ScriptedProxy) -> impl FnOnce(&mut Backend) {
    let url = proxy.url().parse().expect("a url");
    |backend| {
        let Place::Cloud(cloud) = &mut backend.place else {
            panic!("a cloud");
        };
        cloud.endpoint.url = "https://cloud.invalid/v1".parse().expect("a url");
        cloud.endpoint.proxy = Some(Proxy {
            url,
            credentials: None,
        });
    }
}

/// Whoever fails in a way that is probed shows that there is probing.
fn probes(failing: &ScriptedUpstream) -> usize {
    let asked = failing.requests();
    asked.iter().filter(|asked| asked.method == "GET").count()
}

/// Asks until there were so many further probes. One cloud may be behind a proxy: the floor answers.
async fn probed(world: &World, failing: &ScriptedUpstream, further: usize) {
    let enough = probes(failing) + further;
    let asked = async {
        while probes(failing) < enough {
            let reply = world.chat(ask("hello")).await;
            assert_eq!(reply.status, StatusCode::OK);
            assert_eq!(reply.header("mesh-backend"), "floor");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, asked).await.expect("probes");
}

async fn played() -> (ScriptedUpstream, ScriptedProxy, World) {
    let failing = ScriptedUpstream::start().await.expect("a cloud");
    failing.set(Behavior::status(500));
    let proxy = ScriptedProxy::start(failing.address())
        .await
        .expect("a proxy");
    let world = world()
        .cloud_with("proxied", &failing, 0.9, behind(&proxy))
        .cloud("failing", &failing, 0.5)
        .floor()
        .config(|config| config.probe_interval = Duration::from_millis(20))
        .start();
    (failing, proxy, world)
}

#[tokio::test]
async fn a_password_that_the_proxy_refuses_is_said_once_whatever_is_asked_and_probed() {
    let (failing, proxy, world) = played().await;
    proxy.says(Says::Status(407));
    probed(&world, &failing, 5).await;
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    let shown = world.get("/mesh/v1/backends").await.json();
    let all = shown["backends"].as_array().expect("backends");
    let health = |name: &str| {
        let mut found = all.iter().filter(|one| one["backend"] == name);
        found.next().expect("shown")["models"][0]["health"].clone()
    };
    assert_eq!(health("proxied")["state"], "resting");
    assert_eq!(health("proxied")["reason"], "ProxyUnauthorized");
    assert_eq!(health("failing")["reason"], "Failures");
}

#[tokio::test]
async fn a_proxy_that_comes_back_and_wants_another_password_is_probed_once() {
    let (failing, proxy, world) = played().await;
    proxy.says(Says::Nothing);
    probed(&world, &failing, 5).await;
    let before = proxy.heads().len();
    assert!(before > 5, "requests and probes: {before}");
    proxy.says(Says::Status(407));
    probed(&world, &failing, 20).await;
    // One that was on its way, a probe, and a trial call if its time had come.
    let after = proxy.heads().len();
    assert!(after <= before + 3, "{before} {after}");
}
