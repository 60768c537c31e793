//! The promises that hold on candle's tensors, where a GPU computes, against the kernels of the processor.

use candle_core::quantized::gguf_file::Value;

use super::*;

/// The same model on both, in f32.
fn pair(tiny: &Tiny, blocks: usize) -> [Engine; 2] {
    let file = tiny.write();
    [Place::Cpu, Place::Tensors].map(|place| {
        let options = EngineOptions {
            place,
            compute: Compute::F32,
            kv_bytes: 2 * cache(blocks),
            ..options()
        };
        Engine::load(&file.path, options).unwrap()
    })
}

fn worst(one: &[Vec<f32>], other: &[Vec<f32>]) -> f32 {
    assert_eq!(one.len(), other.len());
    let pairs = one.iter().flatten().zip(other.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn tensors_compute_what_the_kernels_compute_over_several_steps() {
    let ids: Vec<u32> = (0..600).map(|i| 2 + i * 7 % 250).collect();
    let long = Tiny {
        context: 1_024,
        ..Tiny::default()
    };
    let half = ("llama.rope.dimension_count".to_owned(), Value::U32(8));
    let partly_rotated = Tiny {
        extra: vec![half],
        ..long.clone()
    };
    for tiny in [long, partly_rotated] {
        let [kernels, tensors] = pair(&tiny, 64);
        let worst = worst(
            &kernels.evaluate(&ids, None).unwrap(),
            &tensors.evaluate(&ids, None).unwrap(),
        );
        assert!(worst < 1e-3, "{worst}");
    }
}

#[test]
fn generating_sequences_of_different_lengths_and_prompts_in_between_are_kept_apart() {
    let [kernels, tensors] = pair(&Tiny::default(), 128);
    let requests: Vec<GenerateRequest> = (0..6)
        .map(|i| GenerateRequest {
            partition: partition(&i.to_string()),
            ..request(tokens(1 + i * 61, i), 30)
        })
        .collect();
    let all = |engine: &Engine| {
        let generations: Vec<_> = requests
            .iter()
            .map(|request| answer(engine.generate(request.clone()).unwrap()))
            .collect();
        let answers = block_on(futures::future::join_all(generations));
        answers
            .into_iter()
            .map(|answer| answer.texts)
            .collect::<Vec<_>>()
    };
    let expected = all(&kernels);
    assert_eq!(all(&tensors), expected);
    let alone: Vec<_> = requests
        .iter()
        .map(|request| ask(&tensors, request.clone()).texts)
        .collect();
    assert_eq!(alone, expected);
}

#[test]
fn a_known_prefix_is_reused_on_tensors_too() {
    let [_, tensors] = pair(&Tiny::default(), 64);
    let request = request(tokens(100, 1), 20);
    let (first, second) = (ask(&tensors, request.clone()), ask(&tensors, request));
    assert_eq!(
        (first.usage, second.usage),
        (Some((100, 20, 0)), Some((100, 20, 96)))
    );
    assert_eq!(first.texts, second.texts);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_refused_in_words_by_a_program_built_without() {
    let options = EngineOptions {
        place: "cuda:1".parse().unwrap(),
        ..options()
    };
    let refused = Engine::load(Tiny::default().write().path, options).unwrap_err();
    assert_eq!(refused.reason(), "NotBuilt");
    assert!(
        refused.to_string().contains("built without cuda"),
        "{refused}"
    );
    for wrong in ["gpu", "cuda:", "cuda:x", ""] {
        assert!(wrong.parse::<Place>().is_err(), "{wrong}");
    }
}
