//! Engine events as the mesh's typed events, with log-probabilities in the wire form of the surface.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mesh_protocol::{Event, FinishReason, Surface, Usage};
use serde_json::{Map, Value, json};

use crate::{Engine, Failure, GenEvent, TokenLogprob};

/// How answers are written.
pub(super) struct Form {
    pub(super) surface: Surface,
    pub(super) engine: Engine,
}

/// Usage over several prompts: told once, by whichever ends last.
#[derive(Clone)]
pub(super) struct Total(Arc<Sums>);

struct Sums {
    open: AtomicUsize,
    prompt: AtomicU64,
    completion: AtomicU64,
    cached: AtomicU64,
}

impl Total {
    pub(super) fn new(open: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self(Arc::new(Sums {
            open: AtomicUsize::new(open),
            prompt: zero(),
            completion: zero(),
            cached: zero(),
        }))
    }

    fn add(&self, prompt: u32, completion: u32, cached: u32) -> Option<Usage> {
        let sum = |all: &AtomicU64, more: u32| {
            all.fetch_add(u64::from(more), Ordering::AcqRel) + u64::from(more)
        };
        let prompt = sum(&self.0.prompt, prompt);
        let completion = sum(&self.0.completion, completion);
        let cached = sum(&self.0.cached, cached);
        (self.0.open.fetch_sub(1, Ordering::AcqRel) == 1).then(|| {
            let mut details = Map::new();
            details.insert(
                String::from("prompt_tokens_details"),
                json!({"cached_tokens": cached}),
            );
            Usage {
                prompt_tokens: prompt,
                completion_tokens: completion,
                total_tokens: prompt + completion,
                details,
            }
        })
    }
}

/// Reads the events of one prompt.
pub(super) struct Reader {
    surface: Surface,
    engine: Engine,
    first: u32,
    total: Total,
    /// Characters of text so far, per choice: `text_offset` of legacy completions.
    offsets: BTreeMap<u32, usize>,
}

impl Form {
    pub(super) fn reader(&self, first: u32, total: Total) -> Reader {
        Reader {
            surface: self.surface,
            engine: self.engine.clone(),
            first,
            total,
            offsets: BTreeMap::new(),
        }
    }
}

impl Reader {
    pub(super) fn read(&mut self, event: GenEvent) -> Option<Result<Event, Failure>> {
        let event = match event {
            GenEvent::Text {
                choice,
                text,
                logprobs,
            } => {
                let choice = self.first + choice;
                let text = text.into_exposed();
                let logprobs = (!logprobs.is_empty()).then(|| self.logprobs(choice, &logprobs));
                Event::Text {
                    choice,
                    text,
                    logprobs,
                }
            }
            GenEvent::Finish {
                choice,
                reason,
                repetition,
            } => {
                let reason = match reason {
                    crate::FinishReason::Stop => FinishReason::Stop,
                    crate::FinishReason::Length => FinishReason::Length,
                };
                Event::Finish {
                    choice: self.first + choice,
                    reason,
                    repetition,
                }
            }
            GenEvent::Usage {
                prompt,
                completion,
                cached,
            } => Event::Usage(self.total.add(prompt, completion, cached)?),
            GenEvent::Failed(failure) => return Some(Err(failure)),
        };
        Some(Ok(event))
    }

    fn logprobs(&mut self, choice: u32, tokens: &[TokenLogprob]) -> Value {
        match self.surface {
            Surface::Completions => self.legacy(choice, tokens),
            Surface::Chat | Surface::Embeddings => {
                json!({"content": tokens.iter().map(chat).collect::<Vec<_>>()})
            }
        }
    }

    fn legacy(&mut self, choice: u32, tokens: &[TokenLogprob]) -> Value {
        let mut offset = self.offsets.get(&choice).copied().unwrap_or(0);
        let (mut texts, mut values, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let text = shown(token.bytes.expose());
            offsets.push(offset);
            offset += text.chars().count();
            values.push(token.logprob);
            let mut top = Map::new();
            for other in &token.top {
                top.insert(self.name(other.token), json!(other.logprob));
            }
            // The first token of a prompt was predicted by nothing.
            tops.push(token.logprob.map(|_| top));
            texts.push(text);
        }
        self.offsets.insert(choice, offset);
        json!({"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
    }

    /// A token as a key: its text, or its bytes where they are not whole characters.
    fn name(&self, token: u32) -> String {
        shown(self.engine.tokenizer().token_bytes(token))
    }
}

fn chat(token: &TokenLogprob) -> Value {
    let top: Vec<Value> = token
        .top
        .iter()
        .map(|other| {
            json!({"token": shown(other.bytes.expose()), "logprob": other.logprob, "bytes": other.bytes.expose()})
        })
        .collect();
    let bytes = token.bytes.expose();
    json!({"token": shown(bytes), "logprob": token.logprob, "bytes": bytes, "top_logprobs": top})
}

/// A token's text; bytes that are no whole character are written `bytes:\xe2\x82`, as OpenAI does.
fn shown(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(
        |_| {
            bytes.iter().fold(String::from("bytes:"), |text, byte| {
                text + &format!("\\x{byte:02x}")
            })
        },
        str::to_owned,
    )
}
