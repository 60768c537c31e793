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
        Some(callers) => match auth::bearer(headers) {
            Some(bearer) => auth::recognized(&**callers, bearer).await,
            None => Err(Unrecognized::Nobody),
        },
        None => auth::caller(keys, headers, &config.mesh_namespace).ok_or(Unrecognized::Nobody),
    };
    let caller = caller.map_err(refusal)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// When to come back if not enough is known of a caller: a watch is behind by less, and who was asked in vain is asked
/// again by then.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn refusal(unrecognized: Unrecognized) -> Error {
    let words = match unrecognized {
        Unrecognized::Nobody => return Error::InvalidApiKey,
        // Deciding without would leave out the policies that select by labels, and deciding as if all of
        // them did could open what only some may use.
        Unrecognized::NotYet => {
            "the labels of the caller's namespace are not known yet, so neither are its policies"
        }
        Unrecognized::Unconfirmed => {
            "the API server cannot be asked whether the caller's token still holds"
        }
    };
    Error::NoBackend {
        message: String::from(words),
        tried: Vec::new(),
        retry_after: SOON,
    }
}
