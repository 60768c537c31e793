//! Vectors of an embeddings answer, as numbers or as base64 of little-endian 32-bit floats
//! (OpenAI's `encoding_format`).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;

use super::chunk::object;
use super::{ReadError, UpstreamError};
use crate::event::Embedding;
use crate::{Event, Usage};

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Option<Vec<Item>>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<u32>,
    embedding: Vector,
}

struct Vector(Vec<f32>);

/// Reads an embeddings answer: all vectors in the order of their inputs, then the usage.
///
/// # Errors
/// If it is not an answer or an error object, a vector is empty or not finite, or the indices are
/// not 0, 1, 2, ….
pub fn vectors(bytes: &[u8]) -> Result<Vec<Event>, ReadError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(ReadError::Invalid("not UTF-8"));
    };
    let answer: Answer = object(text)?;
    if answer.error.is_some_and(|error| !error.is_null()) {
        return Err(ReadError::Upstream(Box::new(UpstreamError::read(bytes))));
    }
    let Some(items) = answer.data.filter(|items| !items.is_empty()) else {
        return Err(ReadError::Invalid("an answer without vectors"));
    };
    let mut found = Vec::with_capacity(items.len());
    for (position, item) in (0_u32..).zip(items) {
        let Vector(vector) = item.embedding;
        if vector.is_empty() || !vector.iter().all(|number| number.is_finite()) {
            return Err(ReadError::Invalid("a vector that is empty or not finite"));
        }
        found.push(Embedding {
            index: item.index.unwrap_or(position),
            vector,
        });
    }
    found.sort_by_key(|embedding| embedding.index);
    if !(0_u32..).zip(&found).all(|(at, one)| at == one.index) {
        return Err(ReadError::Invalid("vectors that are missing or doubled"));
    }
    let mut events = vec![Event::Embeddings(found)];
    let usage = answer
        .usage
        .and_then(|usage| Usage::deserialize(usage).ok());
    events.extend(usage.map(Event::Usage));
    Ok(events)
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VectorVisitor).map(Self)
    }
}

struct VectorVisitor;

impl<'de> Visitor<'de> for VectorVisitor {
    type Value = Vec<f32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, or base64 of 32-bit floats")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<f32>, A::Error> {
        // The hint comes from outside; the body's own size bounds the rest.
        let mut vector = Vec::with_capacity(items.size_hint().unwrap_or(0).min(1 << 16));
        while let Some(number) = items.next_element()? {
            vector.push(number);
        }
        Ok(vector)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<f32>, E> {
        let bytes = STANDARD.decode(text).map_err(|_| E::custom("not base64"))?;
        let (numbers, []) = bytes.as_chunks::<4>() else {
            return Err(E::custom("not a row of 32-bit floats"));
        };
        Ok(numbers.iter().copied().map(f32::from_le_bytes).collect())
    }
}
