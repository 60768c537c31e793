//! What a sidecar is told: at once, again when it changes, and nothing that is not its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_core::pushed::{Line, PATH, Pushed};
use mesh_core::{Caller, NamespaceSelector, PolicyId, PrivacyLevel, Snapshot, SovereigntyClass};
use mesh_dataplane::Unrecognized;
use tower::ServiceExt;

use crate::world::{World, world};

/// A pod of `team`, a key, and whether tokens are still good.
#[derive(Debug, Default)]
struct Callers {
    over: AtomicBool,
}

impl mesh_dataplane::Callers for Callers {
    fn caller(&self, bearer: &[u8]) -> Result<Caller, Unrecognized> {
        if self.over.load(Ordering::Relaxed) {
            return Err(Unrecognized::Nobody);
        }
        let pod = |namespace: &str| Caller {
            service_account: Some(String::from("app")),
            tenant_labels: BTreeMap::from([(String::from("team"), namespace.to_owned())]),
            ..Caller::local(namespace)
        };
        match bearer {
            b"team" => Ok(pod("team")),
            b"other" => Ok(pod("other")),
            b"key" => Ok(Caller::local("default")),
            _ => Err(Unrecognized::Nobody),
        }
    }
}

fn start() -> (World, Arc<Callers>) {
    let callers = Arc::new(Callers::default());
    let own = Arc::clone(&callers);
    let world = world()
        .floor()
        .config(|config| config.callers = Some(own))
        .start();
    (world, callers)
}

async fn open(world: &World, bearer: &str) -> http::Response<Body> {
    let request = Request::get(PATH).header("authorization", format!("Bearer {bearer}"));
    let request = request.body(Body::empty()).expect("a request");
    let router = world.plane.router_of_cluster();
    router.oneshot(request).await.expect("an answer")
}

/// The next snapshot of a stream; `None` at its end.
async fn next(body: &mut Body) -> Option<Pushed> {
    loop {
        let frame = body.frame().await?.expect("a piece");
        let text = frame.into_data().expect("data");
        if let Line::Snapshot(pushed) = Line::read(&text).expect("a line") {
            return Some(*pushed);
        }
    }
}

fn change(world: &World, change: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = (*world.store.current()).clone();
    change(&mut snapshot);
    world.store.replace(snapshot);
}

#[tokio::test]
async fn a_pod_is_told_its_policies_at_once_and_when_they_change_and_others_are_not() {
    let (world, _) = start();
    let answer = open(&world, "team").await;
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let mut team = answer.into_body();
    let mut other = open(&world, "other").await.into_body();
    let first = next(&mut team).await.expect("a snapshot");
    assert_eq!(first.base_level, PrivacyLevel::Public);
    assert_eq!(
        first.minimum(PrivacyLevel::Restricted),
        SovereigntyClass::OwnHardware
    );
    assert_eq!(first.policies.len(), 1);
    assert_eq!(first.floor, None, "this one is no pod");
    assert_eq!(next(&mut other).await, Some(first.clone()));
    change(&world, |snapshot| {
        let mut more = (*snapshot.policies[0]).clone();
        more.id = PolicyId::home("default", "team");
        more.default_privacy = Some(PrivacyLevel::Restricted);
        more.namespaces = NamespaceSelector {
            match_labels: BTreeMap::from([(String::from("team"), String::from("team"))]),
        };
        snapshot.policies.push(Arc::new(more));
    });
    let second = next(&mut team).await.expect("a snapshot");
    assert_eq!(second.base_level, PrivacyLevel::Restricted);
    assert_eq!(second.policies.len(), 2);
    // What the other is told next is a change of its own, so that one was none.
    change(&world, |snapshot| snapshot.policies.clear());
    let third = next(&mut other).await.expect("a snapshot");
    assert_eq!(
        (third.policies.len(), third.base_level),
        (0, PrivacyLevel::Confidential)
    );
}

#[tokio::test]
async fn only_pods_are_told_and_only_at_the_port_for_tokens() {
    let (world, _) = start();
    assert_eq!(
        open(&world, "nobody").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(open(&world, "key").await.status(), StatusCode::NOT_FOUND);
    let request = Request::get(PATH).header("authorization", "Bearer team");
    let plain = world
        .send(request.body(Body::empty()).expect("a request"))
        .await;
    assert_eq!(plain.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_gateway_that_has_read_nothing_tells_nothing() {
    let (world, _) = start();
    let callers: Arc<dyn mesh_dataplane::Callers> = Arc::new(Callers::default());
    let config = mesh_dataplane::Config {
        callers: Some(callers),
        ..mesh_dataplane::Config::default()
    };
    let empty = Snapshot::empty("default", jiff::Timestamp::now());
    let plane = world.another(config, empty);
    let request = Request::get(PATH).header("authorization", "Bearer team");
    let request = request.body(Body::empty()).expect("a request");
    let answer = plane
        .router_of_cluster()
        .oneshot(request)
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn a_stream_lives_by_signs_of_life_and_ends_with_the_token() {
    let (world, callers) = start();
    let mut body = open(&world, "team").await.into_body();
    next(&mut body).await.expect("a snapshot");
    for _ in 0..3 {
        let frame = body.frame().await.expect("a line").expect("a piece");
        let line = Line::read(&frame.into_data().expect("data"));
        assert_eq!(line, Ok(Line::Alive));
    }
    callers.over.store(true, Ordering::Relaxed);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_the_gateway_does() {
    let (world, _) = start();
    let mut body = open(&world, "team").await.into_body();
    next(&mut body).await.expect("a snapshot");
    world.stop();
    assert!(body.frame().await.is_none());
}
