//! Adapters from hostile and from unusual folders.

use serde_json::{Value, json};

use super::*;
use crate::gguf::Header;
use crate::testing::{Peft, Tiny};

fn config(tiny: &Tiny) -> Config {
    let file = tiny.write();
    let mut bytes = File::open(&file.path).unwrap();
    let length = bytes.metadata().unwrap().len();
    Config::new(&Header::read(&mut std::io::BufReader::new(&mut bytes), length).unwrap()).unwrap()
}

fn folder(adapter: &Peft) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    adapter.write(folder.path());
    folder
}

fn load(adapter: &Peft) -> Result<Adapter, Error> {
    Adapter::load(folder(adapter).path(), &config(&Tiny::default()))
}

fn usual() -> Peft {
    Peft::new(&Tiny::default(), 4, 1)
}

fn said(key: &str, value: Value) -> Peft {
    let mut adapter = usual();
    adapter.settings[key] = value;
    adapter
}

#[test]
fn every_product_of_every_layer_is_found_and_scaled() {
    let adapter = load(&usual()).unwrap();
    assert_eq!(adapter.pairs.len(), 14);
    let first = &adapter.pairs[2];
    assert_eq!((first.layer, first.target), (0, Target::Value));
    assert_eq!((first.inputs, first.rank, first.outputs), (64, 4, 32));
    let raw = &usual().tensors[5];
    assert!(raw.0.contains("v_proj.lora_B"), "{}", raw.0);
    let doubled: Vec<f32> = raw.3.iter().map(|x| 2.0 * x).collect();
    assert_eq!(first.b, doubled);
}

#[test]
fn the_scale_follows_rank_stabilization_and_patterns() {
    let scale = |adapter: &Peft, module: &str| {
        let settings = Settings::new(adapter.settings.to_string().as_bytes()).unwrap();
        settings.scale(module)
    };
    let close = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-6, "{found}");
    let (query, value) = (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    );
    close(scale(&usual(), query), 2.0);
    close(scale(&said("use_rslora", json!(true)), query), 4.0);
    let patterns = said(
        "alpha_pattern",
        json!({"q_proj": 1.0, r"layers\.1\.self_attn\..*": 16.0}),
    );
    close(scale(&patterns, query), 0.25);
    close(scale(&patterns, value), 4.0);
    close(scale(&patterns, "model.layers.0.mlp.up_proj"), 2.0);
    // The end of a name counts, not any part of it.
    close(
        scale(&said("alpha_pattern", json!({"attn": 1.0})), query),
        2.0,
    );
}

#[test]
fn a_module_of_another_rank_is_taken_where_the_settings_say_so_and_refused_where_not() {
    let mut adapter = usual();
    for (name, rows, columns, values) in &mut adapter.tensors {
        if name.contains("v_proj") {
            let a = name.contains("lora_A");
            *(if a { rows } else { columns }) = 2;
            values.truncate(values.len() / 2);
        }
    }
    assert_eq!(load(&adapter).unwrap_err().reason(), "AdapterDoesNotFit");
    adapter.settings["rank_pattern"] = json!({"v_proj": 2});
    let adapter = load(&adapter).unwrap();
    let ranks: Vec<usize> = adapter.pairs.iter().map(|pair| pair.rank).collect();
    assert_eq!(ranks, [4, 4, 2, 4, 4, 4, 4, 4, 4, 2, 4, 4, 4, 4]);
}

#[test]
fn what_would_be_computed_wrongly_is_refused() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("layer_replication", json!([[0, 1]])),
        ("trainable_token_indices", json!([5])),
        ("target_parameters", json!(["experts"])),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
    ] {
        let refused = load(&said(key, value)).unwrap_err();
        assert_eq!(refused.reason(), "NotSupported", "{key}: {refused}");
        assert!(
            refused.to_string().starts_with("not supported: "),
            "{refused}"
        );
    }
    for name in [
        "base_model.model.model.embed_tokens.lora_A.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.block_sparse_moe.gate.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ] {
        let mut adapter = usual();
        adapter
            .tensors
            .push((name.to_owned(), 4, 64, vec![0.0; 256]));
        let refused = load(&adapter).unwrap_err();
        assert_eq!(refused.reason(), "NotSupported", "{name}: {refused}");
    }
}

