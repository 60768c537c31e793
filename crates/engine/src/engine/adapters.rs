//! The adapters of an engine: loaded beside the model, named by requests.

use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};

use super::Engine;
use crate::family::Model;
use crate::loader;
use crate::lora::Adapter;
use crate::options::{AdapterInfo, AdapterUse, EngineOptions, Error};
use crate::request::Refused;

/// Loads all adapters of the options into the model.
pub(super) fn load(
    model: &mut Model,
    options: &EngineOptions,
    fingerprint: &str,
) -> Result<Vec<AdapterInfo>, Error> {
    let mut loaded: Vec<AdapterInfo> = Vec::new();
    for (name, folder) in &options.adapters {
        if loaded.iter().any(|other| other.name == *name) {
            return Err(Error::SameName(name.clone()));
        }
        let unusable = |source| Error::Adapter {
            name: name.clone(),
            source,
        };
        let adapter = Adapter::load(folder, model.config()).map_err(unusable)?;
        model.adapt(&adapter).map_err(unusable)?;
        loaded.push(AdapterInfo {
            name: name.clone(),
            parameters: adapter.parameters(),
            fingerprint: together(fingerprint, &adapter),
        });
    }
    Ok(loaded)
}

fn together(fingerprint: &str, adapter: &Adapter) -> String {
    let mut hash = Sha256::new();
    hash.update(fingerprint);
    hash.update(adapter.digest);
    loader::short(hash)
}

impl Engine {
    /// Place of an adapter in the list.
    pub(super) fn place(&self, name: Option<&str>) -> Result<Option<usize>, Refused> {
        let Some(name) = name else {
            return Ok(None);
        };
        let mut all = self.0.info.adapters.iter();
        match all.position(|adapter| adapter.name == name) {
            Some(place) => Ok(Some(place)),
            None => Err(Refused::Invalid {
                field: "model",
                bound: "the model, or an adapter that is loaded",
            }),
        }
    }

    /// How adapters are used now, in the order in which they were given.
    pub fn adapters_in_use(&self) -> Vec<AdapterUse> {
        let shared = &self.0.shared;
        let running = shared.gauges.adapters.iter();
        let numbers = running.zip(shared.waiting_for_adapters());
        let adapters = self.0.info.adapters.iter().zip(numbers);
        adapters
            .map(|(adapter, (running, waiting))| AdapterUse {
                name: adapter.name.clone(),
                running: running.load(Ordering::Relaxed),
                waiting,
            })
            .collect()
    }
}
