//! Chunks of a stream.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::delta::Delta;
use super::{MAX_CHOICES, ReadError, UpstreamError};
use crate::{Event, FinishReason, Surface, Usage};

/// One chunk, or one whole answer: they differ in `delta` and `message`.
#[derive(Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(default)]
    pub(super) choices: Option<Vec<Choice>>,
    #[serde(default)]
    pub(super) usage: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    #[serde(borrow, default)]
    pub(super) object: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    index: Option<u32>,
    #[serde(default, alias = "message")]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    finish_reason: Option<String>,
}

/// Reads the chunks of one stream and knows whether the answer is complete.
#[derive(Debug)]
pub struct ChunkReader {
    surface: Surface,
    expected: u32,
    /// One bit per choice.
    seen: u128,
    finished: u128,
    usage: Option<Usage>,
}

impl ChunkReader {
    /// For an answer of `n` choices.
    pub const fn new(surface: Surface, n: u32) -> Self {
        Self {
            surface,
            expected: n,
            seen: 0,
            finished: 0,
            usage: None,
        }
    }

    /// Reads the data of one event of the stream (not `[DONE]`) and appends what it means. Role-only
    /// deltas mean nothing; what follows a choice's finish reason is dropped.
    ///
    /// # Errors
    /// [`ReadError::Upstream`] for an error object, [`ReadError::Invalid`] for anything that is not
    /// a chunk.
    pub fn read(&mut self, data: &str, events: &mut Vec<Event>) -> Result<(), ReadError> {
        let chunk: Chunk<'_> = object(data)?;
        if is_error(&chunk) {
            return Err(ReadError::Upstream(Box::new(UpstreamError::read(
                data.as_bytes(),
            ))));
        }
        self.take(chunk, events)
    }

    pub(super) fn take(
        &mut self,
        chunk: Chunk<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), ReadError> {
        // Some servers count along with every chunk; the last count is the one that holds.
        if let Some(usage) = chunk.usage.and_then(|usage| Usage::deserialize(usage).ok()) {
            self.usage = Some(usage);
        }
        for (position, choice) in chunk.choices.into_iter().flatten().enumerate() {
            self.choice(position, choice, events)?;
        }
        Ok(())
    }

    fn choice(
        &mut self,
        position: usize,
        choice: Choice,
        events: &mut Vec<Event>,
    ) -> Result<(), ReadError> {
        let index = match choice.index {
            Some(index) => index,
            None => u32::try_from(position).unwrap_or(MAX_CHOICES),
        };
        if index >= MAX_CHOICES {
            return Err(ReadError::Invalid("a choice has an impossible index"));
        }
        let bit = 1_u128 << index;
        if self.finished & bit != 0 {
            return Ok(());
        }
        self.seen |= bit;
        match (self.surface, choice.text) {
            (Surface::Completions, Some(text)) => {
                if !text.is_empty() || choice.logprobs.is_some() {
                    events.push(Event::Text {
                        choice: index,
                        text,
                        logprobs: choice.logprobs,
                    });
                }
            }
            _ => choice
                .delta
                .unwrap_or_default()
                .events(index, choice.logprobs, events),
        }
        if let Some(word) = choice.finish_reason.filter(|word| !word.is_empty()) {
            self.finished |= bit;
            events.push(Event::Finish {
                choice: index,
                reason: FinishReason::from(word.as_str()),
                repetition: false,
            });
        }
        Ok(())
    }

    /// Whether the answer is complete: every choice that began has its finish reason, and there is
    /// one. Without a `[DONE]` there must be as many as asked for; with it the upstream may have
    /// made fewer.
    pub const fn complete(&self, done: bool) -> bool {
        let enough = done || self.finished.count_ones() >= self.expected;
        self.finished != 0 && self.finished == self.seen && enough
    }

    /// What was used, once, for the end of the answer.
    pub const fn take_usage(&mut self) -> Option<Usage> {
        self.usage.take()
    }
}

/// True if an upstream reports a failure where an answer should be: OpenAI's `error`, and vLLM's
/// older `"object": "error"`.
pub(super) fn is_error(chunk: &Chunk<'_>) -> bool {
    let said = match &chunk.error {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    };
    said || (chunk.object.as_deref() == Some("error") && chunk.choices.is_none())
}

/// Reads a JSON object. The look at the first character is needed because derived readers of
/// structs also take lists.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ReadError> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(not_an_answer(text));
    }
    serde_json::from_str(text).map_err(|_| not_an_answer(text))
}

/// An error object may have any shape around it: what cannot be read gets a second look.
fn not_an_answer(data: &str) -> ReadError {
    match serde_json::from_str::<Value>(data) {
        Ok(Value::Object(fields)) if fields.get("error").is_some_and(|error| !error.is_null()) => {
            ReadError::Upstream(Box::new(UpstreamError::read(data.as_bytes())))
        }
        Ok(_) => ReadError::Invalid("an answer of another shape"),
        Err(_) => ReadError::Invalid("not JSON"),
    }
}
