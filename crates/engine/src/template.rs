//! Chat templates: from the turns of a conversation to the text a model was trained on.
//!
//! A template is a small program inside the model file, so it is run like one from a stranger: no files, no includes, bounded
//! work and memory (`FUEL`), bounded source. It behaves as in Hugging Face's `apply_chat_template` (trimmed blocks, Python's
//! string methods, `raise_exception`, `strftime_now`), except that tools and documents are always none: this engine
//! offers no tools. Files without a template get `ChatML`. What callers write can never become a control token; see `guard`.
//!
//! One hole stays: a template that doubles a *list* in a loop (`x = x + x`, dozens of times) is concatenated lazily by
//! minijinja 3.1 and charged too late, so it can hang. Text cannot. Serve templates only from files with a known digest.

mod guard;
mod turn;

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::gguf;
pub(crate) use guard::Guard;
pub use turn::{Error as NormalizeError, Role, Turn, normalize};

/// Used where the model file has no template; the format most small chat models were trained on.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Longest template in bytes; the longest published ones have about 30,000.
const MAX_SOURCE: usize = 1 << 18;
/// Work of one rendering: instructions, and 64 bytes of text each (so at most 64 MiB). A conversation of 100,000 tokens
/// needs about 50,000.
const FUEL: u64 = 1 << 20;
/// Largest result of a string method that multiplies lengths; the engine charges those only afterwards.
const MAX_PRODUCT: usize = 1 << 24;
/// Nested calls and includes of a template.
const RECURSION: usize = 64;
/// Words in a template after which text that was apart can stand together.
const JOINING: &[&str] = &[
    "replace", "join", "reverse", "sort", "unique", "format", "truncate",
];

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error("chat template of {length} bytes, more than the {limit} allowed")]
    TooLong { length: usize, limit: usize },
    #[error("chat template of the model does not parse: {kind} in line {line}")]
    Parse { kind: String, line: usize },
    #[error("chat template of the model needs more work or memory than allowed")]
    OutOfFuel,
    #[error("chat template of the model refuses this conversation: {message}")]
    Refused { message: String },
    #[error("chat template of the model failed: {kind} in line {line}")]
    Render { kind: String, line: usize },
    #[error("messages use every private-use character there is")]
    NoMarker,
}

impl Error {
    /// Stable reason for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gguf(error) => error.reason(),
            Self::TooLong { .. } | Self::Parse { .. } => "TemplateInvalid",
            Self::OutOfFuel => "TemplateTooExpensive",
            Self::Refused { .. } => "TemplateRefused",
            Self::Render { .. } => "TemplateFailed",
            Self::NoMarker => "InvalidMessages",
        }
    }
}

/// A parsed chat template with the tokens it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    joins: bool,
}

impl ChatTemplate {
    /// The template of the model file, or `ChatML` if it has none.
    pub fn from_gguf(header: &gguf::Header) -> Result<Self, Error> {
        let source = header
            .optional("tokenizer.chat_template", gguf::Header::str)?
            .unwrap_or(CHATML);
        let token = |key| -> Result<&str, Error> {
            let Some(id) = header.optional(key, gguf::Header::u32)? else {
                return Ok("");
            };
            Ok(header
                .strings("tokenizer.ggml.tokens")?
                .get(id as usize)
                .unwrap_or_default())
        };
        Self::new(
            source,
            token("tokenizer.ggml.bos_token_id")?,
            token("tokenizer.ggml.eos_token_id")?,
        )
    }

