//! InferenceBackend: pods that serve a model, or a place elsewhere that is judged.

use mesh_crds::InferenceBackend;

mod build;
mod pods;
mod status;

pub(crate) use build::{Images, child_name, children};
pub(crate) use pods::{PodView, view};
pub(crate) use status::{Observed, status};

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
