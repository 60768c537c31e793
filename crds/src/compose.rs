//! From YAML text to trees with positions. Refuses what is not text, what is too large or too deep,
//! what expands without bound, duplicate keys, merge keys, tags, and words that YAML 1.1 readers
//! (kubectl among them) would take for something else.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::problem::{Position, ProblemKind, shown};
use crate::tree::{Content, Entry, Node};

/// Largest text: Kubernetes itself takes no larger object.
pub(crate) const LARGEST_TEXT: usize = 1 << 20;
/// Deepest nesting; the deepest field of our kinds stands at 9.
const DEEPEST: usize = 32;
/// Most nodes of a file, aliases expanded; a long text counts as one for every 32 bytes, so that an
/// alias cannot multiply it.
const MOST_NODES: usize = 50_000;
/// Most keys of one mapping.
const MOST_KEYS: usize = 1024;
/// Most problems worth reading.
const MOST_FINDINGS: usize = 100;

/// A problem without its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) at: Position,
    pub(crate) field: String,
    pub(crate) kind: ProblemKind,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(
        at: Position,
        field: impl Into<String>,
        kind: ProblemKind,
        message: impl Into<String>,
    ) -> Self {
        Self {
            at,
            field: field.into(),
            kind,
            message: message.into(),
        }
    }
}

/// What a text holds.
#[derive(Debug, Default)]
pub(crate) struct Composed {
    /// Documents that could be read; empty ones are left out.
    pub(crate) documents: Vec<Node>,
    /// What is wrong.
    pub(crate) findings: Vec<Finding>,
}

/// Reads all documents of `text`.
pub(crate) fn compose(text: &str) -> Composed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut composer = Composer::default();
    if let Some((at, message)) = unreadable(text) {
        composer.find(at, ProblemKind::Syntax, message);
        return composer.composed;
    }
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => composer.event(event, position(span.start)),
            Err(error) => Err((position(*error.marker()), syntax(error.info()))),
        };
        if let Err((at, message)) = step {
            composer.find(at, ProblemKind::Syntax, message);
            break;
        }
    }
    composer.composed
}

/// The parser's words, put so that they say what to do where they do not.
fn syntax(info: &str) -> String {
    if info.contains("recursion limit") {
        return format!("nested more than {DEEPEST} deep");
    }
    format!("not valid YAML: {}", shown(info))
}

/// Problems of the text itself: the parser would stop at a NUL without a word.
fn unreadable(text: &str) -> Option<(Position, String)> {
    if text.len() > LARGEST_TEXT {
        let message = format!(
            "the file is larger than {} KiB: split it",
            LARGEST_TEXT / 1024
        );
        return Some((Position::START, message));
    }
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let offset = text.find(|c| control(c) || c == '\u{feff}')?;
    let found = text[offset..].chars().next().unwrap_or_default();
    let message = format!(
        "a character that no YAML file may hold (U+{:04X}): remove it",
        u32::from(found)
    );
    Some((position_of(text, offset), message))
}

/// Line and column of a byte offset.
pub(crate) fn position_of(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count();
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count());
    Position {
        line: small(line + 1),
        column: small(column + 1),
    }
}

fn position(marker: Marker) -> Position {
    Position {
        line: small(marker.line().max(1)),
        column: small(marker.col() + 1),
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

type Fatal = (Position, String);

/// A collection that is being filled.
struct Open {
    at: Position,
    anchor: usize,
    filling: Filling,
}

enum Filling {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, Position)>,
    },
}

