//! `POST /mesh/v1/explain`: decides like serving does, sends nothing, and says why.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use mesh_core::Caller;
use mesh_door::surface_asked;

use crate::Dataplane;
use crate::layer::body::Read;
use crate::respond::{Error, decision_header};

pub(crate) async fn explain(
    State(plane): State<Dataplane>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    Extension(Read(body)): Extension<Read>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let surface = surface_asked(query.as_deref(), &body)?;
    let job = plane.decide(surface, body, &headers, caller).await?;
    let decision = &job.decided.decision;
    let mut response = Json(decision).into_response();
    decision_header(response.headers_mut(), &decision.decision);
    Ok(response)
}
