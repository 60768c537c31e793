//! Chunks of a stream. The hot path of the gateway: everything that does not change is written
//! once, a token costs one escaped string and some copying.

use serde_json::{Map, Value};

use super::{Head, json};
use crate::event::Event;
use crate::{FinishReason, Surface};

/// Writes the events of one answer as frames of `text/event-stream`.
#[derive(Debug)]
pub struct ChunkWriter {
    surface: Surface,
    /// `data: {"id":…,…,"choices":[`
    prefix: Vec<u8>,
    include_usage: bool,
    /// Per choice: whether its first delta has been written.
    begun: Vec<bool>,
}

impl ChunkWriter {
    /// A writer for an answer with this head. With `include_usage` every chunk carries
    /// `usage: null` and the usage gets a chunk of its own; without, usage is not written.
    pub fn new(head: &Head, include_usage: bool) -> Self {
        let mut prefix = Vec::with_capacity(160);
        prefix.extend_from_slice(b"data: {\"id\":");
        json(&head.id, &mut prefix);
        prefix.extend_from_slice(b",\"object\":");
        prefix.extend_from_slice(match head.surface {
            Surface::Chat | Surface::Embeddings => b"\"chat.completion.chunk\"".as_slice(),
            Surface::Completions => b"\"text_completion\"",
        });
        prefix.extend_from_slice(b",\"created\":");
        json(&head.created, &mut prefix);
        prefix.extend_from_slice(b",\"model\":");
        json(&head.model, &mut prefix);
        if let Some(fingerprint) = &head.system_fingerprint {
            prefix.extend_from_slice(b",\"system_fingerprint\":");
            json(fingerprint, &mut prefix);
        }
        prefix.extend_from_slice(b",\"choices\":[");
        Self {
            surface: head.surface,
            prefix,
            include_usage,
            begun: Vec::new(),
        }
    }

    /// Appends the frame of `event`. `mesh` goes to the top level of chunks with a finish reason.
    /// Vectors do not stream and write nothing.
    pub fn write(&mut self, event: &Event, mesh: &Value, out: &mut Vec<u8>) {
        match event {
            Event::Text {
                choice,
                text,
                logprobs,
            } => self.piece(*choice, "content", text, logprobs.as_ref(), out),
            Event::Reasoning { choice, text } => {
                self.piece(*choice, "reasoning_content", text, None, out);
            }
            Event::Refusal { choice, text } => self.piece(*choice, "refusal", text, None, out),
            Event::ToolCalls { choice, calls } => {
                self.open(*choice, out);
                self.no_text(out);
                out.extend_from_slice(b"\"tool_calls\":");
                json(calls, out);
                self.close(None, None, None, out);
            }
            Event::Other { choice, fields } => self.other(*choice, fields, out),
            Event::Finish { choice, reason, .. } => {
                self.open(*choice, out);
                self.no_text(out);
                self.close(None, Some(reason), Some(mesh), out);
            }
            Event::Usage(usage) => {
                if self.include_usage {
                    out.extend_from_slice(&self.prefix);
                    out.extend_from_slice(b"],\"usage\":");
                    json(usage, out);
                    out.extend_from_slice(b"}\n\n");
                }
            }
            Event::Embeddings(_) => {}
        }
    }

    /// One delta with one text field. Legacy completions have only `text`; other kinds of text keep
    /// their name beside it.
    fn piece(
        &mut self,
        choice: u32,
        name: &str,
        text: &str,
        logprobs: Option<&Value>,
        out: &mut Vec<u8>,
    ) {
        self.open(choice, out);
        if name != "content" {
            self.no_text(out);
        }
        let name = match self.surface {
            Surface::Completions if name == "content" => "text",
            Surface::Completions | Surface::Chat | Surface::Embeddings => name,
        };
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        json(text, out);
        self.close(logprobs, None, None, out);
    }

    fn other(&mut self, choice: u32, fields: &Map<String, Value>, out: &mut Vec<u8>) {
        let reserved: &[&str] = match self.surface {
            Surface::Completions => &["index", "text", "logprobs", "finish_reason"],
            Surface::Chat | Surface::Embeddings => &["role"],
        };
        self.open(choice, out);
        self.no_text(out);
        for (name, value) in fields {
            if reserved.contains(&name.as_str()) {
                continue;
            }
            json(name, out);
            out.push(b':');
            json(value, out);
            out.push(b',');
        }
        self.close(None, None, None, out);
    }

    /// Up to the place where the fields of the delta (chat) or of the choice (completions) go. The
    /// first delta of a choice says the role.
    fn open(&mut self, choice: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(b"{\"index\":");
        json(&choice, out);
        out.push(b',');
        if self.surface == Surface::Completions {
            return;
        }
        out.extend_from_slice(b"\"delta\":{");
        let first = self.first(choice);
        if first {
            out.extend_from_slice(b"\"role\":\"assistant\",");
        }
    }

    /// A choice of legacy completions always has its `text`.
    fn no_text(&self, out: &mut Vec<u8>) {
        if self.surface == Surface::Completions {
            out.extend_from_slice(b"\"text\":\"\",");
        }
    }

    fn first(&mut self, choice: u32) -> bool {
        // Choices are bounded by `n` (128): an upstream that counts further gets no role.
        let Ok(index @ 0..128) = usize::try_from(choice) else {
            return false;
        };
        if self.begun.len() <= index {
            self.begun.resize(index + 1, false);
        }
        self.begun
            .get_mut(index)
            .is_some_and(|begun| !std::mem::replace(begun, true))
    }

    fn close(
        &self,
        logprobs: Option<&Value>,
        reason: Option<&FinishReason>,
        mesh: Option<&Value>,
        out: &mut Vec<u8>,
    ) {
        if out.last() == Some(&b',') {
            out.pop();
        }
        if self.surface != Surface::Completions {
            out.push(b'}');
        }
        out.extend_from_slice(b",\"logprobs\":");
        match logprobs {
            Some(logprobs) => json(logprobs, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"finish_reason\":");
        match reason {
            Some(reason) => json(reason.as_str(), out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}]");
        if self.include_usage {
            out.extend_from_slice(b",\"usage\":null");
        }
        if let Some(mesh) = mesh {
            out.extend_from_slice(b",\"mesh\":");
            json(mesh, out);
        }
        out.extend_from_slice(b"}\n\n");
    }
}
