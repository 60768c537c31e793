//! What callers send, reduced to what a chat template understands: three roles and text.
//!
//! The rules are those of the product: parts joined by newline, null is "", `developer` is system, tool calls are JSON at the
//! end of the assistant's text, a tool's result is a user turn with a prefix. Refuses images, audio and files.

use mesh_core::Sensitive;
use serde_json::{Map, Value, json};

/// Why a conversation cannot be put before this engine's models.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    #[error("messages must not be empty")]
    Empty,
    #[error("messages[{index}] must be an object")]
    NotAnObject { index: usize },
    #[error("messages[{index}].role must be system, developer, user, assistant, tool or function")]
    Role { index: usize },
    #[error("messages[{index}].content must be a string, an array of parts or null")]
    Content { index: usize },
    #[error("messages[{index}].tool_calls must be an array of calls with a name")]
    ToolCalls { index: usize },
    #[error("not supported: {kind} input on the floor (messages[{index}])")]
    Media { index: usize, kind: &'static str },
}

impl Error {
    /// Stable reason for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Media { .. } => "UnsupportedInput",
            _ => "InvalidMessages",
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The caller, or a tool's result.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word templates compare with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Sensitive<String>,
}

impl Turn {
    /// A turn of plain text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Sensitive::new(content.into()),
        }
    }
}

/// Reduces the `messages` of a chat request.
pub fn normalize(messages: &[Value]) -> Result<Vec<Turn>, Error> {
    if messages.is_empty() {
        return Err(Error::Empty);
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| turn(index, message))
        .collect()
}

fn turn(index: usize, message: &Value) -> Result<Turn, Error> {
    let message = message.as_object().ok_or(Error::NotAnObject { index })?;
    let role = message
        .get("role")
        .and_then(Value::as_str)
        .ok_or(Error::Role { index })?;
    let content = text(index, message.get("content").unwrap_or(&Value::Null))?;
    Ok(match role {
        "system" | "developer" => Turn::new(Role::System, content),
        "user" => Turn::new(Role::User, content),
        "assistant" => Turn::new(Role::Assistant, assistant(index, message, content)?),
        "tool" | "function" => Turn::new(Role::User, tool_result(message, &content)),
        _ => return Err(Error::Role { index }),
    })
}

/// The text of a `content`.
fn text(index: usize, content: &Value) -> Result<String, Error> {
    let parts = match content {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err(Error::Content { index }),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        texts.push(part_text(index, part)?);
    }
    Ok(texts.join("\n"))
}

fn part_text(index: usize, part: &Value) -> Result<&str, Error> {
    if let Value::String(text) = part {
        return Ok(text);
    }
    let kind = part
        .get("type")
        .and_then(Value::as_str)
        .ok_or(Error::Content { index })?;
    let field = match kind {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        "image_url" | "input_image" | "image" => {
            return Err(Error::Media {
                index,
                kind: "image",
            });
        }
        "input_audio" | "audio" => {
            return Err(Error::Media {
                index,
                kind: "audio",
            });
        }
        "video_url" | "video" => {
            return Err(Error::Media {
                index,
                kind: "video",
            });
        }
        "file" | "input_file" => {
            return Err(Error::Media {
                index,
                kind: "file",
            });
        }
        _ => {
            return Err(Error::Media {
                index,
                kind: "unknown",
            });
        }
    };
    part.get(field)
        .and_then(Value::as_str)
        .ok_or(Error::Content { index })
}

/// The assistant's text, a refusal in its place, and the calls it made, one JSON object a line.
fn assistant(index: usize, message: &Map<String, Value>, content: String) -> Result<String, Error> {
    let mut lines = Vec::new();
    match message.get("refusal").and_then(Value::as_str) {
        Some(refusal) if content.is_empty() => lines.push(refusal.to_owned()),
        _ if content.is_empty() => {}
        _ => lines.push(content),
    }
    if message.get("audio").is_some_and(|audio| !audio.is_null()) {
        return Err(Error::Media {
            index,
            kind: "audio",
        });
    }
    let calls = match message.get("tool_calls") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(calls)) => calls.as_slice(),
        Some(_) => return Err(Error::ToolCalls { index }),
    };
    let functions = calls
        .iter()
        .map(|call| call.get("function").or_else(|| call.get("custom")));
    let legacy = message
        .get("function_call")
        .filter(|call| !call.is_null())
        .map(Some);
    for function in functions.chain(legacy) {
        let function = function
            .and_then(Value::as_object)
            .ok_or(Error::ToolCalls { index })?;
        lines.push(call(function).ok_or(Error::ToolCalls { index })?);
    }
    Ok(lines.join("\n"))
}

/// One call as JSON. Arguments come as a string of JSON and are shown as what they mean, or as the string if they are none.
fn call(function: &Map<String, Value>) -> Option<String> {
    let name = function.get("name")?.as_str()?;
    let arguments = match function.get("arguments").or_else(|| function.get("input")) {
        Some(Value::String(text)) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
        }
        Some(value) => value.clone(),
        None => Value::Null,
    };
    Some(json!({ "name": name, "arguments": arguments }).to_string())
}

fn tool_result(message: &Map<String, Value>, content: &str) -> String {
    match message.get("name").and_then(Value::as_str) {
        Some(name) => format!("Tool result ({name}):\n{content}"),
        None => format!("Tool result:\n{content}"),
    }
}
