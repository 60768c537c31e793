//! A YAML document as a tree that remembers where everything stood.

use serde_json::{Map, Number, Value};

use crate::problem::Position;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) content: Content,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Int(i64),
    /// The number and how it was written.
    Float(f64, String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) node: Node,
}

impl Node {
    /// The value under `key`, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The entry of `key`, if this is a mapping that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// Entries of a mapping; nothing for anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Items of a list; nothing for anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// True for null, which means "absent" wherever a schema stands.
    pub(crate) fn null(&self) -> bool {
        matches!(self.content, Content::Null)
    }

    /// A scalar as it would be written in quotes; nothing for lists and mappings.
    pub(crate) fn written(&self) -> Option<String> {
        match &self.content {
            Content::Null => Some(String::from("null")),
            Content::Bool(flag) => Some(flag.to_string()),
            Content::Int(number) => Some(number.to_string()),
            Content::Float(_, raw) => Some(raw.clone()),
            Content::Text(text) => Some(text.clone()),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn noun(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Int(_) | Content::Float(..) => "a number",
            Content::Text(_) => "text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// As JSON. Nulls stay: what stands under a schema is cleaned by the walk.
    pub(crate) fn json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(flag) => Value::Bool(*flag),
            Content::Int(number) => Value::Number((*number).into()),
            Content::Float(number, raw) => {
                Number::from_f64(*number).map_or_else(|| Value::String(raw.clone()), Value::Number)
            }
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// Where the field of `path` stands (`spec.models[0].name`), or the nearest thing around it that
    /// exists: for a missing field, its parent.
    pub(crate) fn locate(&self, path: &str) -> Position {
        let mut here = self;
        let mut at = self.at;
        let mut rest = path;
        while let Some((entry_at, node, remaining)) = here.step(rest) {
            here = node;
            rest = remaining;
            at = match node.content {
                Content::List(_) | Content::Map(_) => entry_at,
                _ => node.at,
            };
        }
        at
    }

    /// One step along `path`. Keys may hold dots, so the longest key that fits is taken.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(Position, &'a Self, &'p str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        if let Some(inside) = path.strip_prefix('[') {
            let (index, rest) = inside.split_once(']')?;
            let item = self.items().get(index.parse::<usize>().ok()?)?;
            return Some((item.at, item, rest));
        }
        // Reversed, so that of equal keys the first is taken: `max_by_key` gives the last.
        self.entries()
            .iter()
            .rev()
            .filter_map(|entry| {
                let rest = path.strip_prefix(entry.key.as_str())?;
                (rest.is_empty() || rest.starts_with(['.', '['])).then_some((entry, rest))
            })
            .max_by_key(|(entry, _)| entry.key.len())
            .map(|(entry, rest)| (entry.at, &entry.node, rest))
    }
}
