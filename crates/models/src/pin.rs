//! Digests remembered from first use, for artifacts whose specification states none. Kept apart from
//! the index, because they cannot be rebuilt: a damaged pins file is an error, never an empty one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::store::{Store, write_atomically};

/// One remembered digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pin {
    pub(crate) sha256: Digest,
    pub(crate) source: String,
    pub(crate) pinned_at: Timestamp,
}

/// Cache name, then artifact path.
type Pins = BTreeMap<String, BTreeMap<String, Pin>>;

impl Store {
    /// Where the pins are.
    pub fn pins_path(&self) -> PathBuf {
        self.root().join("pins.json")
    }

    pub(crate) fn pin(&self, cache: &str, artifact: &str) -> Result<Option<Digest>, Error> {
        let pins = read(&self.pins_path())?;
        Ok(pins
            .get(cache)
            .and_then(|artifacts| artifacts.get(artifact))
            .map(|pin| pin.sha256))
    }

    /// Writes a pin. The caller holds the artifact's lock; this takes the pins' own.
    pub(crate) fn set_pin(&self, cache: &str, artifact: &str, pin: Pin) -> Result<(), Error> {
        let _lock = self.lock_now("pins")?;
        let path = self.pins_path();
        let mut pins = read(&path)?;
        pins.entry(cache.to_owned())
            .or_default()
            .insert(artifact.to_owned(), pin);
        let text = serde_json::to_vec_pretty(&pins)
            .map_err(|error| Error::store("write", &path, error.into()))?;
        write_atomically(&path, &text)
    }
}

fn read(path: &Path) -> Result<Pins, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pins::new()),
        Err(error) => return Err(Error::store("read", path, error)),
    };
    serde_json::from_slice(&text).map_err(|error| Error::PinsDamaged {
        path: path.to_path_buf(),
        problem: error.to_string(),
    })
}
