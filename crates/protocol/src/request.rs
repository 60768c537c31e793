//! A request of an application. One type for all surfaces: the body is kept as it came, in order;
//! only what the mesh acts on is read into fields, and checked.

mod check;
mod shape;

use std::fmt;

use serde_json::{Map, Value};

use check::{check_content, check_ranges};
use shape::{MOST_VALUES, Shape};

/// Which endpoint was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    Embeddings,
}

impl Surface {
    /// The word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    /// Path below an upstream's base address.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    /// Top-level fields that this surface knows (OpenAI's published API description). Anything else
    /// is an unknown field (`semantics` section 5).
    pub const fn known_fields(self) -> &'static [&'static str] {
        match self {
            Self::Chat => CHAT_FIELDS,
            Self::Completions => COMPLETION_FIELDS,
            Self::Embeddings => EMBEDDING_FIELDS,
        }
    }
}

const CHAT_FIELDS: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "n",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "store",
    "service_tier",
    "reasoning_effort",
    "verbosity",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
];
const COMPLETION_FIELDS: &[&str] = &[
    "model",
    "prompt",
    "suffix",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "n",
    "best_of",
    "stop",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "echo",
    "seed",
    "user",
];
const EMBEDDING_FIELDS: &[&str] = &["model", "input", "encoding_format", "dimensions", "user"];

/// A request that was understood.
#[derive(Clone, PartialEq)]
pub struct ModelRequest {
    /// Which endpoint.
    pub surface: Surface,
    /// The body as it came. Field order is kept.
    pub body: Map<String, Value>,
    /// `model`, as the caller wrote it.
    pub model: String,
    /// `stream`.
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    /// Choices asked for, at least 1.
    pub n: u32,
    /// `max_completion_tokens` or `max_tokens`.
    pub max_tokens: Option<u32>,
}

impl fmt::Debug for ModelRequest {
    /// Never shows the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelRequest")
            .field("surface", &self.surface)
            .field("stream", &self.stream)
            .field("n", &self.n)
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a request. The message names fields and types, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// For a person.
    pub message: String,
    /// The field, if one is to blame.
    pub param: Option<String>,
}

impl ParseError {
    /// A fault of one field.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }

    /// A fault of the whole body.
    pub fn body(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: None,
        }
    }
}

impl ModelRequest {
    /// Reads a body whose nesting is at most `max_depth`.
    ///
    /// # Errors
    /// If it is not a JSON object, nests deeper, or a field we act on is missing or has a wrong
    /// type or range. The rest is not looked at.
    pub fn parse(surface: Surface, bytes: &[u8], max_depth: usize) -> Result<Self, ParseError> {
        let shape = Shape::of(bytes, max_depth);
        if shape.values > MOST_VALUES {
            let message = format!("the body holds more than {MOST_VALUES} values");
            return Err(ParseError::body(message));
        }
        if shape.too_deep {
            return Err(ParseError::body(format!(
                "the body nests deeper than {max_depth} levels"
            )));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            // serde_json's own text may quote the input.
            ParseError::body(format!(
                "the body is not valid JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        let Value::Object(body) = value else {
            return Err(ParseError::body("the body must be a JSON object"));
        };
        Self::from_body(surface, body)
    }

    /// Reads a body that is JSON already.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn from_body(surface: Surface, body: Map<String, Value>) -> Result<Self, ParseError> {
        let model = match body.get("model") {
            Some(Value::String(model)) if !model.is_empty() => model.clone(),
            Some(_) => {
                return Err(ParseError::field(
                    "model",
                    "`model` must be a non-empty string",
                ));
            }
            None => {
                return Err(ParseError::field(
                    "model",
                    "`model` is missing: name a model, or use `auto` or `local`",
                ));
            }
        };
        check_content(surface, &body)?;
        check_ranges(&body)?;
        let stream = boolean(&body, "stream")?.unwrap_or(false);
        let include_usage = match body.get("stream_options") {
            None | Some(Value::Null) => false,
            Some(Value::Object(options)) => boolean(options, "include_usage")?.unwrap_or(false),
            Some(_) => {
                return Err(ParseError::field(
                    "stream_options",
                    "`stream_options` must be an object",
                ));
            }
        };
        let n = integer(&body, "n", 1, 128)?.unwrap_or(1);
        let limit = u64::from(u32::MAX);
        let max_tokens = integer(&body, "max_completion_tokens", 1, limit)?.or(integer(
            &body,
            "max_tokens",
            0,
            limit,
        )?);
        if surface == Surface::Chat && max_tokens == Some(0) {
            return Err(ParseError::field(
                "max_tokens",
                "`max_tokens` must be at least 1",
            ));
        }
        let stream = stream && surface != Surface::Embeddings;
        Ok(Self {
            surface,
            body,
            model,
            stream,
            include_usage,
            n,
            max_tokens,
        })
    }

    /// Top-level fields that the surface does not know, in order.
    pub fn unknown_fields(&self) -> impl Iterator<Item = &str> {
        let known = self.surface.known_fields();
        self.body
            .keys()
            .map(String::as_str)
            .filter(move |name| !known.contains(name))
    }

    /// The messages of a chat request; empty otherwise.
    pub fn messages(&self) -> &[Value] {
        self.body
            .get("messages")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }
}

fn boolean(body: &Map<String, Value>, name: &str) -> Result<Option<bool>, ParseError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(ParseError::field(
            name,
            format!("`{name}` must be true or false"),
        )),
    }
}

