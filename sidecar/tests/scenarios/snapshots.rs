//! What the gateway pushes: taken when it can be meant, kept for the next container, and counted.

use mesh_core::{PrivacyLevel, SovereigntyClass};

use crate::world::{Running, World, chat, floor_at, line, policy};

#[tokio::test]
async fn a_changed_policy_holds_for_the_next_request() {
    let (world, running) = World::new().await.told(&policy(PrivacyLevel::Public)).await;
    running.ask(&[], &chat("hello")).await;
    world
        .gateway
        .push(&line(&policy(PrivacyLevel::Confidential)));
    let changed = async {
        loop {
            running.ask(&[], &chat("hello")).await;
            let last = world.gateway.arrived().pop().expect("it went on");
            if last.header("mesh-privacy") == Some("confidential") {
                break;
            }
        }
    };
    crate::peer::limited(changed).await;
    let first = &world.gateway.arrived()[0];
    assert_eq!(first.header("mesh-privacy"), Some("public"));
}

#[tokio::test]
async fn a_snapshot_of_another_version_is_counted_and_the_one_before_stays() {
    let (world, running) = World::new()
        .await
        .told(&policy(PrivacyLevel::Confidential))
        .await;
    let mut newer = policy(PrivacyLevel::Public);
    newer.version = 2;
    world.gateway.push(&line(&newer));
    running
        .wait_for_metric("mesh_sidecar_snapshots_rejected_total 1")
        .await;
    running.ask(&[], &chat("hello")).await;
    let last = world.gateway.arrived().pop().expect("it went on");
    assert_eq!(last.header("mesh-privacy"), Some("confidential"));
    let kept = world.pod.kept_snapshot().expect("kept");
    assert!(
        kept.contains("confidential") && !kept.contains("\"version\":2"),
        "{kept}"
    );
}

#[tokio::test]
async fn the_next_container_begins_with_what_the_last_one_kept_and_the_pushed_floor_wins() {
    let world = World::new().await;
    let mut pushed = policy(PrivacyLevel::Internal);
    let mut floor = floor_at(world.floor.address);
    floor.class = SovereigntyClass::RentedHardware;
    floor.backend = String::from("pushed");
    pushed.floor = Some(floor);
    world.pod.keep_snapshot(&line(&pushed));
    let gateway = world.gateway.address;
    world.gateway.kill().await;
    let running = Running::start(&world.pod, gateway, &[]).await.told().await;
    // Trust comes a moment later; until then nobody can prove anything.
    let answered = async {
        loop {
            let answer = running.ask(&[], &chat("hello")).await;
            if answer.status == 200 {
                break answer;
            }
        }
    };
    let answer = crate::peer::limited(answered).await;
    assert_eq!(answer.header("mesh-backend"), Some("pushed"));
    assert_eq!(answer.header("mesh-privacy"), Some("internal"));
    let refused = running
        .ask(&[("mesh-privacy", "restricted")], &chat("hello"))
        .await;
    assert_eq!(refused.status, 403);
}

#[tokio::test]
async fn a_kept_snapshot_that_is_broken_is_as_good_as_none() {
    let world = World::new().await;
    world
        .pod
        .keep_snapshot("{\"type\":\"snapshot\",\"version\":1");
    let running = Running::start(&world.pod, world.gateway.address, &[]).await;
    let running = running.knows_a_floor().await;
    running
        .wait_for_metric("mesh_sidecar_snapshots_rejected_total 1")
        .await;
    let answer = running.ask(&[], &chat("hello")).await;
    assert_eq!(answer.header("mesh-privacy"), Some("restricted"));
    assert_eq!(answer.header("mesh-backend"), Some("floor"));
}
