use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{Seen, Standing, Verdict, standing};
use crate::canary::{Answer, Report};
use crate::confine::pools::{Pool, pools};

const INTERVAL: Duration = Duration::from_mins(5);

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("a time")
}

fn before(seconds: i64) -> String {
    let then = now() - SignedDuration::from_secs(seconds);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn policy() -> NetworkPolicy {
    serde_json::from_value(json!({"metadata": {"name": "mesh-confine", "namespace": "team", "uid": "policy", "generation": 2}})).expect("a policy")
}

/// A Job that began so many seconds ago.
fn job(pool: &str, number: u64, age: i64) -> Value {
    json!({
        "metadata": {
            "namespace": "team", "name": format!("mesh-canary-{pool}-{number}"), "uid": format!("job-{pool}-{number}"),
            "creationTimestamp": before(age),
            "labels": {"inferencemesh.dev/canary": pool},
            "annotations": {"inferencemesh.dev/confine-generation": "2", "inferencemesh.dev/canary-number": number.to_string()},
            "ownerReferences": [{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "mesh-confine", "uid": "policy"}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "canary",
            "args": ["canary", "--forbidden=api-server=10.0.0.1:443", "--allowed=gateway=g.svc:8443"]}]}}},
    })
}

/// A pod of that Job which ended so many seconds ago with these words.
fn pod(pool: &str, number: u64, age: i64, words: &str) -> Value {
    json!({
        "metadata": {"namespace": "team", "name": format!("{pool}-{number}-x"), "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": format!("job-{pool}-{number}")}]},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"containerStatuses": [
            {"name": "mesh-sidecar", "image": "", "imageID": "", "ready": false, "restartCount": 0},
            {"name": "canary", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "finishedAt": before(age), "message": words}}}]},
    })
}

fn words(forbidden: Answer, allowed: Answer) -> String {
    let report = Report::found(&[("api-server", forbidden)], &[("gateway", allowed)]);
    serde_json::to_string(&report).expect("JSON")
}

fn good() -> String {
    words(Answer::Silent, Answer::Open)
}

fn look_at(jobs: &[Value], pods: &[Value], pools: &BTreeSet<Pool>) -> Standing {
    let read =
        |value: &Value| Arc::new(serde_json::from_value::<Job>(value.clone()).expect("a Job"));
    let jobs: Vec<Arc<Job>> = jobs.iter().map(read).collect();
    let read =
        |value: &Value| Arc::new(serde_json::from_value::<Pod>(value.clone()).expect("a pod"));
    let pods: Vec<Arc<Pod>> = pods.iter().map(read).collect();
    let seen = Seen {
        jobs: &jobs,
        pods: &pods,
        pools,
        interval: INTERVAL,
        now: now(),
    };
    standing(&policy(), &seen)
}

fn look(jobs: &[Value], pods: &[Value]) -> Standing {
    look_at(jobs, pods, &pools(&[], &[]))
}

fn due(standing: &Standing) -> Vec<u64> {
    standing.due.iter().map(|(_, number)| *number).collect()
}

fn why(standing: &Standing) -> &str {
    match &standing.verdict {
        Verdict::Proved => "",
        Verdict::Leaks(text) | Verdict::Unreached(text) | Verdict::None(text) => text,
    }
}

#[test]
fn nothing_is_proved_before_a_canary_ran_and_one_is_due_at_once() {
    let found = look(&[], &[]);
    assert!(matches!(found.verdict, Verdict::None(_)));
    assert_eq!((due(&found), found.proved), (vec![1], None));
    let found = look(&[job("all", 1, 3)], &[]);
    assert!(matches!(found.verdict, Verdict::None(_)));
    assert_eq!((due(&found), found.running), (vec![], 1));
}

#[test]
fn a_good_canary_proves_for_three_intervals_and_the_next_is_due_after_one() {
    let found = look(&[job("all", 1, 100)], &[pod("all", 1, 95, &good())]);
    assert_eq!(found.verdict, Verdict::Proved);
    assert_eq!(found.proved, before(95).parse().ok());
    assert_eq!(due(&found), [0_u64; 0]);
    assert_eq!(found.next, Some(now() + SignedDuration::from_secs(200)));
    let found = look(&[job("all", 1, 301)], &[pod("all", 1, 296, &good())]);
    assert_eq!(
        (found.verdict.clone(), due(&found)),
        (Verdict::Proved, vec![2])
    );
    let old = 3 * 300 + 121;
    let found = look(&[job("all", 1, old)], &[pod("all", 1, old, &good())]);
    assert!(
        why(&found).contains("ended at 2026-01-01T11:42:59Z"),
        "{}",
        why(&found)
    );
}

#[test]
fn a_canary_that_got_out_or_did_not_get_home_is_told_and_another_follows_soon() {
    let out = words(Answer::Open, Answer::Open);
    let found = look(&[job("all", 1, 30)], &[pod("all", 1, 20, &out)]);
    assert_eq!(
        found.verdict,
        Verdict::Leaks(String::from("a canary on node n1 reached api-server"))
    );
    assert_eq!((due(&found), found.proved), (vec![], None));
    assert_eq!(found.next, Some(now() + SignedDuration::from_secs(30)));
    let lost = words(Answer::Silent, Answer::Unresolved);
    let found = look(&[job("all", 1, 61)], &[pod("all", 1, 50, &lost)]);
    assert_eq!(
        why(&found),
        "a canary on node n1 did not reach gateway (its name is not resolved)"
    );
    assert_eq!(due(&found), [2]);
}

