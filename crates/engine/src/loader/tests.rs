//! Files that lie: each is a clear error, none a crash.

use candle_core::quantized::gguf_file::Value;

use crate::testing::Tiny;
use crate::{Engine, EngineOptions, Error};

/// One block of the tiny model: two layers, two heads, keys and values, 16 wide, 32 positions, f16.
const BLOCK: usize = 2 * 2 * 2 * 16 * 32 * 2;

fn options() -> EngineOptions {
    EngineOptions {
        threads: Some(1),
        kv_bytes: 4 * BLOCK,
        ..EngineOptions::default()
    }
}

fn refused(tiny: &Tiny) -> Error {
    Engine::load(tiny.write().path, options()).unwrap_err()
}

/// What the file says instead of the truth, and what the error must name.
fn lies() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "general.architecture",
            Value::String("mamba".into()),
            "not supported yet: architecture mamba",
        ),
        (
            "llama.expert_count",
            Value::U32(8),
            "not supported yet: mixture of experts",
        ),
        (
            "llama.rope.scaling.type",
            Value::String("yarn".into()),
            "not supported yet: rope scaling yarn",
        ),
        ("llama.block_count", Value::U32(u32::MAX), "block_count"),
        (
            "llama.embedding_length",
            Value::U64(1 << 40),
            "embedding_length",
        ),
        (
            "llama.embedding_length",
            Value::U32(128),
            "token_embd.weight",
        ),
        ("llama.attention.head_count", Value::U32(0), "head_count"),
        (
            "llama.attention.head_count_kv",
            Value::U32(3),
            "head_count_kv",
        ),
        (
            "llama.attention.key_length",
            Value::U32(1 << 20),
            "key_length",
        ),
        (
            "llama.rope.dimension_count",
            Value::U32(7),
            "dimension_count",
        ),
        (
            "llama.feed_forward_length",
            Value::U32(64),
            "ffn_gate.weight",
        ),
        ("llama.context_length", Value::U32(0), "context_length"),
        ("llama.rope.freq_base", Value::F32(f32::NAN), "freq_base"),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(-1.0),
            "epsilon",
        ),
    ]
}

#[test]
fn files_that_say_the_impossible_are_errors_that_name_it() {
    let with = |key: &str, value| Tiny {
        extra: vec![(key.to_owned(), value)],
        ..Tiny::default()
    };
    for (key, value, expected) in lies() {
        let error = refused(&with(key, value)).to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    let missing = refused(&Tiny {
        without: vec!["blk.1.ffn_down.weight".into()],
        ..Tiny::default()
    });
    assert!(missing.to_string().contains("blk.1.ffn_down.weight"));
}

#[test]
fn a_truncated_file_is_an_error_at_every_length() {
    let file = Tiny::default().write();
    let bytes = std::fs::read(&file.path).unwrap();
    for length in (0..bytes.len()).step_by(1_777) {
        std::fs::write(&file.path, &bytes[..length]).unwrap();
        assert!(Engine::load(&file.path, options()).is_err(), "{length}");
    }
}

#[test]
fn a_cache_without_room_for_a_block_is_an_error() {
    let error = Engine::load(
        Tiny::default().write().path,
        EngineOptions {
            kv_bytes: BLOCK - 1,
            ..options()
        },
    );
    assert!(matches!(error, Err(Error::Memory { block, .. }) if block == BLOCK));
}
