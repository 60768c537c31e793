//! Choices by their rules.

use super::{Loops, Sampler, Sampling, logprobs};

fn sampler(sampling: &Sampling) -> Sampler {
    Sampler::new(sampling, 0, 1.0, 1.0)
}

fn seeded(seed: u64) -> Sampling {
    Sampling {
        seed: Some(seed),
        ..Sampling::default()
    }
}

#[test]
fn temperature_zero_takes_the_largest_and_the_lowest_of_equals() {
    let mut greedy = sampler(&Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    });
    assert_eq!(greedy.choose(&[0.0, 3.0, 3.0, f32::NAN]), 1);
    assert_eq!(greedy.choose(&[f32::NAN, f32::NEG_INFINITY]), 0);
}

#[test]
fn a_seed_fixes_the_choices_and_another_seed_or_choice_changes_them() {
    let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32 * 0.1).collect();
    let draw = |seed, choice| -> Vec<u32> {
        let mut sampler = Sampler::new(&seeded(seed), choice, 1.0, 1.0);
        (0..32).map(|_| sampler.choose(&logits)).collect()
    };
    assert_eq!(draw(1, 0), draw(1, 0));
    assert_ne!(draw(1, 0), draw(2, 0));
    assert_ne!(draw(1, 0), draw(1, 1));
}

#[test]
fn tokens_are_chosen_as_often_as_their_probability_says() {
    let logits = [0.0f32, 1.0, 2.0];
    let mut sampler = sampler(&seeded(3));
    let mut counts = [0.0; 3];
    (0..20_000).for_each(|_| counts[sampler.choose(&logits) as usize] += 1.0 / 20_000.0);
    let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
    for (count, logit) in counts.iter().zip(logits) {
        assert!((count - logit.exp() / total).abs() < 0.015, "{counts:?}");
    }
}

#[test]
fn top_k_and_top_p_keep_only_the_most_probable() {
    let logits: Vec<f32> = (0..1_000).map(|i| i as f32 * 0.01).collect();
    let mut few = sampler(&Sampling {
        top_k: Some(3),
        ..seeded(5)
    });
    let mut nucleus = sampler(&Sampling {
        top_p: Some(0.5),
        ..seeded(5)
    });
    let mut one = sampler(&Sampling {
        top_p: Some(0.0),
        ..seeded(5)
    });
    // Half of the mass of exp(0.01 i) lies in the last ln(2) / 0.01 = 69 tokens.
    for _ in 0..500 {
        assert!(few.choose(&logits) >= 997);
        assert!(nucleus.choose(&logits) >= 929);
        assert_eq!(one.choose(&logits), 999);
    }
}

#[test]
fn penalties_and_bias_move_the_choice() {
    let logits = [1.0, 0.9, 0.0];
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    let mut present = sampler(&Sampling {
        presence_penalty: 0.5,
        ..greedy.clone()
    });
    assert_eq!(
        [
            present.choose(&logits),
            present.choose(&logits),
            present.choose(&logits)
        ],
        [0, 1, 0]
    );
    let mut frequent = sampler(&Sampling {
        frequency_penalty: 0.6,
        ..greedy.clone()
    });
    let drawn: Vec<u32> = (0..4).map(|_| frequent.choose(&logits)).collect();
    assert_eq!(drawn, [0, 1, 0, 1]);
    let mut biased = sampler(&Sampling {
        logit_bias: vec![(2, 5.0), (900, 1.0)],
        ..greedy
    });
    assert_eq!(biased.choose(&logits), 2);
}

#[test]
fn log_probabilities_are_those_of_the_model_and_sorted() {
    let logits = [1.0f32, 3.0, 2.0];
    let (chosen, top) = logprobs(&logits, 0, 2);
    let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
    assert!((chosen - (1.0 - total.ln())).abs() < 1e-6);
    assert_eq!(
        top.iter().map(|scored| scored.token).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!((top[0].logprob - (3.0 - total.ln())).abs() < 1e-6);
    assert!(logprobs(&logits, 0, 0).1.is_empty());
    assert_eq!(logprobs(&logits, 0, 20).1.len(), 3);
}

fn first_loop(tokens: impl Iterator<Item = u32>) -> Option<usize> {
    let mut loops = Loops::default();
    tokens
        .take(500)
        .position(|token| loops.push(token))
        .map(|at| at + 1)
}

#[test]
fn a_loop_of_up_to_32_tokens_is_noticed_after_96() {
    for period in [1, 2, 7, 31, 32] {
        assert_eq!(first_loop((0..).map(|i| i % period)), Some(96), "{period}");
        assert_eq!(
            first_loop((1_000..1_010).chain((0..).map(|i| i % period))),
            Some(106),
            "{period}"
        );
    }
}

#[test]
fn longer_periods_and_broken_loops_are_not_loops() {
    assert_eq!(first_loop((0..).map(|i| i % 33)), None);
    assert_eq!(
        first_loop((0..).map(|i| if i % 90 == 0 { 1_000 + i } else { i % 5 })),
        None
    );
}