fn integer(
    body: &Map<String, Value>,
    name: &str,
    low: u64,
    high: u64,
) -> Result<Option<u32>, ParseError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .filter(|number| (low..=high).contains(number))
            .and_then(|number| u32::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| {
                ParseError::field(
                    name,
                    format!("`{name}` must be a whole number from {low} to {high}"),
                )
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::{ModelRequest, Surface};

    fn parse(body: &str) -> Result<ModelRequest, super::ParseError> {
        ModelRequest::parse(Surface::Chat, body.as_bytes(), 32)
    }

    #[test]
    fn a_plain_chat_request_is_understood_and_kept_in_order() {
        let request = parse(r#"{"zeta":1,"model":"auto","messages":[{"role":"user","content":"hi"}],"stream":true}"#)
            .expect("a request");
        assert!(request.stream && request.n == 1);
        assert_eq!(request.unknown_fields().collect::<Vec<_>>(), ["zeta"]);
        assert_eq!(request.body.keys().next().map(String::as_str), Some("zeta"));
    }

    #[test]
    fn faults_name_the_field_and_never_the_value() {
        let long = "canary-value";
        for (body, field) in [
            (
                format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}]}}"#),
                Some("model"),
            ),
            (
                format!(r#"{{"model":"m","messages":"{long}"}}"#),
                Some("messages"),
            ),
            (
                r#"{"model":"m","messages":[]}"#.to_owned(),
                Some("messages"),
            ),
            (
                format!(r#"{{"model":"m","messages":[{{"role":"{long}","content":""}}]}}"#),
                Some("messages"),
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":9}"#
                    .to_owned(),
                Some("temperature"),
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":"x"}],"n":0}"#.to_owned(),
                Some("n"),
            ),
            (format!(r#"{{"{long}"#), None),
            ("[]".to_owned(), None),
        ] {
            let error = parse(&body).expect_err("a fault");
            assert_eq!(error.param.as_deref(), field, "{body}");
            assert!(!error.message.contains(long), "{}", error.message);
        }
    }

    #[test]
    fn hostile_nesting_is_refused_before_parsing_and_brackets_in_strings_do_not_count() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(
            parse(&deep)
                .expect_err("too deep")
                .message
                .contains("nests deeper")
        );
        let text = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"{}\""}}]}}"#,
            "[".repeat(500)
        );
        assert!(parse(&text).is_ok());
    }

    #[test]
    fn a_flood_of_small_values_is_refused_before_parsing() {
        let flood = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"z":[{}0]}}"#,
            "0,".repeat(600_000)
        );
        assert!(
            parse(&flood)
                .expect_err("too many")
                .message
                .contains("values")
        );
    }
}
