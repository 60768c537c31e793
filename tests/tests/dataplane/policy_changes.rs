//! A policy that changes while a request is on its way counts for the attempts that are still to
//! come: every attempt is admitted again.

use std::sync::Arc;

use http::StatusCode;
use mesh_core::{PrivacyLevel, SovereigntyClass};
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};

use crate::world::{World, ask, world};

/// Puts a changed policy in place.
fn swap(world: &World, change: impl FnOnce(&mut mesh_core::Policy)) {
    let mut snapshot = mesh_core::Snapshot::clone(&world.store.current());
    let mut policy = mesh_core::Policy::clone(&snapshot.policies[0]);
    change(&mut policy);
    snapshot.policies = vec![Arc::new(policy)];
    world.store.replace(snapshot);
}

#[tokio::test]
async fn a_policy_swapped_between_two_attempts_refuses_the_second() {
    let first = ScriptedUpstream::start().await.expect("a cloud");
    let second = ScriptedUpstream::start().await.expect("a cloud");
    first.set(Behavior::HangBeforeHeaders);
    second.set(Answer::text("never"));
    let world = world()
        .cloud("first", &first, 0.9)
        .cloud("second", &second, 0.8)
        .floor()
        .start();
    let change = async {
        first.asked(1).await;
        swap(&world, |policy| {
            let minimum = &mut policy.constraints.minimum_class;
            minimum.insert(PrivacyLevel::Public, SovereigntyClass::OwnHardware);
        });
        first.kill().await;
    };
    let (reply, ()) = tokio::join!(world.chat(ask("hello")), change);
    assert_eq!(reply.header("mesh-backend"), "floor");
    assert_eq!(second.connections(), 0, "the new policy refuses it");
    let refused = "mesh_gateway_attempts_total{backend=\"second\",sovereignty_class=\"cloud_domestic\",outcome=\"refused\"}";
    assert_eq!(world.metric(refused), Some(1.0));
}

#[tokio::test]
async fn a_level_that_rose_meanwhile_counts() {
    let first = ScriptedUpstream::start().await.expect("a cloud");
    let second = ScriptedUpstream::start().await.expect("a cloud");
    first.set(Behavior::HangBeforeHeaders);
    let world = world()
        .cloud("first", &first, 0.9)
        .cloud("second", &second, 0.8)
        .start();
    let change = async {
        first.asked(1).await;
        swap(&world, |policy| {
            policy.default_privacy = Some(PrivacyLevel::Restricted);
        });
        first.kill().await;
    };
    let (reply, ()) = tokio::join!(world.chat(ask("hello")), change);
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(
        body.contains("second: refused by policy (minimum_class)"),
        "{body}"
    );
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn a_new_snapshot_serves_the_next_request_and_a_rejected_one_changes_nothing() {
    let cloud = ScriptedUpstream::start().await.expect("a cloud");
    let world = world().cloud("cloud", &cloud, 0.9).floor().start();
    assert_eq!(
        world.chat(ask("hello")).await.header("mesh-backend"),
        "cloud"
    );
    world.store.reject();
    assert_eq!(
        world.chat(ask("hello")).await.header("mesh-backend"),
        "cloud"
    );
    assert_eq!(
        world.metric("mesh_gateway_snapshots_rejected_total"),
        Some(1.0)
    );
    swap(&world, |policy| {
        policy.default_privacy = Some(PrivacyLevel::Confidential);
    });
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "floor");
    assert_eq!(reply.header("mesh-degraded"), "", "served as planned");
    assert_eq!(cloud.count(), 2);
}
