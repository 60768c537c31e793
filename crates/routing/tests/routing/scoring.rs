//! Semantics section 4: each term, by hand.

use std::time::Duration;

use mesh_core::policy::{Policy, PrivacyWeight, References, Weights};
use mesh_core::{
    Complexity, Facts, PrivacyLevel, Score, ServedModel, SovereigntyClass, TaskQuality, TaskType,
};
use mesh_routing::score::{ScoreInput, assumed_latency, score};

use crate::world::{World, facts, model, policy};

struct Case {
    policy: Policy,
    facts: Facts,
    model: ServedModel,
    class: SovereigntyClass,
    level: PrivacyLevel,
    measured: Option<Duration>,
}

impl Case {
    fn new() -> Self {
        Self {
            policy: policy(),
            facts: facts(PrivacyLevel::Public),
            model: model("m", 0.8),
            class: SovereigntyClass::CloudDomestic,
            level: PrivacyLevel::Public,
            measured: None,
        }
    }

    fn score(&self) -> Score {
        score(&ScoreInput {
            policy: &World::new([], [self.policy.clone()]).policy(),
            facts: &self.facts,
            level: self.level,
            model: &self.model,
            class: self.class,
            time_to_first_token: self.measured,
        })
    }
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-12
}

#[test]
fn quality_is_for_the_task_else_for_chat_else_the_default() {
    let mut case = Case::new();
    assert!(near(case.score().quality, 0.8));
    case.facts.task = TaskType::Code;
    assert!(near(case.score().quality, 0.8), "chat stands in");
    case.model.capabilities.tasks.push(TaskQuality {
        task: TaskType::Code,
        quality: 0.6,
        source: String::new(),
    });
    assert!(near(case.score().quality, 0.6));
    case.model.capabilities.tasks.clear();
    assert!(near(case.score().quality, 0.3));
}

#[test]
fn complexity_costs_half_of_the_missing_quality() {
    let mut case = Case::new();
    case.facts.complexity = Complexity::new(1.0);
    assert!(near(case.score().quality, 0.8 - 0.5 * 0.2));
    case.facts.complexity = Complexity::new(0.5);
    assert!(near(case.score().quality, 0.8 - 0.25 * 0.2));
}

#[test]
fn cost_is_the_expected_price_against_the_reference() {
    let mut case = Case::new();
    // 100 tokens at 2 and 512 at 8, against 612 tokens at 10.
    assert!(near(
        case.score().cost,
        (100.0 * 2.0 + 512.0 * 8.0) / 6_120.0
    ));
    case.facts.needs.max_output_tokens = Some(100);
    assert!(near(case.score().cost, (200.0 + 800.0) / 2_000.0));
    case.facts.needs.max_output_tokens = Some(100_000);
    assert!(
        near(case.score().cost, (200.0 + 4_096.0) / 6_120.0),
        "at most 512"
    );
}

#[test]
fn an_unknown_price_or_currency_counts_as_expensive() {
    let mut case = Case::new();
    case.model.price.as_mut().expect("a price").currency = String::from("USD");
    assert!(near(case.score().cost, 1.0));
    case.policy.references = Some(References {
        exchange_rates: [(String::from("USD"), 0.5)].into(),
        ..References::default()
    });
    assert!(near(case.score().cost, (200.0 + 4_096.0) * 0.5 / 6_120.0));
    case.model.price = None;
    assert!(near(case.score().cost, 1.0));
}

#[test]
fn latency_is_measured_against_the_reference_or_assumed_by_class() {
    let mut case = Case::new();
    assert!(near(case.score().latency, assumed_latency(case.class)));
    case.measured = Some(Duration::from_secs(1));
    assert!(near(case.score().latency, 0.2));
    case.measured = Some(Duration::from_secs(50));
    assert!(near(case.score().latency, 1.0));
}

#[test]
fn privacy_falls_with_the_level_where_the_class_is_worse() {
    let mut case = Case::new();
    assert!(near(case.score().privacy, 1.0));
    case.level = PrivacyLevel::Restricted;
    assert!(near(case.score().privacy, 0.4));
    case.level = PrivacyLevel::Internal;
    assert!(near(case.score().privacy, 1.0 - 0.6 / 3.0));
    case.class = SovereigntyClass::OwnHardware;
    assert!(near(case.score().privacy, 1.0));
}

#[test]
fn hard_takes_the_privacy_term_out_and_weighted_scores_it() {
    let mut case = Case::new();
    let terms = case.score();
    let hard = (0.30 * terms.quality
        + 0.15 * (1.0 - terms.cost)
        + 0.15 * (1.0 - terms.latency)
        + 0.25 * terms.sovereignty)
        / 0.85;
    assert!(near(terms.total, hard));
    case.policy.privacy_weight = Some(PrivacyWeight::Weighted);
    assert!(near(case.score().total, hard * 0.85 + 0.15 * terms.privacy));
}

#[test]
fn weights_of_any_scale_are_normalized() {
    let mut case = Case::new();
    let before = case.score().total;
    let weights = Weights::default();
    case.policy.weights = Some(Weights {
        quality: weights.quality * 40.0,
        cost: weights.cost * 40.0,
        latency: weights.latency * 40.0,
        sovereignty: weights.sovereignty * 40.0,
        privacy: weights.privacy * 40.0,
    });
    assert!(near(case.score().total, before));
}

#[test]
fn prefer_local_adds_a_constant_to_owned_backends_only() {
    let mut case = Case::new();
    let cloud = case.score().total;
    case.class = SovereigntyClass::OwnHardware;
    let own = case.score().total;
    case.policy.prefer_local_gap = Some(0.5);
    assert!(near(case.score().total, own + 0.5 * 0.30 / 0.85));
    case.class = SovereigntyClass::CloudDomestic;
    assert!(near(case.score().total, cloud));
}

#[test]
fn figures_that_are_no_numbers_still_give_terms_between_zero_and_one() {
    for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0] {
        let mut case = Case::new();
        case.policy.weights = Some(Weights {
            quality: strange,
            cost: strange,
            latency: strange,
            sovereignty: strange,
            privacy: strange,
        });
        case.policy.references = Some(References {
            cost_per_million: strange,
            latency: Duration::ZERO,
            ..References::default()
        });
        case.policy.prefer_local_gap = Some(strange);
        case.model.capabilities.tasks[0].quality = strange;
        case.model
            .price
            .as_mut()
            .expect("a price")
            .input_per_million = strange;
        case.measured = Some(Duration::MAX);
        let score = case.score();
        for term in [score.quality, score.cost, score.latency, score.privacy] {
            assert!((0.0..=1.0).contains(&term), "{strange}: {score:?}");
        }
        assert!(score.total.is_finite(), "{strange}: {score:?}");
    }
}

#[test]
fn a_negative_price_does_not_buy_a_place() {
    let mut case = Case::new();
    case.model
        .price
        .as_mut()
        .expect("a price")
        .output_per_million = -5.0;
    assert!(near(case.score().cost, 1.0));
}
