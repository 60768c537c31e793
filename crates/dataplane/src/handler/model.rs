//! `GET /v1/models` and `GET /v1/models/{id}`: the names that the caller may use.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use mesh_core::Caller;
use mesh_routing::usable_names;
use serde_json::{Value, json};

use crate::Dataplane;
use crate::respond::Error;

pub(crate) async fn list(
    State(plane): State<Dataplane>,
    Extension(caller): Extension<Caller>,
) -> Json<Value> {
    let (names, created) = names(&plane, &caller);
    let data: Vec<Value> = names.iter().map(|name| model(name, created)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// Names may hold slashes, so `id` is the rest of the path.
pub(crate) async fn one(
    State(plane): State<Dataplane>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    let (usable, created) = names(&plane, &caller);
    if usable.contains(&id) {
        return Ok(Json(model(&id, created)));
    }
    Err(Error::ModelNotFound { usable })
}

fn names(plane: &Dataplane, caller: &Caller) -> (Vec<String>, i64) {
    let snapshot = plane.snapshots().current();
    let policy = mesh_routing::join(&snapshot, caller);
    let names = usable_names(&snapshot, &policy);
    (names, snapshot.created.as_second())
}

/// OpenAI's form. `created` is when the declaration was read; who owns a name depends on who serves
/// it, so the mesh answers for all of them.
fn model(name: &str, created: i64) -> Value {
    json!({"id": name, "object": "model", "created": created, "owned_by": "mesh"})
}
