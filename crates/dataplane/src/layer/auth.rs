//! Finds out who is calling and puts the [`Caller`](mesh_core::Caller) beside the request.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::respond::Error;
use crate::{Dataplane, Unrecognized, auth};

pub(crate) async fn identify(
    State(plane): State<Dataplane>,
    mut request: Request,
    next: Next,
) -> Result<Response, Error> {
    let config = plane.config();
    let keys = config.api_keys.as_ref();
    let headers = request.headers();
    let caller = match &config.callers {
        Some(callers) => auth::bearer(headers)
            .ok_or(Unrecognized::Nobody)
            .and_then(|bearer| callers.caller(bearer)),
        None => auth::caller(keys, headers, &config.mesh_namespace).ok_or(Unrecognized::Nobody),
    };
    let caller = caller.map_err(refusal)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// When to come back if not enough is known of a caller: a watch is behind by less.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn refusal(unrecognized: Unrecognized) -> Error {
    match unrecognized {
        Unrecognized::Nobody => Error::InvalidApiKey,
        // Deciding without would leave out the policies that select by labels, and deciding as if all of
        // them did could open what only some may use.
        Unrecognized::NotYet => Error::NoBackend {
            message: String::from(
                "the labels of the caller's namespace are not known yet, so neither are its policies",
            ),
            tried: Vec::new(),
            retry_after: SOON,
        },
    }
}