#[test]
fn what_was_good_before_is_remembered_and_no_more_than_that() {
    let out = words(Answer::Open, Answer::Open);
    let jobs: Vec<Value> = (1..=5)
        .map(|number| {
            job(
                "all",
                number,
                1000 - 100 * i64::try_from(number).expect("small"),
            )
        })
        .collect();
    let pods = [
        pod("all", 1, 890, &good()),
        pod("all", 2, 790, &good()),
        pod("all", 3, 690, &out),
        pod("all", 4, 590, &out),
        pod("all", 5, 490, "panicked"),
    ];
    let found = look(&jobs, &pods);
    assert!(matches!(found.verdict, Verdict::Leaks(_)));
    assert_eq!(
        found.proved,
        before(790).parse().ok(),
        "age grows from the last that was good"
    );
    let old: Vec<&str> = found
        .old
        .iter()
        .filter_map(|job| job.metadata.name.as_deref())
        .collect();
    assert_eq!(old, ["mesh-canary-all-1", "mesh-canary-all-3"]);
}

#[test]
fn one_that_said_nothing_is_no_proof_and_takes_none_away() {
    let failed = pod("all", 2, 5, "");
    let found = look(
        &[job("all", 1, 100), job("all", 2, 10)],
        &[pod("all", 1, 95, &good()), failed.clone()],
    );
    assert_eq!(found.verdict, Verdict::Proved);
    let found = look(&[job("all", 2, 10)], &[failed]);
    assert!(why(&found).contains("no report"), "{}", why(&found));
    let mut gone = job("all", 1, 200);
    gone["status"] =
        json!({"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]});
    let found = look(&[gone], &[]);
    assert!(why(&found).contains("DeadlineExceeded"), "{}", why(&found));
    assert_eq!(due(&found), [2]);
    let found = look(&[job("all", 1, 400)], &[]);
    assert!(why(&found).contains("nobody runs it"), "{}", why(&found));
}

#[test]
fn what_was_not_of_this_network_policy_or_not_of_the_job_proves_nothing() {
    let mut foreign = job("all", 1, 10);
    foreign["metadata"]["ownerReferences"][0]["uid"] = json!("earlier");
    let found = look(&[foreign], &[pod("all", 1, 5, &good())]);
    assert!(matches!(found.verdict, Verdict::None(_)) && due(&found) == [1]);
    let mut stray = pod("all", 1, 5, &good());
    stray["metadata"]["ownerReferences"][0]["uid"] = json!("else");
    assert!(matches!(
        look(&[job("all", 1, 10)], &[stray]).verdict,
        Verdict::None(_)
    ));
    let mut elsewhere = pod("all", 1, 5, &good());
    elsewhere["metadata"]["namespace"] = json!("other");
    assert!(matches!(
        look(&[job("all", 1, 10)], &[elsewhere]).verdict,
        Verdict::None(_)
    ));
}

#[test]
fn a_policy_that_says_something_else_is_proved_anew_at_once() {
    let mut earlier = job("all", 1, 10);
    earlier["metadata"]["annotations"]["inferencemesh.dev/confine-generation"] = json!("1");
    let found = look(&[earlier], &[pod("all", 1, 5, &good())]);
    assert_eq!(
        (found.verdict.clone(), due(&found)),
        (Verdict::Proved, vec![2])
    );
}

#[test]
fn of_pools_that_are_due_who_has_waited_longest_is_first() {
    let node = |pool: &str| {
        let node = json!({"metadata": {"name": pool, "labels": {"pool": pool}}});
        Arc::new(serde_json::from_value::<Node>(node).expect("a node"))
    };
    let pools = pools(
        &[String::from("pool")],
        &[node("a"), node("b"), node("c"), node("d")],
    );
    let ids: Vec<String> = pools.iter().map(Pool::id).collect();
    // The first has failed lately, again and again; another longer ago; one runs.
    let given_up = |pool: &str, number: u64, age: i64| {
        let mut gone = job(pool, number, age);
        gone["status"] = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]});
        gone
    };
    let jobs = [
        given_up(&ids[0], 9, 130),
        given_up(&ids[1], 3, 900),
        job(&ids[3], 1, 5),
    ];
    assert_eq!(due(&look_at(&jobs, &[], &pools)), [1, 4, 10]);
}

#[test]
fn every_pool_must_be_proved_and_the_worst_is_told() {
    let node = |pool: &str| {
        let node = json!({"metadata": {"name": pool, "labels": {"pool": pool}}});
        Arc::new(serde_json::from_value::<Node>(node).expect("a node"))
    };
    let pools = pools(&[String::from("pool")], &[node("a"), node("b")]);
    let ids: Vec<String> = pools.iter().map(Pool::id).collect();
    let (a, b) = (&ids[0], &ids[1]);
    let jobs = [job(a, 1, 50), job(b, 1, 50), job("all", 7, 500)];
    let found = look_at(&jobs, &[pod(a, 1, 40, &good())], &pools);
    assert!(why(&found).contains("pool=b"), "{}", why(&found));
    assert_eq!(found.proved, None);
    let found = look_at(
        &jobs,
        &[pod(a, 1, 40, &good()), pod(b, 1, 45, &good())],
        &pools,
    );
    assert_eq!(found.verdict, Verdict::Proved);
    assert_eq!(found.proved, before(45).parse().ok(), "the oldest of them");
    assert_eq!(found.old.len(), 1, "a pool that is no more");
    let out = words(Answer::Open, Answer::Open);
    let found = look_at(&jobs, &[pod(b, 1, 45, &out)], &pools);
    assert!(matches!(found.verdict, Verdict::Leaks(_)));
    assert!(matches!(
        look_at(&[], &[], &BTreeSet::new()).verdict,
        Verdict::None(_)
    ));
}
