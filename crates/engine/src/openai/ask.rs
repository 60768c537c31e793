//! A request's fields, read into engine requests: one per prompt.

use mesh_protocol::{ModelRequest, ParseError, Surface};
use serde_json::{Map, Value};

use super::{Context, Error};
use crate::{GenerateRequest, Prompt, Sampling};

/// Most prompts in one completion request.
const PROMPTS: usize = 16;

pub(super) fn read(
    request: &ModelRequest,
    context: &Context,
) -> Result<Vec<GenerateRequest>, Error> {
    refuse_unsupported(request, context)?;
    let body = &request.body;
    let prompts = prompts(request)?;
    let sampling = sampling(body)?;
    let stop = stops(body);
    let logprobs = logprobs(request)?;
    let make = |prompt| GenerateRequest {
        sampling: sampling.clone(),
        max_tokens: request.max_tokens,
        stop: stop.clone(),
        n: request.n,
        echo: flag(body, "echo"),
        logprobs,
        latency: context.latency,
        sole: context.sole,
        overflow: context.overflow,
        adapter: context.adapter.clone(),
        ..GenerateRequest::new(prompt, context.partition.clone())
    };
    Ok(prompts.into_iter().map(make).collect())
}

/// Fields that would change the answer and that this engine cannot do: OpenAI's, and what model
/// servers call guided decoding.
const UNSUPPORTED: &[&str] = &[
    "suffix",
    "audio",
    "prediction",
    "web_search_options",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "grammar",
    "json_schema",
];

fn refuse_unsupported(request: &ModelRequest, context: &Context) -> Result<(), Error> {
    let body = &request.body;
    let refuse = |field: &str| {
        Err(Error::Unsupported {
            field: field.to_owned(),
        })
    };
    if request.surface == Surface::Embeddings {
        return refuse("input");
    }
    let given = |field: &str| body.get(field).is_some_and(|value| !value.is_null());
    for field in UNSUPPORTED {
        if given(field) {
            return refuse(field);
        }
    }
    let offers = |field: &str| {
        body.get(field)
            .and_then(Value::as_array)
            .is_some_and(|tools| !tools.is_empty())
    };
    for field in ["tools", "functions"] {
        if offers(field) && !context.drop_tools {
            return refuse(field);
        }
    }
    let format = body
        .get("response_format")
        .and_then(|format| format.get("type"))
        .and_then(Value::as_str);
    if format.is_some_and(|format| format != "text") {
        return refuse("response_format");
    }
    match body.get("best_of").and_then(Value::as_u64) {
        Some(best) if best != u64::from(request.n) => refuse("best_of"),
        _ => Ok(()),
    }
}

fn prompts(request: &ModelRequest) -> Result<Vec<Prompt>, ParseError> {
    if request.surface == Surface::Chat {
        return Ok(vec![Prompt::Messages(request.messages().to_vec())]);
    }
    let many = match request.body.get("prompt") {
        Some(Value::String(text)) => vec![Prompt::Text(text.clone())],
        Some(Value::Array(items)) if items.iter().all(Value::is_u64) => {
            vec![Prompt::Tokens(tokens(items)?)]
        }
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(Prompt::Text(text.clone())),
                Value::Array(ids) => tokens(ids).map(Prompt::Tokens),
                _ => Err(ParseError::field(
                    "prompt",
                    "`prompt` mixes texts and token numbers",
                )),
            })
            .collect::<Result<_, _>>()?,
        _ => Vec::new(),
    };
    if many.is_empty() || many.len() > PROMPTS {
        return Err(ParseError::field(
            "prompt",
            format!("`prompt` must be 1 to {PROMPTS} texts"),
        ));
    }
    Ok(many)
}

fn tokens(items: &[Value]) -> Result<Vec<u32>, ParseError> {
    let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok());
    items
        .iter()
        .map(|item| {
            id(item).ok_or_else(|| {
                ParseError::field("prompt", "`prompt` holds a number that is no token")
            })
        })
        .collect()
}

fn sampling(body: &Map<String, Value>) -> Result<Sampling, ParseError> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "ranges are checked; f32 is the sampler's precision"
    )]
    let number = |field: &str| {
        body.get(field)
            .and_then(Value::as_f64)
            .map(|value| value as f32)
    };
    let whole = |field: &'static str| match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        // Negative seeds are seeds too.
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(i64::cast_unsigned))
            .map(Some)
            .ok_or_else(|| ParseError::field(field, format!("`{field}` must be a whole number"))),
    };
    Ok(Sampling {
        temperature: number("temperature"),
        top_p: number("top_p"),
        top_k: whole("top_k")?.and_then(|k| u32::try_from(k).ok()),
        seed: whole("seed")?,
        presence_penalty: number("presence_penalty").unwrap_or(0.0),
        frequency_penalty: number("frequency_penalty").unwrap_or(0.0),
        logit_bias: bias(body)?,
    })
}

fn bias(body: &Map<String, Value>) -> Result<Vec<(u32, f32)>, ParseError> {
    let wrong = || {
        ParseError::field(
            "logit_bias",
            "`logit_bias` must map token numbers to numbers from -100 to 100",
        )
    };
    let entries = match body.get("logit_bias") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) if entries.len() <= 1024 => entries,
        Some(_) => return Err(wrong()),
    };
    entries
        .iter()
        .map(|(token, value)| {
            let token = token.parse().map_err(|_| wrong())?;
            let value = value
                .as_f64()
                .filter(|value| (-100.0..=100.0).contains(value))
                .ok_or_else(wrong)?;
            #[expect(clippy::cast_possible_truncation, reason = "between -100 and 100")]
            Ok((token, value as f32))
        })
        .collect()
}

fn stops(body: &Map<String, Value>) -> Vec<String> {
    match body.get("stop") {
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// Alternatives per token: chat says `logprobs: true` and `top_logprobs`, completions `logprobs: k`.
fn logprobs(request: &ModelRequest) -> Result<Option<u8>, ParseError> {
    let field = if request.surface == Surface::Chat {
        "top_logprobs"
    } else {
        "logprobs"
    };
    let count = match request.body.get(field) {
        None | Some(Value::Null) => None,
        Some(value) => Some(
            value
                .as_u64()
                .and_then(|count| u8::try_from(count).ok())
                .filter(|count| *count <= 20)
                .ok_or_else(|| {
                    ParseError::field(
                        field,
                        format!("`{field}` must be a whole number from 0 to 20"),
                    )
                })?,
        ),
    };
    if request.surface == Surface::Completions {
        return Ok(count);
    }
    match (flag(&request.body, "logprobs"), count) {
        (true, count) => Ok(Some(count.unwrap_or(0))),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(ParseError::field(
            field,
            "`top_logprobs` needs `logprobs: true`",
        )),
    }
}

fn flag(body: &Map<String, Value>, name: &str) -> bool {
    body.get(name).and_then(Value::as_bool).unwrap_or(false)
}