#[derive(Default)]
struct Composer {
    composed: Composed,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl Composer {
    fn find(&mut self, at: Position, kind: ProblemKind, message: String) {
        if self.composed.findings.len() < MOST_FINDINGS {
            let field = self.path();
            self.composed.findings.push(Finding {
                at,
                field,
                kind,
                message,
            });
        }
    }

    /// Path of what is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.filling {
                Filling::List(items) => path.extend(["[", &items.len().to_string(), "]"]),
                Filling::Map {
                    key: Some((key, _)),
                    ..
                } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&shown(key));
                }
                Filling::Map { key: None, .. } => {}
            }
        }
        path
    }

    fn event(&mut self, event: Event<'_>, at: Position) -> Result<(), Fatal> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err((
                        at,
                        String::from(
                            "this alias names something that is not complete yet: write it out",
                        ),
                    ));
                };
                self.count(size, at)?;
                self.place(
                    Node {
                        at,
                        content: node.content,
                    },
                    anchor_none(),
                    size,
                )
            }
            Event::Scalar(text, style, anchor, tag) => {
                let weight = 1 + text.len() / 32;
                self.count(weight, at)?;
                self.refuse_tag(tag.as_deref(), at);
                let content = match style {
                    ScalarStyle::Plain if tag.is_none() => self.plain(&text, at),
                    _ => Content::Text(text.into_owned()),
                };
                self.place(Node { at, content }, anchor, weight)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(Filling::List(Vec::new()), anchor, tag.as_deref(), at)
            }
            Event::MappingStart(anchor, tag) => self.begin(
                Filling::Map {
                    entries: Vec::new(),
                    key: None,
                },
                anchor,
                tag.as_deref(),
                at,
            ),
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
        }
    }

    fn count(&mut self, more: usize, at: Position) -> Result<(), Fatal> {
        self.nodes += more;
        if self.nodes > MOST_NODES {
            return Err((
                at,
                format!("more than {MOST_NODES} values in one file, aliases expanded: split it"),
            ));
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, at: Position) {
        if tag.is_some_and(|tag| {
            !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "str" | "map" | "seq"))
        }) {
            self.find(
                at,
                ProblemKind::Syntax,
                String::from("YAML tags are not understood here: remove it, or quote the value"),
            );
        }
    }

    fn begin(
        &mut self,
        filling: Filling,
        anchor: usize,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<(), Fatal> {
        self.count(1, at)?;
        self.refuse_tag(tag, at);
        if self.open.len() >= DEEPEST {
            return Err((at, format!("nested more than {DEEPEST} deep")));
        }
        self.open.push(Open {
            at,
            anchor,
            filling,
        });
        Ok(())
    }

    fn end(&mut self, at: Position) -> Result<(), Fatal> {
        let Some(open) = self.open.pop() else {
            return Err((
                at,
                String::from("not valid YAML: an end without a beginning"),
            ));
        };
        let content = match open.filling {
            Filling::List(items) => Content::List(items),
            Filling::Map { entries, .. } => Content::Map(entries),
        };
        let node = Node {
            at: open.at,
            content,
        };
        let size = if open.anchor == anchor_none() {
            0
        } else {
            size(&node)
        };
        self.place(node, open.anchor, size)
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Fatal> {
        if anchor != anchor_none() {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            if !node.null() {
                self.composed.documents.push(node);
            }
            return Ok(());
        };
        match &mut open.filling {
            Filling::List(items) => items.push(node),
            Filling::Map { entries, key } => {
                if let Some((key, at)) = key.take() {
                    entries.push(Entry { key, at, node });
                    return Ok(());
                }
                return self.key(&node);
            }
        }
        Ok(())
    }

    fn key(&mut self, node: &Node) -> Result<(), Fatal> {
        let Some(text) = node.written() else {
            return Err((
                node.at,
                String::from("a key must be a word, not a list or a mapping"),
            ));
        };
        if text == "<<" {
            return Err((
                node.at,
                String::from("merge keys (<<) are not understood here: write the fields out"),
            ));
        }
        let first = self.open.last().and_then(|open| match &open.filling {
            Filling::Map { entries, .. } => entries
                .iter()
                .find(|entry| entry.key == text)
                .map(|entry| entry.at),
            Filling::List(_) => None,
        });
        if self.open.last().is_some_and(|open| matches!(&open.filling, Filling::Map { entries, .. } if entries.len() >= MOST_KEYS)) {
            return Err((node.at, format!("more than {MOST_KEYS} keys in one mapping")));
        }
        if let Some(first) = first {
            let message = format!(
                "the key `{}` stands here twice, first in line {}: keep one",
                shown(&text),
                first.line
            );
            self.find(node.at, ProblemKind::DuplicateKey, message);
        }
        if let Some(Open {
            filling: Filling::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some((text, node.at));
        }
        Ok(())
    }

    /// What a word without quotes means: the core schema of YAML 1.2, less what YAML 1.1 reads
    /// differently.
    fn plain(&mut self, text: &str, at: Position) -> Content {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Content::Null,
            "true" | "True" | "TRUE" => return Content::Bool(true),
            "false" | "False" | "FALSE" => return Content::Bool(false),
            _ => {}
        }
        if old_boolean(text) {
            let message = format!(
                "`{text}` without quotes is a boolean to some YAML readers: write \"{text}\" for the text, or true or false"
            );
            self.find(at, ProblemKind::Ambiguous, message);
            return Content::Text(text.to_owned());
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && digits
                .chars()
                .all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
        if !numeric {
            return Content::Text(text.to_owned());
        }
        if digits.len() > 1
            && digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            let message = format!(
                "`{text}` is an octal number to some YAML readers: put it in quotes, or remove the leading 0"
            );
            self.find(at, ProblemKind::Ambiguous, message);
            return Content::Text(text.to_owned());
        }
        if let Ok(number) = text.parse::<i64>() {
            return Content::Int(number);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Content::Float(number, text.to_owned()),
            _ => Content::Text(text.to_owned()),
        }
    }
}

/// The parser's number for "no anchor".
const fn anchor_none() -> usize {
    0
}

/// What a tree counts against [`MOST_NODES`].
fn size(node: &Node) -> usize {
    1 + node.text().map_or(0, |text| text.len() / 32)
        + node.items().iter().map(size).sum::<usize>()
        + node
            .entries()
            .iter()
            .map(|entry| size(&entry.node))
            .sum::<usize>()
}

/// Words that are booleans in YAML 1.1 and text in YAML 1.2.
fn old_boolean(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    WORDS.iter().any(|word| {
        text == *word
            || text == word.to_uppercase()
            || (text.len() == word.len() && capitalized(word) == text)
    })
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}
