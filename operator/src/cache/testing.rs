//! ModelCaches for tests.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use mesh_crds::ModelCache;
use serde_json::{Value, json};
use std::sync::Arc;

use super::outcome::Polled;
use super::state::{Input, State};

/// A cluster around one cache.
#[derive(Default)]
pub(crate) struct Around {
    pub(crate) status: Value,
    pub(crate) claim: Option<PersistentVolumeClaim>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) fetchers: Vec<Pod>,
    pub(crate) workers: Vec<Pod>,
    pub(crate) now: Timestamp,
}

/// A cache named `m` in the namespace `team`.
pub(crate) fn cache(spec: &Value) -> ModelCache {
    serde_json::from_value(json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache",
        "metadata": {"name": "m", "namespace": "team", "uid": "cache"}, "spec": spec,
    }))
    .expect("a cache")
}

/// The state of this cache with nothing around it.
pub(crate) fn of(cache: &ModelCache) -> State {
    State::new(&Input {
        cache,
        status: cache.status.clone().unwrap_or_default(),
        claim: None,
        jobs: Vec::new(),
        fetchers: &[],
        workers: &[],
        polled: &Polled::new(),
        now: Timestamp::UNIX_EPOCH,
    })
}

/// The state of a cache with nothing around it.
pub(crate) fn state(spec: &Value, status: &Value) -> State {
    let around = Around {
        status: status.clone(),
        ..Around::default()
    };
    see(spec, &around)
}

/// The state of a cache.
pub(crate) fn see(spec: &Value, around: &Around) -> State {
    let shared = |pods: &[Pod]| pods.iter().cloned().map(Arc::new).collect::<Vec<_>>();
    State::new(&Input {
        cache: &cache(spec),
        status: serde_json::from_value(around.status.clone()).unwrap_or_default(),
        claim: around.claim.clone().map(Arc::new),
        jobs: around.jobs.iter().cloned().map(Arc::new).collect(),
        fetchers: &shared(&around.fetchers),
        workers: &shared(&around.workers),
        polled: &Polled::new(),
        now: around.now,
    })
}
