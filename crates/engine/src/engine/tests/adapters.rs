//! The promises of adapters: what they compute, that rows are kept apart, and what they share.

use super::*;
use crate::testing::Peft;

const NAMES: [&str; 2] = ["legal", "poems"];

/// A model whose weights are not rounded, so that adding to them is exact enough to compare.
fn tiny() -> Tiny {
    Tiny {
        kind: GgmlDType::F32,
        ..Tiny::default()
    }
}

/// Two adapters of different ranks, and the folder that holds them.
fn two() -> (Vec<Peft>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let adapters = vec![Peft::new(&tiny(), 4, 1), Peft::new(&tiny(), 17, 2)];
    for (name, adapter) in NAMES.iter().zip(&adapters) {
        adapter.write(&folder.path().join(name));
    }
    (adapters, folder)
}

fn with(folder: &tempfile::TempDir, options: EngineOptions) -> Engine {
    let adapters = NAMES.map(|name| (name.to_owned(), folder.path().join(name)));
    let mut options = options;
    options.adapters.extend(adapters);
    Engine::load(tiny().write().path, options).unwrap()
}

fn f32_on(place: Place) -> EngineOptions {
    EngineOptions {
        place,
        compute: Compute::F32,
        kv_bytes: 2 * cache(128),
        ..options()
    }
}

/// The file's rows of a head for one of peft's: row `i` of the first half comes at `2 i`, of the second
/// at `2 i + 1`.
fn turned(product: &[f32], head: usize, inputs: usize) -> Vec<f32> {
    let mut out = vec![0.0; product.len()];
    for (row, values) in product.chunks_exact(inputs).enumerate() {
        let (number, within) = (row / head, row % head);
        let (half, i) = (within / (head / 2), within % (head / 2));
        let at = (number * head + 2 * i + half) * inputs;
        out[at..at + inputs].copy_from_slice(values);
    }
    out
}

/// The tiny model with the adapter added to its weights.
fn merged(adapter: &Peft) -> Tiny {
    let tiny = tiny();
    let head = tiny.hidden / tiny.heads as usize;
    let mut added = Vec::new();
    for layer in 0..tiny.layers {
        for (module, tensor, inputs) in [
            ("self_attn.q_proj", "attn_q", tiny.hidden),
            ("self_attn.k_proj", "attn_k", tiny.hidden),
            ("self_attn.v_proj", "attn_v", tiny.hidden),
            ("self_attn.o_proj", "attn_output", tiny.hidden),
            ("mlp.gate_proj", "ffn_gate", tiny.hidden),
            ("mlp.up_proj", "ffn_up", tiny.hidden),
            ("mlp.down_proj", "ffn_down", tiny.feed_forward),
        ] {
            let product = adapter.product(&format!("model.layers.{layer}.{module}"));
            let product = match tensor {
                "attn_q" | "attn_k" => turned(&product, head, inputs),
                _ => product,
            };
            // Alpha is twice the rank.
            let product = product.iter().map(|x| 2.0 * x).collect();
            added.push((format!("blk.{layer}.{tensor}.weight"), product));
        }
    }
    Tiny { added, ..tiny }
}

fn ids() -> Vec<u32> {
    (0..200).map(|i| 2 + i * 7 % 250).collect()
}

