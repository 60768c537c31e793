//! Straight to the floor, when no gateway answers: only if its class may hold the request, only with what it
//! can do, and never without saying so.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use mesh_core::pushed::{Floor, Pushed};
use mesh_core::{
    BackendId, Constraint, DecisionId, Degradation, Facts, Needs, PrivacyLevel, Sensitive,
    SovereigntyClass, ToolNeed,
};
use mesh_door::{Error, Report, Tried};
use mesh_protocol::openai::error::ErrorBody;
use mesh_protocol::{ModelRequest, Surface};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Shared;
use crate::ask::{Ask, QUICK};
use crate::floors::Known;
use crate::head;
use crate::meter::Whose;
use crate::peer::Failure;
use crate::relay::relay;

/// Longest time until its answer begins; a processor reads a long prompt slowly.
const LIMIT: Duration = Duration::from_mins(10);
/// Largest error of it that is read, in bytes.
const LARGEST: usize = 64 << 10;
/// When to come back if there is nobody.
const LATER: Duration = Duration::from_secs(2);
/// Names that leave the choice to the mesh.
const AUTO: &str = "auto";
const LOCAL: &str = "local";
/// Fields that mean nothing without tools.
const TOOL_FIELDS: [&str; 5] = [
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
];

/// A request that goes to the floor, and what is known of it.
pub(crate) struct Fallen<'a> {
    pub(crate) ask: &'a Ask,
    pub(crate) request: &'a ModelRequest,
    pub(crate) facts: &'a Facts,
    pub(crate) snapshot: Option<&'a Pushed>,
    pub(crate) bearer: &'a HeaderValue,
    /// Why it does not go to the gateway.
    pub(crate) why: &'static str,
}

/// Asks the floor.
///
/// # Errors
/// If there is none, it may not or cannot serve this request, or it does not answer.
pub(crate) async fn floor(shared: &Shared, fallen: &Fallen<'_>) -> Result<Response, Error> {
    let known = shared
        .below
        .current()
        .ok_or_else(|| nobody(fallen.why, "no floor is known here", None))?;
    let level = fallen.facts.level;
    may(&known.floor, level, fallen)?;
    let mut degraded = vec![Degradation::FloorOnly];
    degraded.extend(can(&known.floor, fallen)?);
    let (answer, report) = send(shared, fallen, &known, degraded).await?;
    shared.metrics.failed_over();
    shared.metrics.degraded(&report.degraded);
    tracing::info!(
        decision = %report.decision,
        backend = %report.backend,
        level = level.as_str(),
        why = fallen.why,
        "the floor answers"
    );
    let mut headers = head::answered(answer.headers());
    report.write(&mut headers);
    let whose = Whose {
        metrics: shared.metrics.clone(),
        backend: known.floor.backend.clone(),
        class: known.floor.class,
        level,
    };
    let hide = fallen.request.stream && !fallen.request.include_usage;
    Ok(relay(answer, headers, Some((whose, hide))))
}

/// Whether the level may go there.
fn may(floor: &Floor, level: PrivacyLevel, fallen: &Fallen<'_>) -> Result<(), Error> {
    // What is restricted by default stays on owned hardware, unless a snapshot says otherwise.
    let minimum = fallen
        .snapshot
        .map_or(SovereigntyClass::OwnHardware, |pushed| {
            pushed.minimum(level)
        });
    let mut constraints = Vec::new();
    if floor.class < minimum {
        constraints.push(Constraint::MinimumClass);
    }
    if floor.max_privacy < level {
        constraints.push(Constraint::MaxPrivacy);
    }
    if fallen.request.model == LOCAL && !floor.class.owned() {
        constraints.push(Constraint::LocalOnly);
    }
    if constraints.is_empty() {
        return Ok(());
    }
    Err(Error::PolicyDenied { constraints })
}

/// What it cannot do is refused; what can be left out is, and said.
fn can(floor: &Floor, fallen: &Fallen<'_>) -> Result<Vec<Degradation>, Error> {
    if let Some(what) = hard(&fallen.facts.needs, fallen.request.surface) {
        return Err(nobody(
            fallen.why,
            "and the floor has none of what is asked for",
            Some(what),
        ));
    }
    let mut degraded = Vec::new();
    let model = fallen.request.model.as_str();
    let meant = matches!(model, AUTO | LOCAL) || floor.names.iter().any(|name| name == model);
    if !meant && fallen.snapshot.is_some_and(|pushed| !pushed.substitution) {
        return Err(nobody(
            fallen.why,
            "and the policy lets nobody answer for the model named",
            None,
        ));
    }
    if !meant {
        degraded.push(Degradation::ModelSubstituted);
    }
    if fallen.facts.needs.tools == ToolNeed::Soft {
        degraded.push(Degradation::ToolsDropped);
    }
    Ok(degraded)
}

