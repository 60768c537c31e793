//! Answers of `/v1/embeddings`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Head;
use crate::event::{Embedding, Usage};

/// How the caller wants vectors written (`encoding_format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Lists of numbers.
    #[default]
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

impl Encoding {
    /// Reads `encoding_format` of a request; absent or anything else is `float`.
    pub fn of(body: &Map<String, Value>) -> Self {
        match body.get("encoding_format").and_then(Value::as_str) {
            Some("base64") => Self::Base64,
            _ => Self::Float,
        }
    }
}

/// The whole answer, vectors in the order of the inputs.
pub fn embeddings(
    head: &Head,
    mut vectors: Vec<Embedding>,
    usage: Option<&Usage>,
    encoding: Encoding,
    mesh: Value,
) -> Value {
    vectors.sort_by_key(|vector| vector.index);
    let data: Vec<Value> = vectors
        .into_iter()
        .map(|Embedding { index, vector }| {
            let embedding = match encoding {
                Encoding::Float => json!(vector),
                Encoding::Base64 => Value::from(base64(&vector)),
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let mut answer = json!({"object": "list", "data": data, "model": head.model});
    if let Value::Object(fields) = &mut answer {
        if let Some(usage) = usage {
            let mut counts = usage.details.clone();
            counts.insert(String::from("prompt_tokens"), usage.prompt_tokens.into());
            counts.insert(String::from("total_tokens"), usage.total_tokens.into());
            fields.insert(String::from("usage"), Value::Object(counts));
        }
        fields.insert(String::from("mesh"), mesh);
    }
    answer
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    STANDARD.encode(bytes)
}
