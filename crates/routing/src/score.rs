//! How good an admitted backend is for a request (`semantics` section 4). Every term is 0..=1
//! against fixed references of the policy, never against the other candidates, so that adding a
//! backend cannot reorder two others. Figures from outside may be negative, infinite or not a
//! number: each is taken for the careful end of its range.

use std::time::Duration;

use mesh_core::policy::PrivacyWeight;
use mesh_core::{Facts, Price, PrivacyLevel, Score, ServedModel, SovereigntyClass, TaskType};

use crate::policy::EffectivePolicy;

/// Quality of a model that declares none.
pub const DEFAULT_QUALITY: f64 = 0.3;
/// Longest answer that is counted, in tokens; also the answer expected where no limit is given.
pub const EXPECTED_OUTPUT: u32 = 512;
/// How much of the missing quality the hardest request costs.
const COMPLEXITY_DISCOUNT: f64 = 0.5;

/// What [`score`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct ScoreInput<'a> {
    /// Weights and references.
    pub policy: &'a EffectivePolicy,
    /// What classification found.
    pub facts: &'a Facts,
    /// Level of the request.
    pub level: PrivacyLevel,
    /// The model.
    pub model: &'a ServedModel,
    /// Class of its backend.
    pub class: SovereigntyClass,
    /// Moving average of the time to the first token; absent before the first sample.
    pub time_to_first_token: Option<Duration>,
}

/// Scores one admitted model.
pub fn score(input: &ScoreInput<'_>) -> Score {
    let weights = normalized(input.policy);
    let sovereignty = input.class.score();
    let terms = Score {
        quality: quality(input.model, input.facts),
        cost: cost(input),
        latency: latency(input),
        sovereignty,
        privacy: 1.0 - (f64::from(input.level.rank()) / 3.0) * (1.0 - sovereignty),
        total: 0.0,
    };
    let prefer_local = if input.class.owned() {
        weights.quality * unit(input.policy.prefer_local_gap(), 0.0)
    } else {
        0.0
    };
    let total = weights.quality * terms.quality
        + weights.cost * (1.0 - terms.cost)
        + weights.latency * (1.0 - terms.latency)
        + weights.sovereignty * terms.sovereignty
        + weights.privacy * terms.privacy
        + prefer_local;
    Score { total, ..terms }
}

/// Time to the first token before it was ever measured, as a share of the reference: what is near
/// is expected to answer sooner. Only the order of magnitude matters; the first sample replaces it.
pub const fn assumed_latency(class: SovereigntyClass) -> f64 {
    match class {
        SovereigntyClass::OwnHardware | SovereigntyClass::RentedHardware => 0.15,
        SovereigntyClass::CloudDomestic
        | SovereigntyClass::CloudForeign
        | SovereigntyClass::CloudRetained => 0.2,
        SovereigntyClass::TrustedSwarm => 0.3,
        SovereigntyClass::OpenSwarm => 0.4,
    }
}

/// Clamps into 0..=1; what is not a number becomes `otherwise`.
fn unit(value: f64, otherwise: f64) -> f64 {
    if value.is_nan() {
        otherwise
    } else {
        value.clamp(0.0, 1.0)
    }
}

struct Normalized {
    quality: f64,
    cost: f64,
    latency: f64,
    sovereignty: f64,
    privacy: f64,
}

/// Weights with sum 1. Hard takes the privacy term out. Weights of which nothing is usable give way
/// to the built-in ones.
fn normalized(policy: &EffectivePolicy) -> Normalized {
    let usable = |weight: f64| {
        if weight.is_finite() {
            weight.max(0.0)
        } else {
            0.0
        }
    };
    let scored = policy.privacy_weight() == PrivacyWeight::Weighted;
    let take = |weights: &mesh_core::policy::Weights| Normalized {
        quality: usable(weights.quality),
        cost: usable(weights.cost),
        latency: usable(weights.latency),
        sovereignty: usable(weights.sovereignty),
        privacy: if scored { usable(weights.privacy) } else { 0.0 },
    };
    let sum = |w: &Normalized| w.quality + w.cost + w.latency + w.sovereignty + w.privacy;
    let mut weights = take(policy.weights());
    let mut total = sum(&weights);
    if !(total.is_finite() && total > 0.0) {
        weights = take(&mesh_core::policy::Weights::default());
        total = sum(&weights);
    }
    Normalized {
        quality: weights.quality / total,
        cost: weights.cost / total,
        latency: weights.latency / total,
        sovereignty: weights.sovereignty / total,
        privacy: weights.privacy / total,
    }
}

/// Declared for the task, else for Chat, else the default; less what complexity takes from weak
/// models.
fn quality(model: &ServedModel, facts: &Facts) -> f64 {
    let declared = |task: TaskType| {
        model
            .capabilities
            .tasks
            .iter()
            .find(|entry| entry.task == task)
            .map(|entry| unit(entry.quality, 0.0))
    };
    let plain = declared(facts.task)
        .or_else(|| declared(TaskType::Chat))
        .unwrap_or(DEFAULT_QUALITY);
    let discount = facts.complexity.value() * COMPLEXITY_DISCOUNT * (1.0 - plain);
    unit(plain - discount, 0.0)
}

/// Price of prompt and expected answer against the reference. 1 where the price or its currency is
/// unknown.
fn cost(input: &ScoreInput<'_>) -> f64 {
    let references = input.policy.references();
    let Some(price) = &input.model.price else {
        return 1.0;
    };
    if !(price.input_per_million >= 0.0 && price.output_per_million >= 0.0) {
        return 1.0;
    }
    let Some(rate) = exchange_rate(input.policy, price) else {
        return 1.0;
    };
    let needs = &input.facts.needs;
    let output = if needs.embeddings {
        0
    } else {
        needs
            .max_output_tokens
            .unwrap_or(EXPECTED_OUTPUT)
            .min(EXPECTED_OUTPUT)
    };
    let (prompt, output) = (f64::from(needs.prompt_tokens), f64::from(output));
    let spent = (prompt * price.input_per_million + output * price.output_per_million) * rate;
    let reference = (prompt + output) * references.cost_per_million;
    if spent <= 0.0 {
        return 0.0;
    }
    if reference > 0.0 {
        unit(spent / reference, 1.0)
    } else {
        1.0
    }
}

fn exchange_rate(policy: &EffectivePolicy, price: &Price) -> Option<f64> {
    let references = policy.references();
    if price.currency == references.currency {
        return Some(1.0);
    }
    references
        .exchange_rates
        .get(&price.currency)
        .copied()
        .filter(|rate| rate.is_finite() && *rate > 0.0)
}

/// Measured time to the first token against the reference, or the class's constant.
fn latency(input: &ScoreInput<'_>) -> f64 {
    let Some(measured) = input.time_to_first_token else {
        return assumed_latency(input.class);
    };
    let reference = input.policy.references().latency.as_secs_f64();
    if reference > 0.0 {
        unit(measured.as_secs_f64() / reference, 1.0)
    } else {
        1.0
    }
}
