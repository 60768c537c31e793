//! The reference pages, from the same schema as the cluster's definitions: every field with its type,
//! default and text, and a mark where its behavior comes later.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::Home;
use crate::kind::Kind;
use crate::label::API_VERSION;
use crate::manifest::{self, Error};
use crate::support::{self, Uses};
use crate::vocabulary;

/// File name and Markdown of every kind's page, for `docs/reference/`; the same bytes every time.
pub fn reference_markdown() -> Result<Vec<(String, String)>, Error> {
    Kind::ALL.into_iter().map(page).collect()
}

fn page(kind: Kind) -> Result<(String, String), Error> {
    let schema = manifest::schema(kind)?;
    let mut rows = Rows {
        kind,
        text: String::new(),
        rules: String::new(),
        words: BTreeSet::new(),
    };
    for (part, title) in [("spec", "Spec"), ("status", "Status")] {
        let Some(below) = schema.pointer(&format!("/properties/{part}")) else {
            continue;
        };
        // Writing to a String cannot fail.
        let _ = write!(
            rows.text,
            "\n## {title}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"
        );
        rows.rules(part, below);
        rows.below(part, below);
    }
    let about = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let text = format!(
        "<!-- Generated from the types in crds/ by `cargo xtask gen`. Do not edit. -->\n\n# {kind}\n\n\
         `apiVersion: {API_VERSION}`, `kind: {kind}`\n\n{about}\n\n\
         Fields in **bold** must be given. *Later*, *not on one machine* (`mesh up`), \
         *not in a cluster*: what is refused there as `not supported yet` in this release.\n{}\n## Words\n{}\n## Rules\n\n{}",
        rows.text,
        rows.meanings(),
        rows.rules
    );
    Ok((format!("{}.md", kind.file_stem()), text))
}

struct Rows {
    kind: Kind,
    text: String,
    rules: String,
    words: BTreeSet<String>,
}

impl Rows {
    /// Rows of everything inside `schema`.
    fn below(&mut self, path: &str, schema: &Value) {
        let required: Vec<&str> = strings(schema.get("required"));
        for (name, inner) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            self.field(
                &format!("{path}.{name}"),
                inner,
                required.contains(&name.as_str()),
            );
        }
    }

    fn field(&mut self, path: &str, schema: &Value, required: bool) {
        let item = schema.get("items");
        let deeper = item.or_else(|| {
            schema
                .get("additionalProperties")
                .filter(|value| value.is_object())
        });
        let below = if item.is_some() {
            format!("{path}[]")
        } else {
            format!("{path}.*")
        };
        let shown = if item.is_some() { &below } else { path };
        let name = if required {
            format!("**`{shown}`**")
        } else {
            format!("`{shown}`")
        };
        let default = schema
            .get("default")
            .map(|value| format!("`{value}`"))
            .unwrap_or_default();
        let about = cell(
            schema
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        );
        let later = self.later(path);
        let _ = writeln!(
            self.text,
            "| {name} | {} | {default} | {about}{later} |",
            type_of(schema)
        );
        self.rules(path, schema);
        self.words
            .extend([schema, item.unwrap_or(schema)].map(type_of));
        match deeper {
            Some(inner) => {
                self.rules(&below, inner);
                self.below(&below, inner);
            }
            None => self.below(path, schema),
        }
    }

    fn rules(&mut self, path: &str, schema: &Value) {
        let rules = schema
            .get("x-kubernetes-validations")
            .and_then(Value::as_array);
        for message in rules
            .into_iter()
            .flatten()
            .filter_map(|rule| rule.get("message")?.as_str())
        {
            let _ = writeln!(self.rules, "- `{path}`: {message}");
        }
    }

    /// What the words of the enums mean that this kind uses.
    fn meanings(&self) -> String {
        let mut text = String::new();
        for words in vocabulary::words() {
            let names: Vec<&str> = words.iter().map(|(name, _)| name.as_str()).collect();
            if !self.words.contains(&names.join(", ")) {
                continue;
            }
            text.push('\n');
            for (name, meaning) in words {
                let _ = writeln!(text, "- `{name}`: {}", cell(&meaning));
            }
        }
        text
    }

    fn later(&self, path: &str) -> String {
        let path = path.strip_suffix("[]").unwrap_or(path);
        let refuses =
            |home| support::later(home).find(|later| later.kind == self.kind && later.path == path);
        let (word, later) = match (refuses(Home::Machine), refuses(Home::Cluster)) {
            (Some(_), Some(later)) => ("Later", later),
            (Some(later), None) => ("Not on one machine", later),
            (None, Some(later)) => ("Not in a cluster", later),
            (None, None) => return String::new(),
        };
        let what = match later.uses {
            Uses::Any | Uses::Presence => format!("*{word}.*"),
            Uses::AllBut(good) => format!("*{word}: everything but {}.*", good.join(", ")),
        };
        if later.instead.is_empty() {
            format!(" {what}")
        } else {
            format!(" {what} ({})", later.instead)
        }
    }
}

fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn type_of(schema: &Value) -> String {
    let choices = strings(schema.get("enum"));
    if !choices.is_empty() {
        return choices.join(", ");
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return String::from("quantity");
    }
    let word = schema.get("type").and_then(Value::as_str).unwrap_or("any");
    match (
        word,
        schema.get("items"),
        schema.get("additionalProperties"),
    ) {
        ("array", Some(items), _) => format!("list of {}", type_of(items)),
        ("object", _, Some(inner)) if inner.is_object() => format!("map of {}", type_of(inner)),
        ("string", ..) => format!(
            "string{}",
            schema
                .get("format")
                .and_then(Value::as_str)
                .map(|f| format!(" ({f})"))
                .unwrap_or_default()
        ),
        _ => word.to_owned(),
    }
}

/// Text for a table cell: one line, no cell borders.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
        .replace('<', "&lt;")
}
