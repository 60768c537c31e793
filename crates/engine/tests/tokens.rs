//! The tokenizer and the chat template agree with the reference on the real vocabulary: golden files made by
//! `scripts/golden`, and the `tokenizers` crate on random text.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a broken promise ends the test; skips and figures are told"
)]

mod model;

use std::fs::File;

use mesh_engine::gguf::{Header, Value};
use mesh_engine::template::{ChatTemplate, normalize};
use mesh_engine::tokenizer::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use tokenizers::Tokenizer as Reference;

/// The head of the model file.
fn header() -> Option<Header> {
    let mut file = File::open(model::path()?).unwrap();
    let length = file.metadata().unwrap().len();
    Some(Header::read(&mut file, length).unwrap())
}

fn rows(name: &str) -> Vec<Json> {
    serde_json::from_slice(&model::golden(name)).unwrap()
}

fn ids(row: &Json, field: &str) -> Vec<u32> {
    serde_json::from_value(row[field].clone()).unwrap()
}

#[test]
fn varied_strings_get_the_token_ids_of_the_reference() {
    let Some(header) = header() else {
        return;
    };
    let tokenizer = Tokenizer::from_gguf(&header).unwrap();
    assert_eq!(tokenizer.vocab_len(), 49_152);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.end_ids()),
        (Some(1), Some(2), &[0, 2][..])
    );
    let rows = rows("tokens.json");
    assert!(rows.len() > 50);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, false),
            ids(&row, "plain"),
            "{text:?}"
        );
        assert_eq!(
            tokenizer.encode(text, true),
            ids(&row, "special"),
            "{text:?}"
        );
    }
}

#[test]
fn conversations_get_the_token_ids_of_the_reference() {
    let Some(header) = header() else {
        return;
    };
    let tokenizer = Tokenizer::from_gguf(&header).unwrap();
    let template = ChatTemplate::from_gguf(&header).unwrap();
    let rows = rows("chats.json");
    assert!(rows.len() > 10);
    for row in rows {
        let turns = normalize(row["messages"].as_array().unwrap()).unwrap();
        let encoded = tokenizer.encode_chat(&template, &turns).unwrap();
        assert_eq!(encoded, ids(&row, "ids"), "{}", row["messages"]);
    }
}

/// The published pre-tokenizer of each name, in the words of `tokenizer.json`.
fn published(pre: &str) -> Json {
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |digits: &str| {
        let pattern = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ];
        let pattern = json!({"Regex": pattern.concat()});
        json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
    };
    let steps = match pre {
        "smollm" => vec![
            json!({"type": "Digits", "individual_digits": true}),
            bytes(true),
        ],
        "gpt-2" => vec![bytes(true)],
        "llama-bpe" => vec![split(r"\p{N}{1,3}"), bytes(false)],
        "qwen2" => vec![split(r"\p{N}"), bytes(false)],
        _ => unreachable!(),
    };
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn reference(header: &Header, pre: &str) -> Reference {
    let tokens = header.strings("tokenizer.ggml.tokens").unwrap();
    let merges = header.strings("tokenizer.ggml.merges").unwrap();
    let vocabulary: serde_json::Map<String, Json> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.to_owned(), id.into()))
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": published(pre),
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": merges.iter().collect::<Vec<_>>(),
            "ignore_merges": pre == "llama-bpe",
        },
    });
    Reference::from_bytes(tokenizer.to_string()).unwrap()
}

/// Text with what tokenizers stumble over: white space of all kinds, digits, apostrophes, scripts, broken runs.
fn text() -> impl Strategy<Value = String> {
    let shard = prop_oneof![
        4 => prop::sample::select(&[
            " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "'s", "'LL", "'", "1", "22", "333", "½", "٣", "ä", "é", "ß", "你好",
            "word", "Word", " the", "...", "(", "🙂", "\u{301}", "\u{200d}", "\u{85}", "\u{1680}", "ſ", "İ", "x1", "_", "-",
        ][..]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[a-zA-Z0-9 \n.,']{0,20}",
    ];
    prop::collection::vec(shard, 0..16).prop_map(|shards| shards.concat())
}

#[test]
fn random_text_gets_the_token_ids_of_the_tokenizers_library() {
    let Some(mut header) = header() else {
        return;
    };
    for pre in ["smollm", "gpt-2", "llama-bpe", "qwen2"] {
        header.set_value("tokenizer.ggml.pre", Value::String(pre.to_owned()));
        let tokenizer = Tokenizer::from_gguf(&header).unwrap();
        let reference = reference(&header, pre);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 1_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        runner
            .run(&text(), |text| {
                let expected = reference.encode_fast(text.as_str(), false).unwrap();
                prop_assert_eq!(
                    tokenizer.encode(&text, false),
                    expected.get_ids(),
                    "{}",
                    pre
                );
                Ok(())
            })
            .unwrap();
    }
}
