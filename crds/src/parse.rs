//! The door for files: text in, typed objects with positions out, and everything that is wrong with
//! it. One pass collects as many problems as it can; an object with a problem is not given out.

use std::sync::{Arc, LazyLock};

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::compose::{Composed, Finding, compose, position_of};
use crate::kind::Kind;
use crate::problem::{Position, Problem, ProblemKind, Severity, shown};
use crate::tree::{Content, Node};
use crate::walk::walk;
use crate::{Home, InferenceBackend, ModelCache, SovereigntyPolicy, header, manifest, support};

/// A typed object.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A model's files.
    ModelCache(Box<ModelCache>),
    /// A place that can serve models.
    InferenceBackend(Box<InferenceBackend>),
    /// A policy.
    SovereigntyPolicy(Box<SovereigntyPolicy>),
}

/// An object and where each of its fields stood.
#[derive(Debug, Clone)]
pub struct Document {
    /// The object.
    pub object: Object,
    file: Arc<str>,
    root: Arc<Node>,
}

/// What a file gave.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// Objects without problems.
    pub documents: Vec<Document>,
    /// Errors and warnings, in the order of the file.
    pub problems: Vec<Problem>,
}

impl Parsed {
    /// True if nothing keeps the file from being used.
    pub fn usable(&self) -> bool {
        !self.problems.iter().any(Problem::error)
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ModelCache(_) => Kind::ModelCache,
            Self::InferenceBackend(_) => Kind::InferenceBackend,
            Self::SovereigntyPolicy(_) => Kind::SovereigntyPolicy,
        }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, if the file says one.
    pub fn namespace(&self) -> Option<&str> {
        self.metadata().namespace.as_deref()
    }

    /// True if this label says `true`.
    pub fn labeled(&self, key: &str) -> bool {
        let labels = self.metadata().labels.as_ref();
        labels
            .and_then(|labels| labels.get(key))
            .is_some_and(|value| value == "true")
    }

    fn metadata(&self) -> &kube::core::ObjectMeta {
        match self {
            Self::ModelCache(object) => &object.metadata,
            Self::InferenceBackend(object) => &object.metadata,
            Self::SovereigntyPolicy(object) => &object.metadata,
        }
    }
}

impl Document {
    /// The file it came from, as the caller named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where a field stands, or the nearest thing around it that exists.
    pub fn position(&self, field: &str) -> Position {
        self.root.locate(field)
    }

    /// A problem with a field of this object, found by somebody who knows more than the file.
    pub fn problem(
        &self,
        kind: ProblemKind,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Problem {
        let field = field.into();
        Problem {
            file: self.file.to_string(),
            at: self.position(&field),
            field,
            kind,
            severity: Severity::Error,
            message: message.into(),
        }
    }
}

/// Reads the bytes of a file as text.
pub fn decode<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str, Box<Problem>> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes
            .get(..error.valid_up_to())
            .and_then(|good| std::str::from_utf8(good).ok())
            .unwrap_or_default();
        Box::new(Problem {
            file: file.to_owned(),
            at: position_of(good, good.len()),
            field: String::new(),
            kind: ProblemKind::Syntax,
            severity: Severity::Error,
            message: String::from("not UTF-8 text: save the file as UTF-8"),
        })
    })
}

/// Reads all documents of `text` for use on one machine. `file` is only a name for messages.
pub fn parse(file: &str, text: &str) -> Parsed {
    parse_for(Home::Machine, file, text)
}

/// The same for any home.
pub fn parse_for(home: Home, file: &str, text: &str) -> Parsed {
    let Composed {
        documents,
        findings,
    } = compose(text);
    let file: Arc<str> = file.into();
    let mut parsed = Parsed::default();
    parsed
        .problems
        .extend(findings.into_iter().map(|finding| problem(&file, finding)));
    for root in documents {
        let mut findings = Vec::new();
        match header::read(&root, &mut findings) {
            header::Header::Ours(kind) => {
                if let Some(object) = object(home, kind, &root, &mut findings) {
                    parsed.documents.push(Document {
                        object,
                        file: Arc::clone(&file),
                        root: Arc::new(root),
                    });
                }
            }
            header::Header::Foreign(warning) => {
                parsed.problems.push(Problem {
                    severity: Severity::Warning,
                    ..problem(&file, warning)
                });
            }
            header::Header::Unusable => {}
        }
        parsed
            .problems
            .extend(findings.into_iter().map(|finding| problem(&file, finding)));
    }
    parsed.problems.sort_by_key(|problem| problem.at);
    let broken: Vec<Position> = parsed
        .problems
        .iter()
        .filter(|problem| problem.error())
        .map(|problem| problem.at)
        .collect();
    parsed
        .documents
        .retain(|document| !broken.iter().any(|at| document.covers(*at)));
    parsed
}