#[test]
fn settings_that_peft_does_not_write_are_refused() {
    let many: serde_json::Map<String, Value> =
        (0..5_000).map(|i| (format!("a{i}"), json!(1.0))).collect();
    let many = Value::Object(many);
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!(5_000)),
        ("r", json!(-4)),
        ("r", json!("4")),
        ("lora_alpha", json!(1e300)),
        ("lora_alpha", json!(null)),
        ("rank_pattern", json!({"(": 4})),
        ("rank_pattern", json!({"q_proj": 0})),
        ("alpha_pattern", json!({r"\w{90}a": 1.0})),
        ("alpha_pattern", many),
    ] {
        let refused = load(&said(key, value.clone())).unwrap_err();
        assert_eq!(
            refused.reason(),
            "AdapterInvalid",
            "{key} {value}: {refused}"
        );
    }
}

#[test]
fn halves_emptiness_and_what_is_no_number_are_refused() {
    let mut half = usual();
    half.tensors
        .retain(|(name, ..)| !name.contains("layers.1.self_attn.k_proj.lora_B"));
    assert!(matches!(load(&half).unwrap_err(), Error::Half(module) if module.contains("k_proj")));
    let mut empty = usual();
    empty.tensors.clear();
    assert!(matches!(load(&empty).unwrap_err(), Error::Empty));
    let mut damaged = usual();
    damaged.tensors[3].3[7] = f32::NAN;
    assert_eq!(load(&damaged).unwrap_err().reason(), "DamagedWeights");
}

#[test]
fn two_tensors_for_one_place_are_refused() {
    let mut adapter = usual();
    let (name, rows, columns, values) = adapter.tensors[0].clone();
    let other = name.replace("layers.0.", "layers.00.");
    assert_ne!(name, other);
    adapter.tensors.push((other, rows, columns, values));
    let refused = load(&adapter).unwrap_err();
    assert_eq!(refused.reason(), "NotSupported", "{refused}");
}

#[test]
fn heads_without_halves_have_no_order_of_pairs() {
    let mut config = config(&Tiny::default());
    config.shape.head = 15;
    let folder = folder(&usual());
    let refused = Adapter::load(folder.path(), &config).unwrap_err();
    assert!(matches!(refused, Error::NotSupported(_)), "{refused}");
}

#[test]
fn a_weights_file_that_was_cut_or_lies_is_refused() {
    let folder = folder(&usual());
    let path = folder.path().join("adapter_model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let config = config(&Tiny::default());
    for length in [0, 7, 8, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let refused = Adapter::load(folder.path(), &config).unwrap_err();
        assert_eq!(refused.reason(), "AdapterInvalid", "{length}: {refused}");
    }
    // A header that claims to be larger than everything.
    let mut lying = whole;
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &lying).unwrap();
    let refused = Adapter::load(folder.path(), &config).unwrap_err();
    assert_eq!(refused.reason(), "AdapterInvalid", "{refused}");
}

#[test]
fn half_precision_is_read() {
    let folder = folder(&usual());
    let rounded = |dtype, write: fn(f32) -> [u8; 2]| {
        let tensors = usual().tensors;
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(.., values)| values.iter().flat_map(|&x| write(x)).collect())
            .collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, rows, columns, _), bytes)| {
                let view =
                    safetensors::tensor::TensorView::new(dtype, vec![*rows, *columns], bytes);
                (name.as_str(), view.unwrap())
            });
        let weights = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
        Adapter::load(folder.path(), &config(&Tiny::default())).unwrap()
    };
    let exact = load(&usual()).unwrap();
    for adapter in [
        rounded(Dtype::F16, |x| f16::from_f32(x).to_le_bytes()),
        rounded(Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes()),
    ] {
        let pairs = adapter.pairs[0].a.iter().zip(&exact.pairs[0].a);
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off > 0.0 && off < 2e-3, "{off}");
    }
}
