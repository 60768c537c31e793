//! InferenceBackend: pods that serve a model, or a place elsewhere that is judged.

mod build;
mod pods;
mod status;

pub(crate) use build::{Images, child_name, children};
pub(crate) use pods::{PodView, view};
pub(crate) use status::{Observed, status};
