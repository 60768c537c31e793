//! From logits to a token: penalties, temperature, top-k, top-p, seeded choice; log probabilities.
//!
//! A temperature of 0 takes the largest logit (the lowest id among equals). Log probabilities are
//! those of the model itself, before penalties and temperature. The random numbers of a choice come
//! from its seed and its number alone, so a seed gives the same text alone and in a batch.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "probabilities and counts need no more than an f32 has"
)]

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// How to choose tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; absent: the engine's default.
    pub temperature: Option<f32>,
    /// Keep the most probable tokens up to this mass; absent: the engine's default.
    pub top_p: Option<f32>,
    /// Keep so many of the most probable tokens; absent or 0: all.
    pub top_k: Option<u32>,
    /// Start of the random numbers; absent: another one every time.
    pub seed: Option<u64>,
    /// Subtracted from the logit of every token that was generated before.
    pub presence_penalty: f32,
    /// Subtracted once per earlier occurrence.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
}

/// A token with the logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    /// Id of the token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Random numbers: `SplitMix64` (Steele, Lea, Flood 2014), fixed here so that seeds keep their meaning.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The sampler of one choice.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    presence: f32,
    frequency: f32,
    bias: Vec<(u32, f32)>,
    seen: HashMap<u32, u32>,
    random: Random,
    /// Kept between tokens: changed logits, and candidates by weight.
    logits: Vec<f32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// The sampler of choice number `choice`, with the engine's temperature and top-p where absent.
    pub(crate) fn new(sampling: &Sampling, choice: u32, temperature: f32, top_p: f32) -> Self {
        let seed = sampling
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(choice));
        // The second number of the seed's own stream: neighboring seeds and choices do not overlap.
        let mut random = Random(Random(seed).next() ^ Random(u64::from(choice)).next());
        random.next();
        Self {
            temperature: sampling.temperature.unwrap_or(temperature).max(0.0),
            top_p: sampling.top_p.unwrap_or(top_p),
            top_k: sampling.top_k.map_or(0, |k| k as usize),
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            bias: sampling.logit_bias.clone(),
            seen: HashMap::new(),
            random,
            logits: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Chooses the next token and remembers it for the penalties.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> u32 {
        let token = if self.bias.is_empty() && self.presence == 0.0 && self.frequency == 0.0 {
            self.pick(logits)
        } else {
            let mut changed = std::mem::take(&mut self.logits);
            changed.clear();
            changed.extend_from_slice(logits);
            self.change(&mut changed);
            let token = self.pick(&changed);
            self.logits = changed;
            token
        };
        *self.seen.entry(token).or_insert(0) += 1;
        token
    }

    fn change(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for (&token, &count) in &self.seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= self.presence + self.frequency * count as f32;
            }
        }
    }

    fn pick(&mut self, logits: &[f32]) -> u32 {
        let best = largest(logits);
        if self.temperature <= 0.0 || self.top_k == 1 {
            return best;
        }
        let top = logits.get(best as usize).copied().unwrap_or(0.0);
        let inverse = 1.0 / self.temperature;
        let weights = logits
            .iter()
            .zip(0u32..)
            .map(|(logit, token)| (((logit - top) * inverse).exp(), token));
        self.candidates.clear();
        // What is not a number has no weight.
        self.candidates
            .extend(weights.filter(|(weight, _)| *weight > 0.0));
        if self.top_k > 0 && self.top_k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(self.top_k - 1, heavier);
            self.candidates.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            self.nucleus();
        }
        // In the order of ids or of weight, never in the order a partial sort happened to leave.
        self.candidates.sort_unstable_by(heavier);
        let total: f64 = self
            .candidates
            .iter()
            .map(|(weight, _)| f64::from(*weight))
            .sum();
        let mut left = self.random.unit() * total;
        for (weight, token) in &self.candidates {
            left -= f64::from(*weight);
            if left < 0.0 {
                return *token;
            }
        }
        best
    }

    /// Keeps the heaviest candidates up to the mass of top-p, at least one.
    fn nucleus(&mut self) {
        let total: f64 = self
            .candidates
            .iter()
            .map(|(weight, _)| f64::from(*weight))
            .sum();
        let wanted = total * f64::from(self.top_p.max(0.0));
        let mut size = 128;
        loop {
            let part = size.min(self.candidates.len());
            if part < self.candidates.len() {
                self.candidates.select_nth_unstable_by(part, heavier);
            }
            self.candidates[..part].sort_unstable_by(heavier);
            let mut mass = 0.0;
            for (i, (weight, _)) in self.candidates[..part].iter().enumerate() {
                mass += f64::from(*weight);
                if mass >= wanted {
                    return self.candidates.truncate(i + 1);
                }
            }
            if part == self.candidates.len() {
                return;
            }
            size *= 8;
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that sorting asks for"
)]
fn heavier(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn largest(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (&logit, token) in logits.iter().zip(0u32..) {
        if logit > best.0 {
            best = (logit, token);
        }
    }
    best.1
}

/// Log probability of `token` and the `top` most probable ones, of the model's own distribution.
pub(crate) fn logprobs(logits: &[f32], token: u32, top: usize) -> (f32, Vec<Scored>) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .sum();
    let norm = largest + sum.ln() as f32;
    let mut order: Vec<(f32, u32)> = logits.iter().copied().zip(0u32..).collect();
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, heavier);
    }
    order.truncate(top);
    order.sort_unstable_by(heavier);
    let chosen = logits
        .get(token as usize)
        .map_or(f32::NEG_INFINITY, |logit| logit - norm);
    (
        chosen,
        order
            .into_iter()
            .map(|(logit, token)| Scored {
                token,
                logprob: logit - norm,
            })
            .collect(),
    )
}

/// Longest period that counts as a loop.
const PERIOD: usize = 32;
/// Length of a stretch that counts as a loop.
const STRETCH: usize = 96;

/// Notices when a text repeats itself: a period of up to 32 tokens over at least 96 tokens.
#[derive(Debug)]
pub(crate) struct Loops {
    last: [u32; PERIOD],
    count: usize,
    /// Per period, how many tokens in a row equal the one a period before.
    runs: [usize; PERIOD],
}

impl Default for Loops {
    fn default() -> Self {
        Self {
            last: [0; PERIOD],
            count: 0,
            runs: [0; PERIOD],
        }
    }
}

impl Loops {
    /// Takes the next token; true once the text loops.
    pub(crate) fn push(&mut self, token: u32) -> bool {
        let mut looping = false;
        for (i, run) in self.runs.iter_mut().enumerate() {
            let period = i + 1;
            let same = self.count >= period && self.last[(self.count - period) % PERIOD] == token;
            *run = if same { *run + 1 } else { 0 };
            looping |= *run + period >= STRETCH;
        }
        self.last[self.count % PERIOD] = token;
        self.count += 1;
        looping
    }
}

#[cfg(test)]
mod tests;
