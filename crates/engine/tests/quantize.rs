//! A trained model that is quantized stays close to the file it was made of. That the text is still
//! fluent would prove little: the distributions of the next token are compared, position by position.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a broken promise ends the test; skips and figures are told"
)]

#[expect(dead_code, reason = "the reference is of other tests")]
mod model;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use mesh_engine::quantize::{Format, quantize};
use mesh_engine::{Engine, EngineOptions};

fn logits(path: &Path, tokens: &[u32]) -> Vec<Vec<f32>> {
    let options = EngineOptions {
        threads: Some(2),
        ..EngineOptions::default()
    };
    let engine = Engine::load(path, options).unwrap();
    engine.evaluate(tokens, None).unwrap()
}

fn log_probs(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - largest).exp())
        .sum();
    let one = |&logit: &f32| f64::from(logit - largest) - total.ln();
    logits.iter().map(one).collect()
}

/// Mean over the positions of the sum of p ln(p/q), over the whole vocabulary.
fn divergence(parent: &[Vec<f32>], child: &[Vec<f32>]) -> f64 {
    let one = |(parent, child): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let pairs = log_probs(parent).into_iter().zip(log_probs(child));
        pairs.map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let sum: f64 = parent.iter().zip(child).map(one).sum();
    sum / f64::from(u32::try_from(parent.len()).unwrap())
}

#[test]
fn a_trained_model_in_a_new_format_stays_close_to_its_parent() {
    let Some(path) = model::path() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = "The sea is large. A mesh keeps private requests at home and fails over when a cloud is gone.";
    let tokens = Engine::load(&path, EngineOptions::default())
        .unwrap()
        .tokenizer()
        .encode(text, false);
    let expected = logits(&path, &tokens);
    // The parent has Q4_1 blocks. Q8_0 holds any 16 levels nearly exactly; Q4_0 has no minimum, so its
    // levels lie elsewhere and every weight moves by up to half a step: what a file made straight of the
    // original would show too, plus the parent's own rounding. Measured: 1.9e-3 and 0.46. One tensor whose
    // blocks are in a wrong order costs several nats.
    for (format, bound) in [(Format::Q8_0, 5e-3), (Format::Q4_0, 0.6)] {
        let out = folder.path().join(format.name());
        let made = quantize(&path, format, &out, &AtomicBool::new(false), &mut |_, _| ()).unwrap();
        assert!(made.warning.is_some_and(|text| text.contains("Q4_1")));
        let mean = divergence(&expected, &logits(&out, &tokens));
        println!("{} of Q4_1: mean KL {mean:.2e}", format.name());
        assert!((1e-9..bound).contains(&mean), "{}: {mean}", format.name());
    }
}
