//! Only callers that mean this listener are heard: see [`mesh_door::origin`].

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use mesh_door::Error;
use mesh_door::origin::examine;

use crate::Dataplane;

pub(crate) async fn check(
    State(plane): State<Dataplane>,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    if plane.config().callers.is_some() {
        // Everybody must prove who they are in the request itself, so that a page that points its own
        // name at us has nothing to borrow.
        return Ok(next.run(request).await);
    }
    let listed = &plane.config().hosts;
    let target = request.uri().authority();
    examine(request.headers(), target, listed)?;
    Ok(next.run(request).await)
}
