//! Finds out who is calling and puts the [`Caller`](mesh_core::Caller) beside the request.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::respond::Error;
use crate::{Dataplane, auth};

pub(crate) async fn identify(
    State(plane): State<Dataplane>,
    mut request: Request,
    next: Next,
) -> Result<Response, Error> {
    let config = plane.config();
    let keys = config.api_keys.as_ref();
    let headers = request.headers();
    let caller = match &config.callers {
        Some(callers) => auth::bearer(headers).and_then(|bearer| callers.caller(bearer)),
        None => auth::caller(keys, headers, &config.mesh_namespace),
    };
    let caller = caller.ok_or(Error::InvalidApiKey)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}
