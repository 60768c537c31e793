//! What a model said: `delta` of a chunk, `message` of a whole answer.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::Event;

/// A delta or message, field by field. Absent and null are the same.
#[derive(Default)]
pub(super) struct Delta {
    content: Option<Value>,
    reasoning: Option<String>,
    refusal: Option<String>,
    tool_calls: Vec<Value>,
    other: Map<String, Value>,
}

impl Delta {
    /// Appends the events of this delta; `logprobs` belong to its text. A delta that holds only a
    /// role gives none.
    pub(super) fn events(self, choice: u32, logprobs: Option<Value>, events: &mut Vec<Event>) {
        let mut other = self.other;
        let mut reasoning = self.reasoning.unwrap_or_default();
        let mut text = String::new();
        match self.content {
            None => {}
            Some(Value::String(content)) => text = content,
            Some(Value::Array(parts)) => split(parts, &mut text, &mut reasoning, &mut other),
            Some(unknown) => {
                other.insert(String::from("content"), unknown);
            }
        }
        if !reasoning.is_empty() {
            events.push(Event::Reasoning {
                choice,
                text: reasoning,
            });
        }
        if !text.is_empty() || logprobs.is_some() {
            events.push(Event::Text {
                choice,
                text,
                logprobs,
            });
        }
        if let Some(text) = self.refusal.filter(|text| !text.is_empty()) {
            events.push(Event::Refusal { choice, text });
        }
        if !self.tool_calls.is_empty() {
            events.push(Event::ToolCalls {
                choice,
                calls: indexed(self.tool_calls),
            });
        }
        if !other.is_empty() {
            events.push(Event::Other {
                choice,
                fields: other,
            });
        }
    }
}

/// Content as a list of parts (Mistral's reasoning models): text, thinking, and what we do not know.
fn split(
    parts: Vec<Value>,
    text: &mut String,
    reasoning: &mut String,
    other: &mut Map<String, Value>,
) {
    let mut unknown = Vec::new();
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text"), part.get("thinking")) {
            (Some("text"), Some(Value::String(piece)), _) => text.push_str(piece),
            (Some("thinking"), _, Some(Value::String(piece))) => reasoning.push_str(piece),
            (Some("thinking"), _, Some(Value::Array(pieces))) => pieces
                .iter()
                .filter_map(|piece| piece.get("text").and_then(Value::as_str))
                .for_each(|piece| reasoning.push_str(piece)),
            _ => unknown.push(part),
        }
    }
    if !unknown.is_empty() {
        other.insert(String::from("content"), Value::Array(unknown));
    }
}

/// Tool calls with their `index`, which whole answers and some servers leave out.
fn indexed(mut calls: Vec<Value>) -> Vec<Value> {
    for (position, call) in calls.iter_mut().enumerate() {
        if let Value::Object(call) = call
            && !call.get("index").is_some_and(Value::is_u64)
        {
            call.insert(String::from("index"), Value::from(position));
        }
    }
    calls
}

/// A name of a field, borrowed where it can be.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Delta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DeltaVisitor)
    }
}

/// By hand, since a derived `flatten` would build a tree for every token.
struct DeltaVisitor;

impl<'de> Visitor<'de> for DeltaVisitor {
    type Value = Delta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Delta, A::Error> {
        let mut delta = Delta::default();
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            match name.as_ref() {
                "role" => {
                    map.next_value::<IgnoredAny>()?;
                }
                "content" => delta.content = map.next_value()?,
                // Servers say one or the other; vLLM says both, with the same text.
                "reasoning_content" | "reasoning" => {
                    let text: Option<Value> = map.next_value()?;
                    match text {
                        Some(Value::String(text)) => {
                            delta.reasoning.get_or_insert(text);
                        }
                        Some(unknown) => {
                            delta.other.insert(name.into_owned(), unknown);
                        }
                        None => {}
                    }
                }
                "refusal" => delta.refusal = map.next_value()?,
                "tool_calls" => {
                    delta.tool_calls = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                _ => {
                    if let Some(value) = map.next_value::<Option<Value>>()? {
                        delta.other.insert(name.into_owned(), value);
                    }
                }
            }
        }
        Ok(delta)
    }
}
