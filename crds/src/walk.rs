//! Checks a tree against an OpenAPI schema, the way the API server does, and gives the JSON that is
//! left: nulls pruned, since null means absent. Unknown keys are problems here, where the API server
//! would drop them silently.

use regex::Regex;
use serde_json::{Map, Value};

use crate::compose::Finding;
use crate::problem::{Position, ProblemKind, shown};
use crate::suggest;
use crate::tree::{Content, Entry, Node};

/// Walks `node` by `schema`; what is wrong goes to `findings`.
pub(crate) fn walk(node: &Node, schema: &Value, path: &str, findings: &mut Vec<Finding>) -> Value {
    Walker { findings }.value(node, node.at, schema, path)
}

struct Walker<'f> {
    findings: &'f mut Vec<Finding>,
}

impl Walker<'_> {
    fn find(&mut self, at: Position, path: &str, kind: ProblemKind, message: String) {
        self.findings.push(Finding {
            at,
            field: path.to_owned(),
            kind,
            message,
        });
    }

    /// `key_at` is where the key stood: a block mapping begins on the line after it.
    fn value(&mut self, node: &Node, key_at: Position, schema: &Value, path: &str) -> Value {
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        if flag("x-kubernetes-int-or-string") {
            return self.int_or_string(node, schema, path);
        }
        let wanted = schema
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        match (wanted, &node.content) {
            ("object", Content::Map(_)) if flag("x-kubernetes-preserve-unknown-fields") => {
                node.json()
            }
            ("object", Content::Map(entries)) => self.object(entries, key_at, schema, path),
            ("array", Content::List(items)) => self.array(items, key_at, schema, path),
            ("string", Content::Text(text)) => {
                self.text(text, node.at, schema, path);
                node.json()
            }
            ("integer", Content::Int(_)) | ("number", Content::Int(_) | Content::Float(..)) => {
                self.range(node, schema, path);
                node.json()
            }
            ("boolean", Content::Bool(_)) | ("", _) => node.json(),
            _ => {
                let at = if matches!(node.content, Content::List(_) | Content::Map(_)) {
                    key_at
                } else {
                    node.at
                };
                self.find(at, path, ProblemKind::Schema, wrong_type(wanted, node));
                Value::Null
            }
        }
    }

    fn object(&mut self, entries: &[Entry], key_at: Position, schema: &Value, path: &str) -> Value {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema
            .get("additionalProperties")
            .filter(|value| value.is_object());
        let mut object = Map::new();
        for entry in entries {
            let below = join(path, &entry.key);
            let known = properties.and_then(|properties| properties.get(&entry.key));
            let Some(schema) = known.or(others) else {
                let known = properties
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name.as_str());
                let message = suggest::unknown_key(&entry.key, known);
                self.find(entry.at, &below, ProblemKind::UnknownKey, message);
                continue;
            };
            if entry.node.null() {
                continue;
            }
            let value = self.value(&entry.node, entry.at, schema, &below);
            object.insert(entry.key.clone(), value);
        }
        self.required(entries, key_at, schema, path);
        let most = schema.get("maxProperties").and_then(Value::as_u64);
        if most.is_some_and(|most| object.len() as u64 > most) {
            let message = format!(
                "at most {} entries are allowed here",
                most.unwrap_or_default()
            );
            self.find(key_at, path, ProblemKind::Schema, message);
        }
        Value::Object(object)
    }

    fn required(&mut self, entries: &[Entry], key_at: Position, schema: &Value, path: &str) {
        let required = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for name in required.filter_map(Value::as_str) {
            let found = entries.iter().find(|entry| entry.key == name);
            if found.is_some_and(|entry| !entry.node.null()) {
                continue;
            }
            let message = if found.is_some() {
                format!("`{name}` is empty: give it a value")
            } else {
                format!("`{name}` is missing: add it")
            };
            let at = found.map_or(key_at, |entry| entry.at);
            self.find(at, &join(path, name), ProblemKind::Missing, message);
        }
    }

    fn array(&mut self, items: &[Node], key_at: Position, schema: &Value, path: &str) -> Value {
        let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
        let count = items.len() as u64;
        if let Some(least) = limit("minItems").filter(|least| count < *least) {
            let message = format!("needs at least {least} {}", plural(least));
            self.find(key_at, path, ProblemKind::Schema, message);
        }
        if let Some(most) = limit("maxItems").filter(|most| count > *most) {
            let message = format!(
                "has {count} entries; at most {most} {} allowed",
                if most == 1 { "is" } else { "are" }
            );
            self.find(key_at, path, ProblemKind::Schema, message);
        }
        let inner = schema.get("items").unwrap_or(&Value::Null);
        let values: Vec<Value> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.value(item, item.at, inner, &format!("{path}[{index}]")))
            .collect();
        self.unique(items, &values, schema, path);
        Value::Array(values)
    }

    /// `x-kubernetes-list-type`: a set has no equal items, a map no equal keys.
    fn unique(&mut self, items: &[Node], values: &[Value], schema: &Value, path: &str) {
        let keys: Vec<&str> = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Vec::new(),
            Some("map") => {
                let keys = schema
                    .get("x-kubernetes-list-map-keys")
                    .and_then(Value::as_array);
                keys.into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect()
            }
            _ => return,
        };
        let identity = |value: &Value| -> String {
            if keys.is_empty() {
                return value.to_string();
            }
            keys.iter()
                .map(|key| value.get(key).map(Value::to_string).unwrap_or_default())
                .collect::<Vec<_>>()
                .join("/")
        };
        let mut seen = std::collections::HashMap::new();
        for (index, (item, value)) in items.iter().zip(values).enumerate() {
            let Some(first) = seen.insert(identity(value), item.at) else {
                continue;
            };
            let what = if keys.is_empty() {
                String::from("value")
            } else {
                keys.join(" and ")
            };
            let message = format!(
                "the same {what} stands in line {} already: each may stand here once",
                first.line
            );
            self.find(
                item.at,
                &format!("{path}[{index}]"),
                ProblemKind::Schema,
                message,
            );
        }
    }

    fn text(&mut self, text: &str, at: Position, schema: &Value, path: &str) {
        if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
            if !choices.iter().any(|choice| choice.as_str() == Some(text)) {
                let message = suggest::unknown_word(text, choices.iter().filter_map(Value::as_str));
                self.find(at, path, ProblemKind::Schema, message);
            }
            return;
        }
        let length = text.chars().count() as u64;
        let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
        if limit("minLength").is_some_and(|least| length < least) {
            self.find(
                at,
                path,
                ProblemKind::Schema,
                String::from("must not be empty"),
            );
            return;
        }
        if let Some(most) = limit("maxLength").filter(|most| length > *most) {
            let message = format!("is {length} characters long; at most {most} are allowed");
            self.find(at, path, ProblemKind::Schema, message);
            return;
        }
        let pattern = schema.get("pattern").and_then(Value::as_str);
        if let Some(pattern) = pattern.filter(|pattern| !matches(pattern, text)) {
            self.find(
                at,
                path,
                ProblemKind::Schema,
                suggest::pattern(text, pattern),
            );
            return;
        }
        if schema.get("format").and_then(Value::as_str) == Some("date")
            && text.parse::<jiff::civil::Date>().is_err()
        {
            let message = format!(
                "{:?} is not a day of the calendar: use year-month-day, for example \"2027-06-30\"",
                shown(text)
            );
            self.find(at, path, ProblemKind::Schema, message);
        }
    }

    fn int_or_string(&mut self, node: &Node, schema: &Value, path: &str) -> Value {
        let (Content::Int(_) | Content::Float(..) | Content::Text(_)) = node.content else {
            self.find(
                node.at,
                path,
                ProblemKind::Schema,
                wrong_type("string", node),
            );
            return Value::Null;
        };
        let text = node.written().unwrap_or_default();
        let pattern = schema.get("pattern").and_then(Value::as_str);
        if let Some(pattern) = pattern.filter(|pattern| !matches(pattern, &text)) {
            self.find(
                node.at,
                path,
                ProblemKind::Schema,
                suggest::pattern(&text, pattern),
            );
        }
        // `cpu: 0.5` is a float that Kubernetes reads as the text.
        if matches!(node.content, Content::Float(..)) {
            Value::String(text)
        } else {
            node.json()
        }
    }

    fn range(&mut self, node: &Node, schema: &Value, path: &str) {
        let json = node.json();
        let number = json.as_f64().unwrap_or_default();
        let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            self.find(
                node.at,
                path,
                ProblemKind::Schema,
                format!("must be at least {least}"),
            );
        }
        let most = limit("maximum").or_else(|| {
            (schema.get("format")?.as_str()? == "int32").then_some(f64::from(i32::MAX))
        });
        if let Some(most) = most.filter(|most| number > *most) {
            self.find(
                node.at,
                path,
                ProblemKind::Schema,
                format!("must be at most {most}"),
            );
        }
    }
}

/// A pattern of ours that is not a regular expression would be a bug of ours: nothing matches it, so
/// that nothing passes unchecked.
fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        shown(key)
    } else {
        format!("{path}.{}", shown(key))
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "entry" } else { "entries" }
}

fn wrong_type(wanted: &str, node: &Node) -> String {
    let written = node.written().map(|text| shown(&text));
    match (wanted, written) {
        ("string", Some(text)) => format!("must be text: put it in quotes, \"{text}\""),
        ("integer", Some(text)) if text.parse::<i64>().is_ok() => {
            format!("must be a whole number: write {text} without quotes")
        }
        ("integer", Some(text)) => format!("must be a whole number, not {text:?}"),
        ("number", Some(text)) => format!("must be a number, not {text:?}"),
        ("boolean", Some(text)) => format!("must be true or false without quotes, not {text:?}"),
        ("array", _) => format!(
            "must be a list (lines that begin with `- `), not {}",
            node.noun()
        ),
        ("object", _) => format!(
            "must be a mapping (`key: value` lines), not {}",
            node.noun()
        ),
        ("string", None) => format!("must be text, not {}", node.noun()),
        (_, _) => format!("must not be {}", node.noun()),
    }
}
