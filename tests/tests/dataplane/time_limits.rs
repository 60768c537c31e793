//! The deadline is over all attempts, the limit of one attempt is a whole, and the floor has
//! neither.

use std::time::Duration;

use http::StatusCode;
use mesh_testkit::upstream::{Answer, Behavior, ScriptedUpstream};
use tokio::time::Instant;

use crate::world::{FLOOR_SAYS, ask, ask_streaming, world};

async fn cloud(behavior: impl Into<Behavior>) -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await.expect("a cloud");
    upstream.set(behavior);
    upstream
}

#[tokio::test]
async fn the_deadline_bounds_all_attempts_together_and_then_the_floor_answers() {
    let hangs = [
        cloud(Behavior::HangBeforeHeaders).await,
        cloud(Behavior::HangBeforeHeaders).await,
        cloud(Behavior::HangBeforeHeaders).await,
    ];
    for body in [ask("hello"), ask_streaming("hello")] {
        let world = world()
            .cloud("a", &hangs[0], 0.9)
            .cloud("b", &hangs[1], 0.8)
            .cloud("c", &hangs[2], 0.7)
            .floor()
            .policy(|policy| {
                let failover = policy.failover.as_mut().expect("failover");
                failover.time_to_first_token = Duration::from_millis(400);
                failover.deadline = Duration::from_millis(600);
            })
            .start();
        let before = hangs[2].count();
        let started = Instant::now();
        let reply = world.chat(body).await;
        assert_eq!(reply.header("mesh-degraded"), "floor_only");
        assert!(started.elapsed() >= Duration::from_millis(600));
        assert_eq!(hangs[2].count(), before, "no time was left for the third");
    }
    assert_eq!((hangs[0].count(), hangs[1].count()), (2, 2));
}

#[tokio::test]
async fn an_answer_that_trickles_before_its_first_token_does_not_get_past_the_limit() {
    // A comment and a role come at once and again; a token never does.
    let trickle = cloud(Answer::tokens(3).with_comments().hang_before_first_token()).await;
    let world = world()
        .cloud("trickle", &trickle, 0.9)
        .floor()
        .policy(|policy| {
            let failover = policy.failover.as_mut().expect("failover");
            failover.time_to_first_token = Duration::from_millis(200);
        })
        .start();
    let reply = world.chat(ask_streaming("hello")).await;
    assert_eq!(reply.streamed_text(), FLOOR_SAYS);
}

#[tokio::test]
async fn a_long_answer_outlives_the_deadline() {
    let slow = cloud(Answer::tokens(8).every(Duration::from_millis(60))).await;
    let world = world()
        .cloud("slow", &slow, 0.9)
        .policy(|policy| {
            let failover = policy.failover.as_mut().expect("failover");
            failover.deadline = Duration::from_millis(250);
            failover.time_to_first_token = Duration::from_millis(250);
        })
        .start();
    let reply = world.chat(ask_streaming("hello")).await;
    assert!(reply.done());
    assert_eq!(reply.streamed_text(), "t0 t1 t2 t3 t4 t5 t6 t7 ");
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn a_backend_asked_for_whole_answers_gets_its_share_of_the_deadline() {
    let slow = cloud(Answer::tokens(3).first_after(Duration::from_secs(20))).await;
    let well = cloud(Answer::text("well")).await;
    let world = world()
        .cloud_with("slow", &slow, 0.9, |backend| {
            backend.stream_upstream = false;
        })
        .cloud("well", &well, 0.5)
        .policy(|policy| {
            let failover = policy.failover.as_mut().expect("failover");
            failover.deadline = Duration::from_millis(800);
            failover.time_to_first_token = Duration::from_mins(10);
        })
        .start();
    let started = Instant::now();
    let reply = world.chat(ask("hello")).await;
    assert_eq!(reply.header("mesh-backend"), "well");
    assert!(started.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_backend_that_came_back_is_tried_again_after_its_rest() {
    let cloud = cloud(Behavior::status(500)).await;
    let world = world().cloud("cloud", &cloud, 0.9).floor().start();
    for _ in 0..6 {
        assert_eq!(
            world.chat(ask("hello")).await.header("mesh-backend"),
            "floor"
        );
    }
    assert_eq!(cloud.count(), 5);
    cloud.set(Answer::text("well"));
    let mut served = String::new();
    while served != "cloud" {
        served = world
            .chat(ask("hello"))
            .await
            .header("mesh-backend")
            .to_owned();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        world.metric("mesh_gateway_backend_up{backend=\"cloud\"}"),
        Some(1.0)
    );
}
