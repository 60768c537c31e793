//! The stack, top to bottom. Every request comes through these layers in this order.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};
use tower::ServiceBuilder;

use crate::Dataplane;
use crate::handler::{backend, explain, later, model, serve};
use crate::layer::{auth, body, observe, origin, request_id};

/// Everything that is served on the API port.
pub(crate) fn router(plane: Dataplane) -> Router {
    let questions = Router::new()
        .route("/v1/chat/completions", post(serve::chat))
        .route("/v1/completions", post(serve::completions))
        .route("/v1/embeddings", post(serve::embeddings_of))
        .route("/mesh/v1/explain", post(explain::explain))
        // Innermost: a body costs memory, so everything that can refuse without it comes first.
        .route_layer(from_fn_with_state(plane.clone(), body::read));

    Router::new()
        .merge(questions)
        .route("/v1/models", get(model::list))
        .route("/v1/models/{*id}", get(model::one))
        .route("/mesh/v1/backends", get(backend::list))
        // Part of the contract, answered as such until they are built.
        .route("/v1/responses", any(later::responses))
        .route("/v1/responses/{*rest}", any(later::responses))
        .route("/v1/messages", any(later::messages))
        .route("/v1/messages/{*rest}", any(later::messages))
        .route("/mesh/v1/decisions", any(later::decisions))
        .route("/console", any(later::console))
        .route("/console/{*rest}", any(later::console))
        .fallback(later::not_found)
        .method_not_allowed_fallback(later::method_not_allowed)
        .layer(
            ServiceBuilder::new()
                // Outermost, so that even a refused request has an id in answer and log.
                .layer(from_fn_with_state(plane.clone(), request_id::assign))
                // Around everything that can refuse, fail or take time.
                .layer(from_fn_with_state(plane.clone(), observe::observe))
                // Below the observation, so that a panic is counted like any other fault.
                .layer(from_fn(mesh_door::panic::rescue))
                // Before keys: a foreign page in a browser learns nothing, not even that keys exist.
                .layer(from_fn_with_state(plane.clone(), origin::check))
                // Before places: who has no key cannot take one from those who have.
                .layer(from_fn_with_state(plane.clone(), auth::identify))
                // Before the body: what is too much is refused while it is still small.
                .layer(from_fn_with_state(plane.places(), mesh_door::limit)),
        )
        .with_state(plane)
}