fn largest(one: &[Vec<f32>], other: &[Vec<f32>]) -> f32 {
    let pairs = one.iter().flatten().zip(other.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_adapter_computes_what_weights_with_it_added_compute_wherever_it_is_computed() {
    let (adapters, folder) = two();
    for place in [Place::Cpu, Place::Tensors] {
        let engine = with(&folder, f32_on(place));
        let plain = engine.evaluate(&ids(), None).unwrap();
        for (name, adapter) in NAMES.iter().zip(&adapters) {
            let file = merged(adapter).write();
            let reference = Engine::load(&file.path, f32_on(Place::Cpu)).unwrap();
            let expected = reference.evaluate(&ids(), None).unwrap();
            let found = engine.evaluate(&ids(), Some(name)).unwrap();
            let (off, changed) = (largest(&found, &expected), largest(&plain, &expected));
            assert!(
                off < 1e-4 && changed > 0.3,
                "{place:?} {name}: {off} of {changed}"
            );
        }
    }
}

#[test]
fn coded_weights_take_an_adapter_as_closely_as_they_are_themselves() {
    let (_, folder) = two();
    let [served, exact] = [Compute::Served, Compute::F32].map(|compute| {
        let engine = with(
            &folder,
            EngineOptions {
                compute,
                ..f32_on(Place::Cpu)
            },
        );
        (
            engine.evaluate(&ids(), None).unwrap(),
            engine.evaluate(&ids(), Some("legal")).unwrap(),
        )
    });
    let (plain, adapted) = (largest(&served.0, &exact.0), largest(&served.1, &exact.1));
    assert!(adapted < 10.0 * plain, "{adapted} against {plain}");
}

#[test]
fn rows_of_two_adapters_and_of_none_are_kept_apart_in_one_batch() {
    let (_, folder) = two();
    for place in [Place::Cpu, Place::Tensors] {
        let engine = with(&folder, f32_on(place));
        let requests: Vec<GenerateRequest> = (0..6)
            .map(|i| GenerateRequest {
                partition: partition(&i.to_string()),
                adapter: NAMES.get(i as usize % 3).map(|name| (*name).to_owned()),
                ..request(tokens(1 + i / 3 * 61, 1), 20)
            })
            .collect();
        let alone: Vec<_> = requests
            .iter()
            .map(|request| ask(&engine, request.clone()).texts)
            .collect();
        let together: Vec<_> = requests
            .iter()
            .map(|request| answer(engine.generate(request.clone()).unwrap()))
            .collect();
        let together = block_on(futures::future::join_all(together));
        let together: Vec<_> = together.into_iter().map(|answer| answer.texts).collect();
        assert_eq!(together, alone, "{place:?}");
        // The same prompt, three answers.
        assert!(alone[3] != alone[4] && alone[4] != alone[5] && alone[3] != alone[5]);
    }
}

#[test]
fn a_prefix_is_reused_with_the_same_adapter_only() {
    let (_, folder) = two();
    let engine = with(&folder, options());
    let ask = |adapter: Option<&str>| {
        let request = GenerateRequest {
            adapter: adapter.map(str::to_owned),
            ..request(tokens(100, 1), 20)
        };
        let answer = ask(&engine, request);
        (answer.texts, answer.usage.unwrap().2)
    };
    let first = [None, Some("legal"), Some("poems")].map(ask);
    assert!(first.iter().all(|(_, cached)| *cached == 0));
    let again = [None, Some("legal"), Some("poems")].map(ask);
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((&first.0, 96), (&again.0, again.1));
    }
}

#[test]
fn what_was_loaded_is_told_and_a_name_that_was_not_is_refused() {
    let (_, folder) = two();
    let engine = with(&folder, options());
    let adapters = &engine.info().adapters;
    let names: Vec<&str> = adapters.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, NAMES);
    let plain = &engine.info().fingerprint;
    assert!(adapters[0].fingerprint != adapters[1].fingerprint);
    assert!(
        adapters
            .iter()
            .all(|one| one.fingerprint != *plain && one.parameters > 1_000)
    );
    let idle = engine.adapters_in_use();
    assert!(idle.iter().all(|one| (one.running, one.waiting) == (0, 0)));
    let unknown = GenerateRequest {
        adapter: Some("other".to_owned()),
        ..request(tokens(3, 1), 1)
    };
    let refused = engine.generate(unknown).unwrap_err();
    assert_eq!(refused.reason(), "InvalidField");
    assert!(engine.evaluate(&[2, 3], Some("other")).is_err());
}

#[test]
fn running_and_waiting_requests_are_counted_by_adapter() {
    let (_, folder) = two();
    let tiny = Tiny {
        context: 1 << 15,
        ..tiny()
    };
    let options = EngineOptions {
        kv_bytes: cache(1_000),
        max_batch: 1,
        adapters: NAMES
            .map(|name| (name.to_owned(), folder.path().join(name)))
            .into(),
        ..options()
    };
    let engine = Engine::load(tiny.write().path, options).unwrap();
    let start = |name: &str| {
        let adapter = Some(name.to_owned());
        engine
            .generate(GenerateRequest { adapter, ..long() })
            .unwrap()
    };
    let mut first = start("legal");
    // Its first text says that it runs.
    assert!(block_on(first.next()).is_some());
    let second = start("poems");
    let uses = engine.adapters_in_use();
    let numbers: Vec<_> = uses.iter().map(|one| (one.running, one.waiting)).collect();
    assert_eq!(numbers, [(1, 0), (0, 1)]);
    drop((first, second));
}

#[test]
fn two_adapters_of_one_name_and_one_that_does_not_fit_are_refused_by_name() {
    let (_, folder) = two();
    let load = |list: &[(&str, &str)]| {
        let adapters = list.iter();
        let options = EngineOptions {
            adapters: adapters
                .map(|(name, place)| ((*name).to_owned(), folder.path().join(place)))
                .collect(),
            ..options()
        };
        Engine::load(tiny().write().path, options).unwrap_err()
    };
    assert_eq!(
        load(&[("a", "legal"), ("a", "poems")]).reason(),
        "AdapterInvalid"
    );
    let missing = load(&[("a", "nowhere")]);
    assert_eq!(missing.reason(), "AdapterUnreadable");
    assert!(missing.to_string().contains("adapter a"), "{missing}");
    let wide = Tiny {
        feed_forward: 128,
        ..tiny()
    };
    Peft::new(&wide, 4, 3).write(&folder.path().join("wide"));
    assert_eq!(load(&[("a", "wide")]).reason(), "AdapterDoesNotFit");
    let mut huge = Peft::new(&tiny(), 4, 3);
    for (.., values) in &mut huge.tensors {
        values.fill(3e38);
    }
    huge.write(&folder.path().join("huge"));
    assert_eq!(load(&[("a", "huge")]).reason(), "DamagedWeights");
}
