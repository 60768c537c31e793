//! Reads every part of a request into a [`Corpus`], whatever its shape.
//!
//! The rule is *read everything*: each string, each member name that is not vocabulary, each whole
//! number of card size. Structure only adds knowledge: who speaks, which parts belong together,
//! what is media. Media, remote addresses and token numbers cannot be read here; they are said to
//! be unread, so that the scan is incomplete. JSON inside strings is decoded and read too, at
//! `<place>~json`; other encodings (base64, hex, percent) are not decoded yet and, unless they are
//! media, do not make a scan incomplete.

mod chat;
mod table;

use mesh_protocol::{ModelRequest, Surface};
use serde_json::{Map, Number, Value};

use crate::corpus::{Corpus, Voice};
use table::Reading;

/// Nesting of values that is followed. The protocol allows less.
const MAX_DEPTH: usize = 128;
/// JSON inside a string inside JSON …
const MAX_DECODED: usize = 4;
/// Bytes around the border of two parts of a message that are read together.
const PART_ENDS: usize = 512;
/// The same for two messages: enough for a number that is split.
const TURN_ENDS: usize = 48;
/// The smallest number with twelve digits: a shorter one is no payment card.
const CARD_SIZED: u64 = 100_000_000_000;

/// What the walk found besides text.
pub(crate) struct Walk {
    /// All text.
    pub corpus: Corpus,
    /// Images.
    pub vision: bool,
    /// Audio, files and the like.
    pub other_media: bool,
    /// Addresses that somebody would have to fetch.
    pub remote_urls: bool,
    /// Token numbers given instead of text.
    pub token_ids: u64,
    /// Index of the last user message; 0 for prompts.
    pub last_user: Option<usize>,
    /// Messages or prompts.
    pub turns: usize,
}

/// Reads the request; at most `limit` bytes of text.
pub(crate) fn walk(request: &ModelRequest, limit: usize) -> Walk {
    let mut walker = Walker {
        walk: Walk {
            corpus: Corpus::new(limit),
            vision: false,
            other_media: false,
            remote_urls: false,
            token_ids: 0,
            last_user: None,
            turns: 0,
        },
        joins: Vec::new(),
        turns: Vec::new(),
        path: String::new(),
        voice: Voice::Other,
        message: None,
        depth: 0,
        decoded: 0,
    };
    for (index, (field, value)) in request.body.iter().enumerate() {
        let reading = table::reading(request.surface, field);
        walker.member(index, field, |walker| {
            walker.field(request.surface, reading, value);
        });
    }
    for members in &walker.joins {
        walker.walk.corpus.join(members, "", PART_ENDS);
    }
    let turns = std::mem::take(&mut walker.turns);
    walker.walk.corpus.join(&turns, " ", TURN_ENDS);
    walker.walk
}

struct Walker {
    walk: Walk,
    /// Groups of segments that are read once more as one.
    joins: Vec<Vec<usize>>,
    /// Texts of the messages, in order: a value may be split over two of them.
    turns: Vec<usize>,
    path: String,
    voice: Voice,
    message: Option<usize>,
    depth: usize,
    decoded: usize,
}

impl Walker {
    fn field(&mut self, surface: Surface, reading: Reading, value: &Value) {
        match (reading, value) {
            (Reading::Messages, Value::Array(messages)) => self.messages(messages),
            (Reading::Prompt, value) => self.prompt(surface, value),
            (Reading::Definition, value) => {
                self.speaking(Voice::Definition, |walker| walker.value(value));
            }
            (Reading::Content, Value::Object(members)) => self.prediction(members),
            (Reading::Messages | Reading::Content | Reading::Everything, value) => {
                self.value(value);
            }
        }
    }

    fn prompt(&mut self, surface: Surface, value: &Value) {
        let tokens = |items: &[Value]| !items.is_empty() && items.iter().all(Value::is_number);
        self.walk.last_user = Some(0);
        self.message = (surface != Surface::Embeddings).then_some(0);
        self.speaking(Voice::User, |walker| match value {
            Value::Array(items) if tokens(items) => walker.tokens(items),
            Value::Array(items) => {
                walker.walk.turns = items.len();
                for (index, item) in items.iter().enumerate() {
                    walker.item(index, |walker| match item {
                        Value::Array(ids) if tokens(ids) => walker.tokens(ids),
                        other => walker.value(other),
                    });
                }
            }
            other => {
                walker.walk.turns = 1;
                walker.value(other);
            }
        });
        self.message = None;
    }

