//! Error objects of upstreams, in the many shapes they come in, brought into one.

use std::fmt;

use serde_json::{Map, Value};

/// What an upstream said about a failure. The texts are its own and may quote the request, so they
/// are not printed; whoever passes them on has to scrub them first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UpstreamError {
    /// For a person; at most [`UpstreamError::TEXT_LIMIT`] bytes.
    pub message: String,
    /// `type`, or Google's `status`, or TGI's `error_type`.
    pub kind: Option<String>,
    /// `param`.
    pub param: Option<String>,
    /// `code`, where it is a word.
    pub code: Option<String>,
    /// `code`, where it is an HTTP status.
    pub status: Option<u16>,
}

impl fmt::Debug for UpstreamError {
    /// Never shows a text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UpstreamError({} bytes, status {:?})",
            self.message.len(),
            self.status
        )
    }
}

impl UpstreamError {
    /// Longest message kept, in bytes.
    pub const TEXT_LIMIT: usize = 4096;
    /// Longest code, type and parameter kept, in bytes.
    pub const WORD_LIMIT: usize = 128;

    /// Reads a body of any kind: OpenAI's object, vLLM's flat one, FastAPI's `detail`, TGI's and
    /// ollama's bare text, Google's list of one, plain text. Nothing recognizable gives an empty
    /// message; pages of HTML are not a message.
    pub fn read(bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(bytes) {
            Ok(value) => Self::from_value(value, 0),
            Err(_) => Self::plain(&String::from_utf8_lossy(bytes)),
        }
    }

    fn plain(text: &str) -> Self {
        let text = text.trim();
        if text.starts_with('<') {
            return Self::default();
        }
        Self {
            message: bounded(text, Self::TEXT_LIMIT),
            ..Self::default()
        }
    }

    /// `depth` bounds how far an object may be wrapped in others.
    fn from_value(value: Value, depth: u8) -> Self {
        match value {
            Value::String(text) => Self::plain(&text),
            Value::Array(items) if depth < 3 => items
                .into_iter()
                .next()
                .map_or_else(Self::default, |first| Self::from_value(first, depth + 1)),
            Value::Object(fields) => Self::from_object(fields, depth),
            _ => Self::default(),
        }
    }

    fn from_object(mut fields: Map<String, Value>, depth: u8) -> Self {
        let outer = Self {
            message: ["message", "msg", "error_description"]
                .iter()
                .find_map(|name| text(&fields, name, Self::TEXT_LIMIT))
                .unwrap_or_default(),
            kind: ["error_type", "type", "status"]
                .iter()
                .find_map(|name| text(&fields, name, Self::WORD_LIMIT)),
            param: text(&fields, "param", Self::WORD_LIMIT).or_else(|| location(&fields)),
            code: text(&fields, "code", Self::WORD_LIMIT).or_else(|| detail_reason(&fields)),
            status: status(&fields),
        };
        if depth >= 3 {
            return outer;
        }
        for wrapper in ["error", "detail", "errors"] {
            match fields.remove(wrapper) {
                None | Some(Value::Null) => {}
                Some(inner) => return Self::from_value(inner, depth + 1).or(outer),
            }
        }
        outer
    }

    /// Fills what the inner object does not say from the outer one.
    fn or(self, outer: Self) -> Self {
        Self {
            message: if self.message.is_empty() {
                outer.message
            } else {
                self.message
            },
            kind: self.kind.or(outer.kind),
            param: self.param.or(outer.param),
            code: self.code.or(outer.code),
            status: self.status.or(outer.status),
        }
    }
}

fn text(fields: &Map<String, Value>, name: &str, limit: usize) -> Option<String> {
    match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(bounded(text, limit)),
        _ => None,
    }
}

/// A number where a code or status stands, if it can be an HTTP status; also as digits in a string.
fn status(fields: &Map<String, Value>) -> Option<u16> {
    ["code", "status", "status_code"]
        .iter()
        .filter_map(|name| fields.get(*name))
        .find_map(|value| match value {
            Value::Number(number) => number.as_u64().and_then(|code| u16::try_from(code).ok()),
            Value::String(digits) => digits.parse().ok(),
            _ => None,
        })
        .filter(|code| (400..600).contains(code))
}

/// FastAPI's `loc`: where in the body the fault is, without the leading `body`.
fn location(fields: &Map<String, Value>) -> Option<String> {
    let steps: Vec<&str> = fields
        .get("loc")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .filter(|step| *step != "body")
        .collect();
    (!steps.is_empty()).then(|| bounded(&steps.join("."), UpstreamError::WORD_LIMIT))
}

/// Google's `details[].reason`.
fn detail_reason(fields: &Map<String, Value>) -> Option<String> {
    fields
        .get("details")?
        .as_array()?
        .iter()
        .find_map(|detail| detail.get("reason")?.as_str())
        .map(|reason| bounded(reason, UpstreamError::WORD_LIMIT))
}

/// The beginning of `text`, cut between characters.
fn bounded(text: &str, limit: usize) -> String {
    text[..text.floor_char_boundary(limit)].to_owned()
}
