//! The typed event stream between a backend and a caller. Every backend (cloud, model server,
//! engine in this process) is read into these events; every surface is written from them. No bytes
//! are passed through.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One step of an answer. `choice` counts from 0.
#[derive(Clone, PartialEq)]
pub enum Event {
    /// A piece of generated text.
    Text {
        /// Which choice.
        choice: u32,
        /// The piece; may be empty only together with `logprobs`.
        text: String,
        /// Log-probabilities of its tokens in the wire form of the surface that asked
        /// (`logprobs` object of chat chunks, or of legacy completions).
        logprobs: Option<Value>,
    },
    /// A piece of the model's reasoning (`reasoning_content` or `reasoning`).
    Reasoning {
        /// Which choice.
        choice: u32,
        /// The piece.
        text: String,
    },
    /// A piece of a refusal.
    Refusal {
        /// Which choice.
        choice: u32,
        /// The piece.
        text: String,
    },
    /// Fragments of tool calls: the elements of `delta.tool_calls` as they came, each with its
    /// `index`.
    ToolCalls {
        /// Which choice.
        choice: u32,
        /// OpenAI tool-call deltas.
        calls: Vec<Value>,
    },
    /// Fields of a delta that we do not know, kept for the caller.
    Other {
        /// Which choice.
        choice: u32,
        /// The fields.
        fields: Map<String, Value>,
    },
    /// The choice is complete.
    Finish {
        /// Which choice.
        choice: u32,
        /// Why it ended.
        reason: FinishReason,
        /// True if the floor ended a loop.
        repetition: bool,
    },
    /// What was used; at most once, last.
    Usage(Usage),
    /// The vectors of an embeddings request; the only event besides `Usage` there.
    Embeddings(Vec<Embedding>),
}

impl Event {
    /// True for the events that count as the first token of an answer: text, reasoning, refusal, a
    /// tool call, a finish reason, or vectors. Role-only deltas never become events.
    pub fn first_token(&self) -> bool {
        match self {
            Self::Text { text, .. } | Self::Reasoning { text, .. } | Self::Refusal { text, .. } => {
                !text.is_empty()
            }
            Self::ToolCalls { calls, .. } => !calls.is_empty(),
            Self::Finish { .. } | Self::Embeddings(_) => true,
            Self::Other { .. } | Self::Usage(_) => false,
        }
    }
}

impl fmt::Debug for Event {
    /// Names the kind of event and its choice; never the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { choice, text, .. } => {
                write!(f, "Text(choice {choice}, {} bytes)", text.len())
            }
            Self::Reasoning { choice, text } => {
                write!(f, "Reasoning(choice {choice}, {} bytes)", text.len())
            }
            Self::Refusal { choice, text } => {
                write!(f, "Refusal(choice {choice}, {} bytes)", text.len())
            }
            Self::ToolCalls { choice, calls } => {
                write!(f, "ToolCalls(choice {choice}, {})", calls.len())
            }
            Self::Other { choice, fields } => {
                write!(f, "Other(choice {choice}, {} fields)", fields.len())
            }
            Self::Finish {
                choice,
                reason,
                repetition,
            } => {
                write!(
                    f,
                    "Finish(choice {choice}, {}, repetition {repetition})",
                    reason.as_str()
                )
            }
            Self::Usage(usage) => write!(f, "{usage:?}"),
            Self::Embeddings(vectors) => write!(f, "Embeddings({})", vectors.len()),
        }
    }
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended, or a stop string was met.
    Stop,
    /// The token limit was met.
    Length,
    /// The model wants tools called.
    ToolCalls,
    /// The provider's filter ended it.
    ContentFilter,
    /// Another word of the upstream, kept.
    Other(String),
}

impl FinishReason {
    /// OpenAI's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for FinishReason {
    fn from(word: &str) -> Self {
        match word {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Tokens used by one answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens generated.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both.
    #[serde(default)]
    pub total_tokens: u64,
    /// Details and whatever else the upstream counts (`prompt_tokens_details` and so on).
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

/// One vector of an embeddings answer.
#[derive(Clone, PartialEq)]
pub struct Embedding {
    /// Position of the input it belongs to.
    pub index: u32,
    /// The vector.
    pub vector: Vec<f32>,
}

impl fmt::Debug for Embedding {
    /// Shows the position and the length; a vector can be turned back into text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Embedding(index {}, {} dimensions)",
            self.index,
            self.vector.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, FinishReason};

    #[test]
    fn debug_output_of_an_event_never_holds_text() {
        let event = Event::Text {
            choice: 0,
            text: String::from("canary"),
            logprobs: None,
        };
        assert!(!format!("{event:?}").contains("canary"));
    }

    #[test]
    fn a_finish_without_text_is_a_first_token_and_an_empty_text_is_not() {
        assert!(
            Event::Finish {
                choice: 0,
                reason: FinishReason::Stop,
                repetition: false
            }
            .first_token()
        );
        assert!(
            !Event::Text {
                choice: 0,
                text: String::new(),
                logprobs: None
            }
            .first_token()
        );
    }
}
