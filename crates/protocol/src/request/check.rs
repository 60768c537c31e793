//! Types and ranges of the fields that the mesh acts on. Messages name fields, never values.

use serde_json::{Map, Value};

use super::{ParseError, Surface};

pub(super) fn check_content(surface: Surface, body: &Map<String, Value>) -> Result<(), ParseError> {
    match surface {
        Surface::Chat => check_messages(body),
        Surface::Completions => check_text(body, "prompt"),
        Surface::Embeddings => check_text(body, "input"),
    }
}

const ROLES: &[&str] = &[
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
];

fn check_messages(body: &Map<String, Value>) -> Result<(), ParseError> {
    let Some(Value::Array(messages)) = body.get("messages") else {
        return Err(ParseError::field(
            "messages",
            "`messages` must be a list of messages",
        ));
    };
    if messages.is_empty() {
        return Err(ParseError::field(
            "messages",
            "`messages` must not be empty",
        ));
    }
    for (index, message) in messages.iter().enumerate() {
        let Some(message) = message.as_object() else {
            return Err(ParseError::field(
                "messages",
                format!("message {index} must be an object"),
            ));
        };
        let role = message.get("role").and_then(Value::as_str);
        if !role.is_some_and(|role| ROLES.contains(&role)) {
            return Err(ParseError::field(
                "messages",
                format!(
                    "message {index}: `role` must be one of {}",
                    ROLES.join(", ")
                ),
            ));
        }
        match message.get("content") {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(Value::Array(parts)) if parts.iter().all(Value::is_object) => {}
            Some(_) => {
                return Err(ParseError::field(
                    "messages",
                    format!(
                        "message {index}: `content` must be a string, a list of parts, or null"
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn check_text(body: &Map<String, Value>, name: &str) -> Result<(), ParseError> {
    let whole = |value: &Value| value.is_u64();
    let fine = match body.get(name) {
        Some(Value::String(_)) => true,
        Some(Value::Array(items)) if !items.is_empty() => {
            items.iter().all(Value::is_string)
                || items.iter().all(whole)
                || items.iter().all(|item| {
                    item.as_array()
                        .is_some_and(|ids| !ids.is_empty() && ids.iter().all(whole))
                })
        }
        _ => false,
    };
    if fine {
        return Ok(());
    }
    Err(ParseError::field(
        name,
        format!("`{name}` must be a string, a list of strings, or token numbers"),
    ))
}

pub(super) fn check_ranges(body: &Map<String, Value>) -> Result<(), ParseError> {
    for (name, low, high) in [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
    ] {
        match body.get(name) {
            None | Some(Value::Null) => {}
            Some(value)
                if value
                    .as_f64()
                    .is_some_and(|number| (low..=high).contains(&number)) => {}
            Some(_) => {
                return Err(ParseError::field(
                    name,
                    format!("`{name}` must be a number from {low} to {high}"),
                ));
            }
        }
    }
    for name in ["tools", "functions"] {
        if body
            .get(name)
            .is_some_and(|value| !value.is_null() && !value.is_array())
        {
            return Err(ParseError::field(name, format!("`{name}` must be a list")));
        }
    }
    let stop_fine = match body.get("stop") {
        None | Some(Value::Null | Value::String(_)) => true,
        Some(Value::Array(stops)) => stops.len() <= 16 && stops.iter().all(Value::is_string),
        Some(_) => false,
    };
    if stop_fine {
        Ok(())
    } else {
        Err(ParseError::field(
            "stop",
            "`stop` must be a string or up to 16 strings",
        ))
    }
}
