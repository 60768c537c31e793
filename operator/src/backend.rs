//! InferenceBackend: pods that serve a model, or a place elsewhere that is judged.

use mesh_crds::InferenceBackend;

mod build;
mod claims;
mod fleet;
mod images;
mod live;
mod pods;
mod refers;
mod status;
mod work;

pub(crate) use build::worker_egress;
pub(crate) use claims::Claims;
pub(crate) use fleet::Fleet;
pub(crate) use images::Images;
pub(crate) use pods::{PodView, condition, lost, view, view_among};

/// True if the network may read along, as its author declared.
pub(crate) fn plaintext(backend: &InferenceBackend) -> bool {
    let cloud = backend
        .spec
        .cloud
        .as_ref()
        .and_then(|cloud| cloud.insecure_plaintext);
    let external = backend
        .spec
        .external
        .as_ref()
        .and_then(|external| external.insecure_plaintext);
    cloud.or(external).unwrap_or_default()
}
