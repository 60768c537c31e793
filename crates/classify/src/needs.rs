//! What a backend must be able to do to serve a request.
//!
//! Prompt tokens are estimated from bytes, slightly too high on purpose: an English word costs
//! about 4.2 bytes per token in byte-level vocabularies, so letters and blanks count a quarter of a
//! token each, digits 2/3 (some vocabularies split every digit), punctuation and line ends 1/2,
//! bytes outside ASCII 1/2, plus 4 per message and 8 per request. Token numbers count exactly.

use mesh_core::{Fact, Needs, ToolNeed};
use mesh_protocol::{ModelRequest, Surface};
use serde_json::Value;

use crate::fact;
use crate::walk::Walk;

/// Twelfths of a token per byte.
const LETTER: u64 = 3;
const DIGIT: u64 = 8;
const OTHER: u64 = 6;
const TWELFTHS: u64 = 12;
/// Tokens around one message: role, begin, end.
const PER_MESSAGE: u64 = 4;
/// Tokens around a request.
const PER_REQUEST: u64 = 8;
/// Unknown names that are listed.
const LISTED: usize = 32;

/// Reads the needs; `told` says whether a name may be shown.
pub(crate) fn needs(request: &ModelRequest, walk: &Walk) -> (Needs, Vec<Fact>) {
    let body = &request.body;
    let format = body
        .get("response_format")
        .and_then(|format| format.get("type"))
        .and_then(Value::as_str);
    let audio_out = body
        .get("modalities")
        .and_then(Value::as_array)
        .is_some_and(|modes| modes.iter().any(|mode| mode.as_str() == Some("audio")));
    let needs = Needs {
        prompt_tokens: prompt_tokens(walk),
        max_output_tokens: request.max_tokens,
        tools: tools(request),
        json: matches!(format, Some("json_object" | "json_schema")),
        vision: walk.vision,
        other_media: walk.other_media || audio_out,
        embeddings: request.surface == Surface::Embeddings,
        dimensions: body
            .get("dimensions")
            .and_then(Value::as_u64)
            .and_then(|count| u32::try_from(count).ok()),
        stream: request.stream,
        hosted_tools: hosted(request),
        remote_urls: walk.remote_urls,
        unknown_fields: unknown(request),
    };
    let facts = explain(&needs);
    (needs, facts)
}

/// Tokens of everything that a model would be given, by the ratios above.
fn prompt_tokens(walk: &Walk) -> u32 {
    let mut weight = 0_u64;
    for segment in walk.corpus.originals() {
        let (mut plain, mut digits, mut all) = (0_u64, 0_u64, 0_u64);
        for byte in walk.corpus.read(segment).bytes() {
            plain += u64::from(byte.is_ascii_alphabetic() || byte == b' ');
            digits += u64::from(byte.is_ascii_digit());
            all += 1;
        }
        weight += plain * LETTER + digits * DIGIT + (all - plain - digits) * OTHER;
    }
    let messages = u64::try_from(walk.turns).unwrap_or(u64::MAX);
    let tokens = weight
        .div_ceil(TWELFTHS)
        .saturating_add(messages.saturating_mul(PER_MESSAGE))
        .saturating_add(walk.token_ids)
        .saturating_add(PER_REQUEST);
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn tools(request: &ModelRequest) -> ToolNeed {
    let body = &request.body;
    let given = ["tools", "functions"]
        .iter()
        .filter_map(|name| body.get(*name))
        .any(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()));
    let forced = ["tool_choice", "function_call"]
        .iter()
        .filter_map(|name| body.get(*name))
        .any(|choice| match choice {
            Value::String(word) => word == "required" || word == "any",
            Value::Object(named) => {
                // `allowed_tools` narrows the list; its own mode says whether a call is forced.
                let mode = named
                    .get("mode")
                    .or_else(|| choice.pointer("/allowed_tools/mode"));
                mode.and_then(Value::as_str) != Some("auto")
            }
            _ => false,
        });
    match (given, forced) {
        (_, true) => ToolNeed::Hard,
        (true, false) => ToolNeed::Soft,
        (false, false) => ToolNeed::None,
    }
}

/// Names of hosted tools that are said back; any other type is the caller's text.
const HOSTED: &[&str] = &[
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "image_generation",
    "mcp",
    "local_shell",
];

/// Tools that the provider runs. `function` and `custom` tools are run by the caller.
fn hosted(request: &ModelRequest) -> Vec<String> {
    let tools = request.body.get("tools").and_then(Value::as_array);
    let mut hosted = Vec::new();
    for tool in tools.into_iter().flatten() {
        let name = match tool.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => continue,
            None if tool.get("function").is_some() => continue,
            Some(name) if HOSTED.contains(&name) => name.to_owned(),
            _ => "unnamed".to_owned(),
        };
        if !hosted.contains(&name) && hosted.len() < LISTED {
            hosted.push(name);
        }
    }
    if request
        .body
        .get("web_search_options")
        .is_some_and(|options| !options.is_null())
    {
        hosted.push("web_search".to_owned());
    }
    hosted
}

/// Unknown fields by name, or by position if the name is not one that a program would give.
fn unknown(request: &ModelRequest) -> Vec<String> {
    let known = request.surface.known_fields();
    request
        .body
        .keys()
        .enumerate()
        .filter(|(_, name)| !known.contains(&name.as_str()))
        .take(LISTED)
        .map(|(index, name)| {
            if harmless(name) {
                name.clone()
            } else {
                format!("#{index}")
            }
        })
        .collect()
}

/// An identifier with few digits: nothing that could be a number or an address of somebody.
fn harmless(name: &str) -> bool {
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.len() <= 64 && digits < 9 && name.bytes().all(letters)
}

fn explain(needs: &Needs) -> Vec<Fact> {
    let mut facts = vec![fact(
        "prompt_tokens",
        needs.prompt_tokens,
        "rules/needs",
        "estimated from bytes, slightly too high",
    )];
    let mut say = |name: &'static str, evidence: &str| {
        facts.push(fact("needs", name, "rules/needs", evidence));
    };
    match needs.tools {
        ToolNeed::None => {}
        ToolNeed::Soft => say("tools", "tools that may be dropped"),
        ToolNeed::Hard => say("tools_enforced", "a tool call is required at /tool_choice"),
    }
    for (needed, name, evidence) in [
        (needs.json, "json", "/response_format"),
        (needs.vision, "vision", "an image part in /messages"),
        (
            needs.other_media,
            "other_media",
            "audio, files or unknown parts",
        ),
        (needs.embeddings, "embeddings", "the surface"),
        (
            !needs.hosted_tools.is_empty(),
            "hosted_tools",
            "tools that the provider runs",
        ),
        (
            needs.remote_urls,
            "remote_urls",
            "addresses that somebody must fetch",
        ),
        (
            !needs.unknown_fields.is_empty(),
            "unknown_fields",
            "top-level fields outside the surface",
        ),
    ] {
        if needed {
            say(name, evidence);
        }
    }
    facts
}