    /// From source, with the texts that `bos_token` and `eos_token` stand for.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(Error::TooLong {
                length: source.len(),
                limit: MAX_SOURCE,
            });
        }
        let mut environment = Environment::new();
        environment.set_syntax(trimmed_blocks()?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", to_json);
        // Multiplies lines by width before anything is charged: gigabytes in one step.
        environment.remove_filter("indent");
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned("chat", source.to_owned())
            .map_err(|error| Error::Parse {
                kind: error.kind().to_string(),
                line: error.line().unwrap_or_default(),
            })?;
        let joins = JOINING.iter().any(|word| source.contains(word));
        Ok(Self {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            joins,
        })
    }

    /// Renders a conversation with the callers' control tokens broken; `guard` comes from the tokenizer.
    pub(crate) fn render(
        &self,
        turns: &[Turn],
        guard: &Guard,
        generation_prompt: bool,
    ) -> Result<Rendered, Error> {
        let contents = turns.iter().map(|turn| turn.content.expose().as_str());
        let marker = guard::free_marker(contents).ok_or(Error::NoMarker)?;
        let template = self
            .environment
            .get_template("chat")
            .map_err(|error| failure(&error))?;
        let continuations = guard.continuations(template.source());
        let messages: Vec<Value> = turns
            .iter()
            .map(|turn| {
                let content = guard.mark(turn.content.expose(), marker, self.joins, &continuations);
                context! { role => turn.role.as_str(), content => content }
            })
            .collect();
        let none = Value::from(());
        let variables = context! {
            messages => messages,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => generation_prompt,
            tools => none.clone(),
            documents => none,
        };
        let text = template
            .render(variables)
            .map_err(|error| failure(&error))?;
        Ok(Rendered { text, marker })
    }
}

/// Line breaks after and spaces before a block tag are not text, as Hugging Face has it.
fn trimmed_blocks() -> Result<SyntaxConfig, Error> {
    let invalid = |error: minijinja::Error| Error::Parse {
        kind: error.kind().to_string(),
        line: 0,
    };
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(invalid)
}

/// A rendered conversation whose messages hold no control token, but markers where they would have.
pub(crate) struct Rendered {
    text: String,
    marker: char,
}

impl Rendered {
    /// The text with markers: control tokens found in it are the template's own.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A stretch of that text as the caller wrote it.
    pub(crate) fn unguarded<'t>(&self, part: &'t str) -> Cow<'t, str> {
        guard::unmark(part, self.marker)
    }
}

/// The detail of an engine error can quote values of the conversation: only its kind and place go out, and the message of a
/// `raise_exception`, which is marked as such.
fn failure(error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(link) = cause {
        if let Some(Raised(message)) = link.downcast_ref::<Raised>() {
            return Error::Refused {
                message: message.clone(),
            };
        }
        cause = link.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Error::OutOfFuel,
        kind => Error::Render {
            kind: kind.to_string(),
            line: error.line().unwrap_or_default(),
        },
    }
}

/// A refusal by the template itself.
#[derive(Debug, thiserror::Error)]
#[error("the template refuses")]
struct Raised(String);

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    let message = message.chars().take(200).collect();
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let now = jiff::Zoned::now();
    jiff::fmt::strtime::format(format, &now)
        .map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, "unknown date format"))
}

/// Python's methods on strings and maps, without the products of lengths that fuel would notice too late.
fn python_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    let longest = args
        .iter()
        .filter_map(|arg| arg.as_str().map(str::len).or_else(|| arg.len()))
        .max();
    let subject = value.as_str().map_or(0, str::len);
    let product = subject
        .saturating_add(1)
        .saturating_mul(longest.unwrap_or(0).saturating_add(1));
    let refused = match method {
        "replace" | "join" => product > MAX_PRODUCT,
        "format" => true,
        _ => false,
    };
    if refused {
        return Err(minijinja::Error::new(ErrorKind::OutOfFuel, "too much text"));
    }
    unknown_method_callback(state, value, method, args)
}

/// JSON as Python's `json.dumps` writes it, which is what models were trained on: no HTML escapes, spaces behind separators.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands options over by value"
)]
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let invalid =
        || minijinja::Error::new(ErrorKind::InvalidOperation, "not a value that JSON has");
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|_| invalid())?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let space = vec![b' '; width.min(16)];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&space);
            serde::Serialize::serialize(
                &json,
                &mut serde_json::Serializer::with_formatter(&mut bytes, pretty),
            )
        }
        None => serde::Serialize::serialize(
            &json,
            &mut serde_json::Serializer::with_formatter(&mut bytes, Spaced),
        ),
    };
    written.map_err(|_| invalid())?;
    String::from_utf8(bytes)
        .map(Value::from_safe_string)
        .map_err(|_| invalid())
}

/// Separators `, ` and `: `.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