/// A need that no floor meets, in words.
fn hard(needs: &Needs, surface: Surface) -> Option<&'static str> {
    [
        (
            surface == Surface::Embeddings || needs.embeddings,
            "embeddings",
        ),
        (needs.tools == ToolNeed::Hard, "tools"),
        (needs.json, "enforced formats"),
        (needs.vision, "images"),
        (needs.other_media, "audio and files"),
        (!needs.hosted_tools.is_empty(), "hosted tools"),
    ]
    .into_iter()
    .find_map(|(needed, what)| needed.then_some(what))
}

fn nobody(why: &str, message: &str, what: Option<&str>) -> Error {
    let what = what.map_or_else(String::new, |what| format!(": {what}"));
    Error::NoBackend {
        message: format!("{why}, {message}{what}"),
        tried: Vec::new(),
        retry_after: LATER,
    }
}

async fn send(
    shared: &Shared,
    fallen: &Fallen<'_>,
    known: &Known,
    degraded: Vec<Degradation>,
) -> Result<(http::Response<Incoming>, Report), Error> {
    let floor = &known.floor;
    let ask = Ask {
        method: fallen.ask.method.clone(),
        path: fallen.ask.path.clone(),
        headers: fallen.ask.headers.clone(),
        body: body(fallen.request, floor, &degraded),
    };
    let mut report = Report {
        decision: DecisionId(mesh_door::id::new(Timestamp::now())),
        // The name as it is shown.
        backend: BackendId::home("", &floor.backend),
        model: floor.model.clone(),
        class: floor.class,
        privacy: fallen.facts.level,
        degraded: Vec::new(),
    };
    for reason in degraded {
        report.degrade(reason);
    }
    let count = |outcome| {
        shared
            .metrics
            .attempted(&floor.backend, Some(floor.class), outcome);
    };
    let mut last = Failure::Connect;
    for _ in 0..2 {
        let mut request = ask.request(fallen.bearer, Some(fallen.facts.level));
        tell(request.headers_mut(), floor, fallen.facts);
        let begun = Instant::now();
        match known.peer.send(request, LIMIT).await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                count("ok");
                if answer.headers().contains_key("mesh-context-trimmed") {
                    report.degrade(Degradation::ContextTrimmed);
                }
                return Ok((answer, report));
            }
            Ok(answer) => {
                let error = refused(fallen.why, answer, report.backend).await;
                count(error.reason().as_str());
                return Err(error);
            }
            Err(failure) => last = failure,
        }
        count(last.as_str());
        if begun.elapsed() > QUICK {
            break;
        }
    }
    let tried = Tried {
        backend: report.backend,
        message: last.to_string(),
    };
    Err(Error::NoBackend {
        message: format!("{}, and neither does the floor", fallen.why),
        tried: vec![tried],
        retry_after: LATER,
    })
}

/// What a worker is told beside the body.
fn tell(headers: &mut HeaderMap, floor: &Floor, facts: &Facts) {
    let latency = HeaderValue::from_static(facts.latency.as_str());
    headers.insert("mesh-latency", latency);
    if floor.trim {
        headers.insert("mesh-overflow", HeaderValue::from_static("trim-history"));
    }
}

/// The caller's body for another model, in its order.
fn body(request: &ModelRequest, floor: &Floor, degraded: &[Degradation]) -> Bytes {
    let drop_tools = degraded.contains(&Degradation::ToolsDropped);
    let mut body = request.body.clone();
    if drop_tools {
        body.retain(|name, _| !TOOL_FIELDS.contains(&name.as_str()));
    }
    body.insert(String::from("model"), Value::from(floor.model.clone()));
    if request.stream {
        // For the meter, which leaves it out again where the caller did not ask for it.
        let options = body.entry("stream_options").or_insert(Value::Null);
        if !options.is_object() {
            *options = json!({});
        }
        options["include_usage"] = json!(true);
    }
    // A tree of JSON can always be written.
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// What its refusal means here.
async fn refused(why: &str, answer: http::Response<Incoming>, backend: BackendId) -> Error {
    let status = answer.status();
    let after = answer.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = after.map_or(LATER, Duration::from_secs);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Error::FloorBusy { retry_after };
    }
    let of_request = status.is_client_error()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        );
    if of_request
        && let Ok(text) = Limited::new(answer.into_body(), LARGEST).collect().await
        && let Ok(body) = serde_json::from_slice::<ErrorBody>(&text.to_bytes())
    {
        return Error::UpstreamRejected {
            status: status.as_u16(),
            body: Sensitive::new(Box::new(body)),
        };
    }
    Error::NoBackend {
        message: format!("{why}, and the floor does not serve this pod"),
        tried: vec![Tried {
            backend,
            message: format!("status {}", status.as_u16()),
        }],
        retry_after,
    }
}
