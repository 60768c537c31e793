//! Breakers, moving averages and budgets.

use std::time::Duration;

use mesh_core::BackendId;
use mesh_routing::health::{
    Admission, Event, FIRST_MARKED, FIRST_OPEN, Health, HealthBook, HealthView, LONGEST_OPEN,
    LONGEST_RETRY_AFTER, OpenCause, Permit, RetryBudget, TRIAL_LEASE, Tick, Transition,
};

use crate::world::{World, cloud};

const fn at(seconds: u64) -> Tick {
    Tick(Duration::from_secs(seconds))
}

fn start(health: &mut Health, now: Tick) -> Permit {
    health.start(now, false).expect("leave to call")
}

/// One call at `now` that ends like this.
fn call(health: &mut Health, event: Event, now: Tick) -> Transition {
    let permit = start(health, now);
    health.on(permit, event, now)
}

fn opened(rest: Duration, cause: OpenCause) -> Transition {
    Transition::Opened { rest, cause }
}

/// A breaker that failures opened at `now`.
fn broken(now: Tick) -> Health {
    let mut health = Health::default();
    for _ in 0..5 {
        call(&mut health, Event::Failure, now);
    }
    assert!(!health.admits(now).available());
    health
}

#[test]
fn five_failures_in_a_row_open_and_four_do_not() {
    let mut health = Health::default();
    for _ in 0..4 {
        assert_eq!(call(&mut health, Event::Failure, at(0)), Transition::Same);
    }
    assert_eq!(health.admits(at(0)), Admission::Yes);
    assert_eq!(
        call(&mut health, Event::Failure, at(0)),
        opened(FIRST_OPEN, OpenCause::Failures)
    );
    assert_eq!(health.start(at(0), false), None);
    assert_eq!(
        health.admits(at(0)),
        Admission::No {
            retry_in: FIRST_OPEN,
            cause: OpenCause::Failures
        }
    );
}

#[test]
fn a_success_between_failures_starts_the_count_anew() {
    let mut health = Health::default();
    for event in [Event::Failure; 4]
        .into_iter()
        .chain([Event::Success])
        .chain([Event::Failure; 4])
    {
        assert_eq!(call(&mut health, event, at(0)), Transition::Same);
    }
    assert_eq!(health.admits(at(0)), Admission::Yes);
}

#[test]
fn half_of_many_calls_failing_opens_though_never_many_in_a_row() {
    let mut health = Health::default();
    let mut calls = 0;
    while health.admits(at(0)) == Admission::Yes {
        let event = if calls % 2 == 0 {
            Event::Success
        } else {
            Event::Failure
        };
        call(&mut health, event, at(0));
        calls += 1;
        assert!(calls <= 20, "never opened");
    }
    assert_eq!(calls, 10);
}

#[test]
fn failures_that_are_long_past_do_not_count() {
    let mut health = Health::default();
    for round in 0..20 {
        call(&mut health, Event::Failure, at(round * 40));
        call(&mut health, Event::Success, at(round * 40));
        assert_eq!(health.admits(at(round * 40)), Admission::Yes);
    }
}

#[test]
fn a_quarter_of_calls_failing_does_not_open() {
    let mut health = Health::default();
    for number in 0..400 {
        let event = if number % 4 == 0 {
            Event::Failure
        } else {
            Event::Success
        };
        call(&mut health, event, at(number / 10));
        assert_eq!(health.admits(at(number / 10)), Admission::Yes);
    }
}

#[test]
fn streams_cut_in_the_middle_open_although_their_first_tokens_came() {
    let mut health = Health::default();
    for _ in 0..5 {
        let permit = start(&mut health, at(0));
        health.on(permit, Event::FirstToken(Duration::from_millis(50)), at(0));
        health.on(permit, Event::Interrupted, at(0));
    }
    assert!(!health.admits(at(0)).available());
}

#[test]
fn after_its_time_one_trial_call_at_a_time_is_made_and_a_good_one_closes() {
    let mut health = broken(at(0));
    assert_eq!(health.admits(at(1)), Admission::Probe);
    let trial = start(&mut health, at(1));
    assert!(trial.trial());
    assert_eq!(health.start(at(1), false), None, "one at a time");
    health.on(trial, Event::FirstToken(Duration::from_millis(9)), at(1));
    assert!(
        !health.admits(at(1)).available(),
        "a first token is not yet an answer"
    );
    assert_eq!(health.on(trial, Event::Success, at(2)), Transition::Closed);
    assert_eq!(health.admits(at(2)), Admission::Yes);
    assert_eq!(health.cause(), None);
}

