//! Messages: roles, content parts, media. Anything that is not understood is read as plain values.

use serde_json::{Map, Value};

use super::Walker;
use crate::corpus::Voice;

/// What the `type` of a content part says.
enum Kind {
    Text,
    Image,
    Media,
    Unknown,
}

fn kind(part: &Map<String, Value>) -> Kind {
    match part.get("type").and_then(Value::as_str) {
        Some("text" | "input_text" | "output_text" | "refusal" | "reasoning" | "thinking") => {
            Kind::Text
        }
        Some("image_url" | "input_image" | "image" | "image_file") => Kind::Image,
        Some("input_audio" | "audio" | "file" | "input_file" | "video_url" | "document") => {
            Kind::Media
        }
        None if part.contains_key("text") && !part.contains_key("type") => Kind::Text,
        _ => Kind::Unknown,
    }
}

impl Walker {
    pub(super) fn messages(&mut self, messages: &[Value]) {
        self.walk.turns = messages.len();
        self.walk.last_user = messages
            .iter()
            .rposition(|message| message.get("role").and_then(Value::as_str) == Some("user"));
        for (index, message) in messages.iter().enumerate() {
            self.message = Some(index);
            self.item(index, |walker| match message {
                Value::Object(members) => walker.message(members),
                other => walker.value(other),
            });
        }
        self.message = None;
    }

    fn message(&mut self, members: &Map<String, Value>) {
        let voice = match members.get("role").and_then(Value::as_str) {
            Some("user") => Voice::User,
            Some("system" | "developer") => Voice::System,
            Some("assistant") => Voice::Assistant,
            Some("tool" | "function") => Voice::Tool,
            _ => Voice::Other,
        };
        for (index, (name, value)) in members.iter().enumerate() {
            self.member(index, name, |walker| {
                match (name.as_str(), value) {
                    ("content", Value::Array(parts)) => {
                        walker.speaking(voice, |walker| walker.parts(parts));
                    }
                    ("content", Value::String(_)) => {
                        walker.speaking(voice, |walker| walker.turn(value));
                    }
                    ("content" | "refusal" | "reasoning_content", value) => {
                        walker.speaking(voice, |walker| walker.value(value));
                    }
                    ("tool_calls" | "function_call", value) => {
                        walker.speaking(Voice::Tool, |walker| walker.value(value));
                    }
                    // The words of an earlier spoken answer, kept by the provider.
                    ("audio", Value::Object(_)) => {
                        walker.unread_media("audio kept by a provider, not read");
                        walker.value(value);
                    }
                    (_, value) => walker.value(value),
                }
            });
        }
    }

    /// `prediction`: an object with `content` like a message's.
    pub(super) fn prediction(&mut self, members: &Map<String, Value>) {
        for (index, (name, value)) in members.iter().enumerate() {
            self.member(index, name, |walker| match (name.as_str(), value) {
                ("content", Value::Array(parts)) => walker.parts(parts),
                (_, value) => walker.value(value),
            });
        }
    }

    /// The text of a message.
    fn turn(&mut self, text: &Value) {
        let next = self.walk.corpus.segments().len();
        self.value(text);
        if self.walk.corpus.segments().len() > next {
            self.turns.push(next);
        }
    }

    fn parts(&mut self, parts: &[Value]) {
        let mut texts = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            self.item(index, |walker| match part {
                Value::Object(part) => walker.part(part, &mut texts),
                other => walker.value(other),
            });
        }
        self.turns.extend_from_slice(&texts);
        if texts.len() > 1 {
            self.joins.push(texts);
        }
    }

    fn part(&mut self, part: &Map<String, Value>, texts: &mut Vec<usize>) {
        match kind(part) {
            Kind::Text => {
                for (index, (name, value)) in part.iter().enumerate() {
                    let next = self.walk.corpus.segments().len();
                    self.member(index, name, |walker| walker.value(value));
                    let spoken = matches!(name.as_str(), "text" | "refusal" | "thinking");
                    if spoken && value.is_string() && self.walk.corpus.segments().len() > next {
                        texts.push(next);
                    }
                }
            }
            Kind::Image => {
                self.walk.vision = true;
                self.walk.corpus.skip(&self.path, "an image, not read");
                self.media(part);
            }
            Kind::Media => {
                self.unread_media("audio, video or a file, not read");
                self.media(part);
            }
            Kind::Unknown => {
                self.unread_media("a content part of unknown type");
                self.object(part, |_| false);
            }
        }
    }

    fn unread_media(&mut self, cause: &str) {
        self.walk.other_media = true;
        self.walk.corpus.skip(&self.path, cause);
    }

    /// Reads what is text in a media part (file names, addresses, details); not the encoded bytes.
    fn media(&mut self, part: &Map<String, Value>) {
        for (index, (name, value)) in part.iter().enumerate() {
            self.member(index, name, |walker| match value {
                Value::Object(inner) if walker.depth < super::MAX_DEPTH => {
                    walker.depth += 1;
                    walker.media(inner);
                    walker.depth -= 1;
                }
                Value::String(text) => walker.media_text(name, text),
                other => walker.value(other),
            });
        }
    }

    fn media_text(&mut self, name: &str, text: &str) {
        if name == "type" {
            return self.text(text);
        }
        let scheme = text.get(..5).unwrap_or("").to_ascii_lowercase();
        if scheme == "data:" {
            // Only what stands before the encoded bytes; the part is said to be unread already.
            let head = text.split_once(',').map_or("", |(head, _)| head);
            return self.text(head);
        }
        if matches!(name, "data" | "file_data") {
            return;
        }
        if text.contains("://") || matches!(name, "url" | "image_url" | "file_url" | "video_url") {
            self.walk.remote_urls = true;
            self.walk
                .corpus
                .skip(&self.path, "a remote address, not fetched");
        }
        self.text(text);
    }
}