    fn tokens(&mut self, ids: &[Value]) {
        self.walk.token_ids += ids.len() as u64;
        self.walk.corpus.skip(&self.path, "token numbers, not text");
        // A card number among the token numbers is still a card number.
        for (index, id) in ids.iter().enumerate() {
            self.item(index, |walker| walker.value(id));
        }
    }

    fn speaking(&mut self, voice: Voice, read: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.voice, voice);
        read(self);
        self.voice = before;
    }

    /// One member of an object: its name, if that is not vocabulary, and its value.
    fn member(&mut self, index: usize, name: &str, read: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        self.path.push('/');
        if let Some(known) = table::shown(name) {
            self.path.push_str(known);
        } else {
            self.path.push('#');
            self.path.push_str(&index.to_string());
            let shown = self.path.len();
            self.path.push_str("~name");
            self.text(name);
            self.path.truncate(shown);
        }
        read(self);
        self.path.truncate(before);
    }

    fn item(&mut self, index: usize, read: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        self.path.push('/');
        self.path.push_str(&index.to_string());
        read(self);
        self.path.truncate(before);
    }

    /// Reads any value to its last string.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::String(text) => self.text(text),
            Value::Number(number) => self.number(number),
            Value::Array(_) | Value::Object(_) if self.depth >= MAX_DEPTH => {
                self.walk.corpus.skip("", "a value nested too deep");
            }
            Value::Array(items) => {
                self.depth += 1;
                for (index, item) in items.iter().enumerate() {
                    self.item(index, |walker| walker.value(item));
                }
                self.depth -= 1;
            }
            Value::Object(members) => self.object(members, |_| false),
        }
    }

    /// Reads the members of an object except those that `skip` names.
    fn object(&mut self, members: &Map<String, Value>, skip: impl Fn(&str) -> bool) {
        self.depth += 1;
        for (index, (name, value)) in members.iter().enumerate() {
            if !skip(name) {
                self.member(index, name, |walker| walker.value(value));
            }
        }
        self.depth -= 1;
    }

    fn number(&mut self, number: &Number) {
        let whole = number
            .as_u64()
            .or_else(|| number.as_i64().map(i64::unsigned_abs))
            .or_else(|| number.as_f64().and_then(whole_part));
        if let Some(whole) = whole
            && whole >= CARD_SIZED
        {
            let text = whole.to_string();
            self.push(&text);
        }
    }

    /// Reads a string and, if it holds escaped JSON, what is inside.
    fn text(&mut self, text: &str) {
        self.push(text);
        // Without a backslash the raw bytes are the decoded ones, and are read already; but a number may
        // be written with an exponent.
        let hides = text.contains('\\') || json_like(text) && exponent(text);
        if !hides {
            return;
        }
        let before = self.path.len();
        self.path.push_str("~json");
        if self.decoded >= MAX_DECODED {
            self.walk
                .corpus
                .skip(&self.path, "JSON in strings, nested too often");
        } else {
            self.decoded += 1;
            match serde_json::from_str::<Value>(text) {
                Ok(value) if json_like(text) => self.value(&value),
                _ => {
                    if let Some(plain) = unescape(text) {
                        self.text(&plain);
                    }
                }
            }
            self.decoded -= 1;
        }
        self.path.truncate(before);
    }

    fn push(&mut self, text: &str) {
        self.walk
            .corpus
            .push(&self.path, text, self.voice, self.message);
    }
}

fn json_like(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[', '"'])
}

/// True if somewhere a digit is followed by an exponent: `4.1e15`.
fn exponent(text: &str) -> bool {
    let follows = |window: &[u8]| matches!(window, [b'0'..=b'9', b'e' | b'E', b'0'..=b'9' | b'+']);
    text.as_bytes().windows(3).any(follows)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked just before"
)]
fn whole_part(number: f64) -> Option<u64> {
    let size = number.abs();
    (size < 1.8e19).then_some(size as u64)
}

/// Replaces the `\uXXXX` and `\xXX` escapes of a text that is not JSON; None if it has none.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let digits = match rest.as_bytes().get(at + 1) {
            Some(b'u') => 4,
            Some(b'x') => 2,
            _ => 0,
        };
        let escaped = rest
            .get(at + 2..at + 2 + digits)
            .filter(|hex| digits > 0 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32);
        if let Some(escaped) = escaped {
            plain.push(escaped);
            changed = true;
            rest = &rest[at + 2 + digits..];
        } else {
            plain.push('\\');
            rest = &rest[at + 1..];
        }
    }
    plain.push_str(rest);
    changed.then_some(plain)
}

#[cfg(test)]
mod tests;
