//! A whole answer, put together from events for callers who did not ask for a stream.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Head, merge};
use crate::Surface;
use crate::event::{Embedding, Event, Usage};

/// More was generated than one answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is larger than {limit} bytes")]
pub struct TooLarge {
    /// The limit in bytes.
    pub limit: usize,
}

/// Collects the events of one answer.
pub struct Whole {
    choices: BTreeMap<u32, Choice>,
    vectors: Option<Vec<Embedding>>,
    usage: Option<Usage>,
    size: usize,
    limit: usize,
}

#[derive(Default)]
struct Choice {
    text: String,
    reasoning: String,
    refusal: Option<String>,
    tool_calls: merge::ToolCalls,
    other: Map<String, Value>,
    logprobs: Option<Value>,
    finish: Option<String>,
}

impl std::fmt::Debug for Whole {
    /// Never shows what was generated.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whole")
            .field("choices", &self.choices.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Whole {
    /// Collects up to `limit` bytes of generated text.
    pub const fn new(limit: usize) -> Self {
        Self {
            choices: BTreeMap::new(),
            vectors: None,
            usage: None,
            size: 0,
            limit,
        }
    }

    /// Adds an event.
    ///
    /// # Errors
    /// If the answer outgrows the limit.
    pub fn push(&mut self, event: Event) -> Result<(), TooLarge> {
        self.size += size(&event);
        if self.size > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        match event {
            Event::Text {
                choice,
                text,
                logprobs,
            } => {
                let choice = self.choice(choice);
                choice.text.push_str(&text);
                merge::logprobs(&mut choice.logprobs, logprobs);
            }
            Event::Reasoning { choice, text } => self.choice(choice).reasoning.push_str(&text),
            Event::Refusal { choice, text } => self
                .choice(choice)
                .refusal
                .get_or_insert_default()
                .push_str(&text),
            Event::ToolCalls { choice, calls } => {
                let choice = self.choice(choice);
                for call in calls {
                    choice.tool_calls.add(call);
                }
            }
            Event::Other { choice, fields } => {
                merge::fields(&mut self.choice(choice).other, fields);
            }
            Event::Finish { choice, reason, .. } => {
                self.choice(choice).finish = Some(reason.as_str().to_owned());
            }
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Embeddings(vectors) => self.vectors.get_or_insert_default().extend(vectors),
        }
        Ok(())
    }

    /// True if there are choices and each has a finish reason, or if there are vectors. Anything
    /// else was cut.
    pub fn complete(&self) -> bool {
        self.vectors.is_some()
            || (!self.choices.is_empty()
                && self.choices.values().all(|choice| choice.finish.is_some()))
    }

    /// What was used, if anybody said.
    pub const fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// The vectors, taken out.
    pub fn take_vectors(&mut self) -> Vec<Embedding> {
        self.vectors.take().unwrap_or_default()
    }

    /// The body for the caller; `mesh` goes to its top level. Usage is written only if it is known.
    pub fn body(self, head: &Head, mesh: Value) -> Value {
        let legacy = head.surface == Surface::Completions;
        let choices: Vec<Value> = self
            .choices
            .into_iter()
            .map(|(index, choice)| {
                if legacy {
                    choice.legacy(index)
                } else {
                    choice.chat(index)
                }
            })
            .collect();
        let object = if legacy {
            "text_completion"
        } else {
            "chat.completion"
        };
        let mut body = Map::new();
        body.insert(String::from("id"), head.id.clone().into());
        body.insert(String::from("object"), object.into());
        body.insert(String::from("created"), head.created.into());
        body.insert(String::from("model"), head.model.clone().into());
        body.insert(String::from("choices"), choices.into());
        if let Some(usage) = self.usage {
            body.insert(String::from("usage"), json!(usage));
        }
        if let Some(fingerprint) = &head.system_fingerprint {
            body.insert(
                String::from("system_fingerprint"),
                fingerprint.clone().into(),
            );
        }
        body.insert(String::from("mesh"), mesh);
        Value::Object(body)
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        self.choices.entry(index).or_default()
    }
}

impl Choice {
    fn chat(self, index: u32) -> Value {
        let mut message = Map::new();
        message.insert(String::from("role"), "assistant".into());
        let silent =
            self.text.is_empty() && (!self.tool_calls.is_empty() || self.refusal.is_some());
        let content = if silent {
            Value::Null
        } else {
            self.text.into()
        };
        message.insert(String::from("content"), content);
        message.insert(String::from("refusal"), self.refusal.into());
        if !self.reasoning.is_empty() {
            message.insert(String::from("reasoning_content"), self.reasoning.into());
        }
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.finish();
            message.insert(String::from("tool_calls"), calls.into());
        }
        for (name, value) in self.other {
            message.entry(name).or_insert(value);
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish,
        })
    }

    fn legacy(self, index: u32) -> Value {
        let mut choice = Map::new();
        choice.insert(String::from("text"), self.text.into());
        choice.insert(String::from("index"), index.into());
        choice.insert(String::from("logprobs"), self.logprobs.into());
        choice.insert(String::from("finish_reason"), self.finish.into());
        if !self.reasoning.is_empty() {
            choice.insert(String::from("reasoning_content"), self.reasoning.into());
        }
        for (name, value) in self.other {
            choice.entry(name).or_insert(value);
        }
        Value::Object(choice)
    }
}

/// Bytes an event holds, roughly: an upstream that never ends must not fill the memory.
fn size(event: &Event) -> usize {
    match event {
        Event::Text { text, logprobs, .. } => text.len() + logprobs.as_ref().map_or(0, value_size),
        Event::Reasoning { text, .. } | Event::Refusal { text, .. } => text.len(),
        Event::ToolCalls { calls, .. } => calls.iter().map(value_size).sum(),
        Event::Other { fields, .. } => fields.iter().map(|(k, v)| k.len() + value_size(v)).sum(),
        Event::Finish { .. } | Event::Usage(_) => 64,
        Event::Embeddings(vectors) => vectors.iter().map(|v| 4 * v.vector.len() + 16).sum(),
    }
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 16,
        Value::String(text) => text.len() + 24,
        Value::Array(items) => 24 + items.iter().map(value_size).sum::<usize>(),
        Value::Object(fields) => fields
            .iter()
            .map(|(k, v)| k.len() + value_size(v))
            .sum::<usize>(),
    }
}
