//! How each top-level field of a request is read, and which member names may appear in places.
//!
//! One line per known field of each surface: a test compares it with the protocol's list, so that a
//! field cannot become known without a decision here. Whatever happens, nothing is skipped: a field
//! without a line is read as [`Reading::Everything`].

use mesh_protocol::Surface;

/// How a field is read. Every variant reads every string, name and card-sized number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Messages with roles, parts, tool calls.
    Messages,
    /// Text, texts, or token numbers (which cannot be read).
    Prompt,
    /// Definitions of tools and formats.
    Definition,
    /// A string or content parts, as in a message.
    Content,
    /// No structure that matters: all strings, names and numbers.
    Everything,
}

use Reading::{Content, Definition, Everything, Messages, Prompt};

const CHAT: &[(&str, Reading)] = &[
    ("model", Everything),
    ("messages", Messages),
    ("stream", Everything),
    ("stream_options", Everything),
    ("temperature", Everything),
    ("top_p", Everything),
    ("n", Everything),
    ("stop", Everything),
    ("max_tokens", Everything),
    ("max_completion_tokens", Everything),
    ("presence_penalty", Everything),
    ("frequency_penalty", Everything),
    ("logit_bias", Everything),
    ("logprobs", Everything),
    ("top_logprobs", Everything),
    ("seed", Everything),
    ("tools", Definition),
    ("tool_choice", Definition),
    ("parallel_tool_calls", Everything),
    ("functions", Definition),
    ("function_call", Definition),
    ("response_format", Definition),
    ("user", Everything),
    ("safety_identifier", Everything),
    ("prompt_cache_key", Everything),
    ("metadata", Everything),
    ("store", Everything),
    ("service_tier", Everything),
    ("reasoning_effort", Everything),
    ("verbosity", Everything),
    ("modalities", Everything),
    ("audio", Everything),
    ("prediction", Content),
    ("web_search_options", Everything),
];

const COMPLETIONS: &[(&str, Reading)] = &[
    ("model", Everything),
    ("prompt", Prompt),
    ("suffix", Prompt),
    ("stream", Everything),
    ("stream_options", Everything),
    ("temperature", Everything),
    ("top_p", Everything),
    ("n", Everything),
    ("best_of", Everything),
    ("stop", Everything),
    ("max_tokens", Everything),
    ("presence_penalty", Everything),
    ("frequency_penalty", Everything),
    ("logit_bias", Everything),
    ("logprobs", Everything),
    ("echo", Everything),
    ("seed", Everything),
    ("user", Everything),
];

const EMBEDDINGS: &[(&str, Reading)] = &[
    ("model", Everything),
    ("input", Prompt),
    ("encoding_format", Everything),
    ("dimensions", Everything),
    ("user", Everything),
];

/// The table of one surface.
pub(crate) const fn table(surface: Surface) -> &'static [(&'static str, Reading)] {
    match surface {
        Surface::Chat => CHAT,
        Surface::Completions => COMPLETIONS,
        Surface::Embeddings => EMBEDDINGS,
    }
}

/// How one field is read.
pub(crate) fn reading(surface: Surface, field: &str) -> Reading {
    table(surface)
        .iter()
        .find(|(name, _)| *name == field)
        .map_or(Everything, |(_, reading)| *reading)
}

/// Names of OpenAI's and JSON Schema's vocabulary below the top level, sorted. Only these and the
/// known fields are written out in places; any other name is the caller's own text.
const NAMES: &[&str] = &[
    "additionalProperties",
    "allowed_tools",
    "anyOf",
    "approximate",
    "arguments",
    "audio",
    "call_id",
    "city",
    "content",
    "country",
    "custom",
    "data",
    "default",
    "definition",
    "description",
    "detail",
    "enum",
    "file",
    "file_data",
    "file_id",
    "file_url",
    "filename",
    "format",
    "function",
    "function_call",
    "id",
    "image_url",
    "include_usage",
    "input",
    "input_audio",
    "items",
    "json_schema",
    "mode",
    "name",
    "output",
    "parameters",
    "properties",
    "reasoning",
    "reasoning_content",
    "refusal",
    "region",
    "required",
    "role",
    "schema",
    "search_context_size",
    "server_url",
    "strict",
    "text",
    "thinking",
    "timezone",
    "title",
    "tool_call_id",
    "tool_calls",
    "type",
    "url",
    "user_location",
    "value",
    "video_url",
    "voice",
];

/// The name as a constant if places may show it. What is given here needs no scan.
pub(crate) fn shown(name: &str) -> Option<&'static str> {
    if let Ok(at) = NAMES.binary_search(&name) {
        return NAMES.get(at).copied();
    }
    CHAT.iter()
        .chain(COMPLETIONS)
        .chain(EMBEDDINGS)
        .map(|(known, _)| *known)
        .find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_protocol::Surface;

    use super::{NAMES, table};

    #[test]
    fn every_known_field_is_read_by_a_decision_made_here() {
        for surface in [Surface::Chat, Surface::Completions, Surface::Embeddings] {
            let known: BTreeSet<_> = surface.known_fields().iter().copied().collect();
            let decided: BTreeSet<_> = table(surface).iter().map(|(name, _)| *name).collect();
            assert_eq!(known, decided, "{surface:?}");
            assert_eq!(decided.len(), table(surface).len(), "no name twice");
        }
    }

    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(NAMES.is_sorted());
    }
}
