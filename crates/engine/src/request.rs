//! What a caller asks of the engine and what it gets: a request, a refusal, or a stream of events.
//!
//! Nothing here prints a prompt or an answer: texts are [`Sensitive`], and the request itself has no
//! `Debug`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use mesh_core::{LatencyClass, Sensitive};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cache::Partition;
use crate::sample::Sampling;
use crate::template;

/// What the model reads.
#[derive(Clone)]
pub enum Prompt {
    /// The `messages` of a chat request; they go through the model's template.
    Messages(Vec<serde_json::Value>),
    /// Plain text; control tokens written in it stay text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// What happens to a conversation larger than the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest turns that are not system are dropped, and the answer says so.
    #[default]
    TrimHistory,
    /// The request is refused.
    Refuse,
}

/// One request.
#[derive(Clone)]
pub struct GenerateRequest {
    /// What the model reads.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens per choice; absent: 512 or what fits.
    pub max_tokens: Option<u32>,
    /// Texts that end a choice; they are not part of the answer.
    pub stop: Vec<String>,
    /// Choices, 1 to 4.
    pub n: u32,
    /// Whether every choice starts with the prompt's text.
    pub echo: bool,
    /// Log probabilities with so many alternatives per token, up to 20; with `echo` of the prompt too.
    pub logprobs: Option<u8>,
    /// Name of the adapter that answers; absent: the model as it is.
    pub adapter: Option<String>,
    /// Whose prefixes may be reused.
    pub partition: Partition,
    /// How soon.
    pub latency: LatencyClass,
    /// Whether no other backend could answer: goes first.
    pub sole: bool,
    /// What happens to a conversation larger than the window.
    pub overflow: Overflow,
}

impl GenerateRequest {
    /// A request with nothing but a prompt and the partition it belongs to.
    pub fn new(prompt: Prompt, partition: Partition) -> Self {
        Self {
            prompt,
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            n: 1,
            echo: false,
            logprobs: None,
            adapter: None,
            partition,
            latency: LatencyClass::Standard,
            sole: false,
            overflow: Overflow::default(),
        }
    }
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The prompt does not fit.
    #[error("the prompt has {prompt_tokens} tokens, the window is {window}")]
    ContextLength {
        /// Tokens of the prompt, after trimming where that was allowed.
        prompt_tokens: usize,
        /// Most tokens of prompt and answer together.
        window: usize,
    },
    /// The queue is full.
    #[error("the engine is busy")]
    Busy {
        /// When a place is likely.
        retry_after: Duration,
    },
    /// A field is out of range.
    #[error("{field} must be {bound}")]
    Invalid {
        /// Name of the field as callers know it.
        field: &'static str,
        /// What it may be.
        bound: &'static str,
    },
    /// The messages cannot be used.
    #[error("the messages cannot be used: {0}")]
    Messages(#[from] template::NormalizeError),
    /// The model's template cannot render them.
    #[error("the model's template cannot render the messages: {0}")]
    Template(#[from] template::Error),
    /// The engine is shutting down or has failed.
    #[error("the engine has stopped")]
    Stopped,
}

impl Refused {
    /// Stable word for headers, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ContextLength { .. } => "ContextLength",
            Self::Busy { .. } => "Busy",
            Self::Invalid { .. } => "InvalidField",
            Self::Messages(error) => error.reason(),
            Self::Template(error) => error.reason(),
            Self::Stopped => "EngineStopped",
        }
    }
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// The most tokens were reached, or the text repeated itself.
    Length,
}

/// Why an accepted request ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It waited too long.
    #[error("the engine is busy")]
    Busy {
        /// When a place is likely.
        retry_after: Duration,
    },
    /// The engine shut down or failed.
    #[error("the engine has stopped")]
    Stopped,
}

impl Failure {
    /// Stable word for headers, logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "Busy",
            Self::Stopped => "EngineStopped",
        }
    }
}

/// A token that could have been chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// Id of the token.
    pub token: u32,
    /// Its bytes: not always whole characters.
    pub bytes: Sensitive<Vec<u8>>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A token of the answer (or of the echoed prompt) with what the model thought of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Id of the token.
    pub token: u32,
    /// Its bytes: not always whole characters.
    pub bytes: Sensitive<Vec<u8>>,
    /// Natural logarithm of its probability; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The most probable tokens at this place, the best first.
    pub top: Vec<Alternative>,
}

/// What happens while a request is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum GenEvent {
    /// More text of a choice.
    Text {
        /// Number of the choice.
        choice: u32,
        /// Whole characters.
        text: Sensitive<String>,
        /// Tokens that are complete with this text, where they were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// A choice is complete.
    Finish {
        /// Number of the choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
        /// Whether the text repeated itself.
        repetition: bool,
    },
    /// The whole request is complete; nothing follows.
    Usage {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of all choices.
        completion: u32,
        /// Tokens of the prompt that did not have to be computed.
        cached: u32,
    },
    /// The request ended without an answer; nothing follows.
    Failed(Failure),
}

/// A request being answered. Dropping it cancels the work within one step.
#[derive(Debug)]
pub struct Generation {
    pub(crate) prompt_tokens: u32,
    pub(crate) context_trimmed: bool,
    pub(crate) events: UnboundedReceiver<GenEvent>,
    pub(crate) done: bool,
}

impl Generation {
    /// Tokens of the prompt as the model reads it.
    pub const fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// Whether turns were dropped to make it fit.
    pub const fn context_trimmed(&self) -> bool {
        self.context_trimmed
    }
}

impl Stream for Generation {
    type Item = GenEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenEvent>> {
        if self.done {
            return Poll::Ready(None);
        }
        self.events.poll_recv(context).map(|event| {
            // A stream that ends without its last event ends because the engine is gone.
            let event = event.unwrap_or(GenEvent::Failed(Failure::Stopped));
            self.done = matches!(event, GenEvent::Usage { .. } | GenEvent::Failed(_));
            Some(event)
        })
    }
}