#[test]
fn a_failed_trial_call_doubles_the_rest_up_to_the_longest() {
    let mut health = broken(at(0));
    let mut now = at(1);
    let mut rests = Vec::new();
    for _ in 0..9 {
        let Transition::Opened { rest, .. } = call(&mut health, Event::Failure, now) else {
            panic!("stays open");
        };
        rests.push(rest.as_secs());
        now = now.after(rest);
    }
    assert_eq!(rests, [2, 4, 8, 16, 32, 60, 60, 60, 60]);
    assert_eq!(LONGEST_OPEN.as_secs(), 60);
    call(&mut health, Event::Success, now);
    for _ in 0..5 {
        call(&mut health, Event::Failure, now);
    }
    assert_eq!(
        health.admits(now),
        Admission::No {
            retry_in: FIRST_OPEN,
            cause: OpenCause::Failures
        },
        "success resets the doubling"
    );
}

#[test]
fn answers_from_before_the_outage_neither_close_nor_prolong() {
    let mut health = Health::default();
    let early: Vec<Permit> = (0..8).map(|_| start(&mut health, at(0))).collect();
    for permit in &early[..5] {
        health.on(*permit, Event::Failure, at(0));
    }
    assert_eq!(health.on(early[5], Event::Failure, at(0)), Transition::Same);
    assert_eq!(health.on(early[6], Event::Success, at(0)), Transition::Same);
    assert_eq!(health.admits(at(1)), Admission::Probe);
    let trial = start(&mut health, at(1));
    health.on(early[7], Event::Success, at(1));
    assert!(
        !health.admits(at(1)).available(),
        "only the trial call closes"
    );
    assert_eq!(health.on(trial, Event::Success, at(1)), Transition::Closed);
}

#[test]
fn a_429_rests_as_long_as_told_and_nobody_calls_before() {
    let mut health = Health::default();
    let told = Duration::from_secs(7);
    assert_eq!(
        call(&mut health, Event::RateLimited(Some(told)), at(0)),
        opened(told, OpenCause::RateLimited)
    );
    assert_eq!(health.start(at(6), false), None);
    assert_eq!(health.start(at(6), true), None, "not even as a last resort");
    assert_eq!(health.admits(at(7)), Admission::Probe);
    call(&mut health, Event::RateLimited(None), at(7));
    assert!(
        !health.admits(at(8)).available(),
        "a 429 fails the trial call"
    );
}

#[test]
fn a_429_of_an_earlier_call_prolongs_the_rest() {
    let mut health = Health::default();
    let early = start(&mut health, at(0));
    call(
        &mut health,
        Event::RateLimited(Some(Duration::from_secs(2))),
        at(0),
    );
    let longer = Event::RateLimited(Some(Duration::from_secs(9)));
    assert_eq!(
        health.on(early, longer, at(1)),
        opened(Duration::from_secs(9), OpenCause::RateLimited)
    );
    assert!(!health.admits(at(9)).available() && health.admits(at(10)).available());
}

#[test]
fn a_retry_after_of_years_is_not_believed() {
    let mut health = Health::default();
    call(&mut health, Event::RateLimited(Some(Duration::MAX)), at(0));
    assert_eq!(health.admits(Tick(LONGEST_RETRY_AFTER)), Admission::Probe);
}

#[test]
fn a_refused_key_marks_the_backend_with_the_reason_for_longer() {
    for (status, reason) in [
        (401, "Unauthorized"),
        (402, "PaymentRequired"),
        (403, "Forbidden"),
        (404, "NotFound"),
        (407, "ProxyUnauthorized"),
    ] {
        let mut health = Health::default();
        let cause = OpenCause::Marked(status);
        assert_eq!(
            call(&mut health, Event::Marked(status), at(0)),
            opened(FIRST_MARKED, cause)
        );
        assert_eq!(health.cause().map(OpenCause::reason), Some(reason));
        assert_eq!(health.start(at(5), true), None);
    }
}