fn problem(file: &str, finding: Finding) -> Problem {
    Problem {
        file: file.to_owned(),
        at: finding.at,
        field: finding.field,
        kind: finding.kind,
        severity: if finding.kind == ProblemKind::Ignored {
            Severity::Warning
        } else {
            Severity::Error
        },
        message: finding.message,
    }
}

impl Document {
    /// True if something of this document stands at `at`.
    fn covers(&self, at: Position) -> bool {
        fn last(node: &Node) -> Position {
            let inside = match &node.content {
                Content::List(items) => items.last().map(last),
                Content::Map(entries) => entries.last().map(|entry| last(&entry.node)),
                _ => None,
            };
            inside.map_or(node.at, |inside| inside.max(node.at))
        }
        self.root.at <= at && at <= last(&self.root)
    }
}

/// What a kind is checked against.
struct Rules {
    schema: Value,
    compiled: CompiledSchema,
}

fn rules(kind: Kind) -> Option<&'static Rules> {
    static RULES: LazyLock<Vec<(Kind, Rules)>> = LazyLock::new(|| {
        let rules = |kind| {
            let schema = manifest::schema(kind).ok()?;
            let compiled = compile_schema(&schema);
            Some((kind, Rules { schema, compiled }))
        };
        Kind::ALL.into_iter().filter_map(rules).collect()
    });
    RULES
        .iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, rules)| rules)
}

/// Schema, later fields, types, rules, in this order.
fn object(home: Home, kind: Kind, root: &Node, findings: &mut Vec<Finding>) -> Option<Object> {
    let before = findings.len();
    let Some(rules) = rules(kind) else {
        let message =
            format!("the schema of {kind} could not be made: this is a fault of the program");
        findings.push(Finding::new(root.at, "", ProblemKind::Schema, message));
        return None;
    };
    let Some(spec) = root.entry("spec").filter(|entry| !entry.node.null()) else {
        let message = "`spec` is missing: add it";
        findings.push(Finding::new(root.at, "spec", ProblemKind::Missing, message));
        return None;
    };
    let schema = rules
        .schema
        .pointer("/properties/spec")
        .unwrap_or(&Value::Null);
    let spec = walk_at(spec, schema, findings);
    for (field, message) in support::refused(home, kind, root) {
        findings.push(Finding::new(
            root.locate(&field),
            field,
            ProblemKind::NotSupportedYet,
            message,
        ));
    }
    let later = |finding: &Finding| finding.kind == ProblemKind::NotSupportedYet;
    if !findings[before..].iter().all(later) {
        return None;
    }
    let mut json = header::clean(root);
    if let Value::Object(map) = &mut json {
        map.insert(String::from("spec"), spec);
    }
    match typed_object(kind, json) {
        Ok((object, json)) => {
            broken_rules(&rules.compiled, &json, root, findings);
            (findings.len() == before).then_some(object)
        }
        Err((field, message)) => {
            findings.push(Finding::new(
                root.locate(&field),
                field,
                ProblemKind::Schema,
                message,
            ));
            None
        }
    }
}

/// Field and message.
type Untyped = (String, String);

fn typed_object(kind: Kind, json: Value) -> Result<(Object, Value), Untyped> {
    match kind {
        Kind::ModelCache => typed(json).map(|(object, json)| (Object::ModelCache(object), json)),
        Kind::InferenceBackend => {
            typed(json).map(|(object, json)| (Object::InferenceBackend(object), json))
        }
        Kind::SovereigntyPolicy => {
            typed(json).map(|(object, json)| (Object::SovereigntyPolicy(object), json))
        }
    }
}

fn walk_at(spec: &crate::tree::Entry, schema: &Value, findings: &mut Vec<Finding>) -> Value {
    if matches!(spec.node.content, Content::Map(_)) {
        return walk(
            &Node {
                at: spec.at,
                content: spec.node.content.clone(),
            },
            schema,
            "spec",
            findings,
        );
    }
    walk(&spec.node, schema, "spec", findings)
}

/// The typed object, and its JSON with defaults in place and without nulls.
fn typed<T: DeserializeOwned + serde::Serialize>(json: Value) -> Result<(Box<T>, Value), Untyped> {
    let object: T = serde_path_to_error::deserialize(json)
        .map_err(|error| (error.path().to_string(), shown(&error.inner().to_string())))?;
    let json = serde_json::to_value(&object)
        .map_err(|error| (String::new(), shown(&error.to_string())))?;
    Ok((Box::new(object), json))
}

/// The CEL rules, by the same engine that kube's `validate_cel` uses, compiled once.
fn broken_rules(compiled: &CompiledSchema, json: &Value, root: &Node, findings: &mut Vec<Finding>) {
    let Err(errors) = Validator::new().validate_compiled(compiled, json, None) else {
        return;
    };
    for error in errors.into_vec() {
        let field = error.field_path.replace("..", ".");
        findings.push(Finding {
            at: root.locate(&field),
            field,
            kind: ProblemKind::Rule,
            message: error.message,
        });
    }
}