#[test]
fn what_says_nothing_about_the_backend_changes_nothing_but_gives_the_trial_back() {
    let mut health = Health::default();
    for _ in 0..50 {
        assert_eq!(call(&mut health, Event::Neutral, at(0)), Transition::Same);
    }
    assert_eq!(health.admits(at(0)), Admission::Yes);
    let mut health = broken(at(0));
    let trial = start(&mut health, at(1));
    health.on(trial, Event::Neutral, at(1));
    assert_eq!(health.admits(at(1)), Admission::Probe);
}

#[test]
fn a_trial_call_that_never_reports_does_not_keep_others_out() {
    let mut health = broken(at(0));
    let lost = start(&mut health, at(1));
    let free = at(1).after(TRIAL_LEASE);
    assert_eq!(health.admits(free), Admission::Probe);
    start(&mut health, free);
    assert_eq!(
        health.on(lost, Event::Success, free),
        Transition::Closed,
        "a long answer that ends well still closes"
    );
}

#[test]
fn a_last_resort_passes_a_breaker_that_failures_opened() {
    let mut health = broken(at(0));
    let forced = health.start(at(0), true).expect("nothing else is left");
    assert!(forced.trial());
    assert_eq!(health.on(forced, Event::Success, at(0)), Transition::Closed);
}

#[test]
fn the_moving_average_follows_first_tokens() {
    let mut health = Health::default();
    assert_eq!(health.time_to_first_token(), None);
    let permit = start(&mut health, at(0));
    health.on(permit, Event::FirstToken(Duration::from_secs(1)), at(0));
    assert_eq!(health.time_to_first_token(), Some(Duration::from_secs(1)));
    health.on(permit, Event::FirstToken(Duration::from_secs(2)), at(0));
    let average = health
        .time_to_first_token()
        .expect("measured")
        .as_secs_f64();
    assert!((average - 1.2).abs() < 1e-9);
}

#[test]
fn of_sixteen_callers_at_once_few_meet_a_dead_backend() {
    let mut health = Health::default();
    let mut reached = 0;
    for round in 0..60 {
        let now = Tick(Duration::from_millis(round * 10));
        let permits: Vec<Permit> = (0..16).filter_map(|_| health.start(now, false)).collect();
        reached += permits.len();
        for permit in permits {
            health.on(permit, Event::Failure, now);
        }
    }
    assert_eq!(reached, 16, "960 callers, and the rest goes elsewhere");
}

#[test]
fn the_book_keeps_backends_and_models_apart_and_forgets_what_is_gone() {
    let (a, b) = (
        BackendId::home("default", "a"),
        BackendId::home("default", "b"),
    );
    let mut book = HealthBook::default();
    for _ in 0..5 {
        let permit = book.start(&a, "a-model", at(0), false).expect("leave");
        book.on(&a, "a-model", permit, Event::Failure, at(0));
    }
    assert!(!book.at(at(0)).admission(&a, "a-model").available());
    assert_eq!(book.at(at(0)).admission(&a, "other"), Admission::Yes);
    assert_eq!(book.at(at(0)).admission(&b, "a-model"), Admission::Yes);
    assert_eq!(
        book.at(at(0)).status(&a, "a-model").cause,
        Some(OpenCause::Failures)
    );
    assert!(!book.at(at(0)).assumed());
    book.retain(&World::of([cloud("a", 0.5)]).snapshot);
    assert!(!book.at(at(0)).admission(&a, "a-model").available());
    book.retain(&World::of([cloud("b", 0.5)]).snapshot);
    assert_eq!(book.at(at(0)).admission(&a, "a-model"), Admission::Yes);
}

#[test]
fn retries_stay_a_share_of_the_traffic() {
    let mut budget = RetryBudget::new(at(0));
    let burst = (0..1_000).filter(|_| budget.withdraw(at(0))).count();
    assert_eq!(burst, 100);
    assert!(budget.wait() > Duration::ZERO);
    for _ in 0..50 {
        budget.deposit(at(0));
    }
    let earned = (0..1_000).filter(|_| budget.withdraw(at(0))).count();
    assert!((9..=10).contains(&earned), "{earned}");
    let waited = (0..1_000).filter(|_| budget.withdraw(at(1))).count();
    assert!((10..=11).contains(&waited), "{waited}");
}
