//! What a sidecar must know and cannot find out itself, as its gateway pushes it and as `mesh-trust` tells it: no
//! secret, and nothing of other namespaces. Versioned: what says another version is not taken.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{LatencyClass, PrivacyLevel, SovereigntyClass};

/// The version that is written and read here.
pub const VERSION: u32 = 1;
/// Longest time between two lines of the stream: what is silent for three of them is gone.
pub const BEAT: std::time::Duration = std::time::Duration::from_secs(5);
/// Longest line in bytes.
pub const LONGEST: usize = 256 << 10;
/// Path of the stream, on the gateway's TLS port only.
pub const PATH: &str = "/mesh/v1/snapshot";

/// One line of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Line {
    /// What holds from now on.
    Snapshot(Box<Pushed>),
    /// What was pushed still holds.
    Alive,
}

/// What the policies say of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pushed {
    /// [`VERSION`].
    pub version: u32,
    /// The policies that were joined, most specific first.
    pub policies: Vec<PushedPolicy>,
    /// Level of a request about which nobody says anything.
    pub base_level: PrivacyLevel,
    /// Level of what could not be read.
    pub incomplete_level: PrivacyLevel,
    /// Latency class where the caller says nothing.
    pub default_latency: Option<LatencyClass>,
    /// Lowest class that may serve each level, lowest level first.
    pub minimum_class: [SovereigntyClass; 4],
    /// Time that a gateway may take to the first token, in milliseconds.
    pub deadline_ms: u64,
    /// Whether the floor may answer for another model.
    pub substitution: bool,
    /// The backend that always answers, where it can be reached from a pod.
    pub floor: Option<Floor>,
}

/// A policy that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedPolicy {
    /// Its name.
    pub name: String,
    /// sha256 of its canonical spec.
    pub digest: String,
}

/// A floor, as pods reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// Name of the backend, as in `mesh-backend`.
    pub backend: String,
    /// `https://host:port`.
    pub url: Url,
    /// Whose certificate is shown there, `namespace/name`.
    pub account: String,
    /// The name to ask for.
    pub model: String,
    /// Every name by which callers mean it.
    pub names: Vec<String>,
    /// The worst class of its pods, by the evidence of their nodes.
    pub class: SovereigntyClass,
    /// What its author allows at most.
    pub max_privacy: PrivacyLevel,
    /// Whether old turns are left out of what is too long for it.
    pub trim: bool,
}

/// Floors, as the entry `floor` of `mesh-trust` tells them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floors {
    /// [`VERSION`].
    pub version: u32,
    /// All of them.
    pub floors: BTreeSet<Floor>,
}

/// Why something was not taken. Holds nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untaken {
    /// Not JSON of the right form, or too long.
    #[error("it is not in a form that is known here")]
    Form,
    /// Another version.
    #[error("it has another version than {VERSION}")]
    Version,
    /// Values that contradict each other or could not have been meant.
    #[error("its values cannot have been meant so")]
    Values,
}

impl Untaken {
    /// The reason in PascalCase.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Form => "SnapshotForm",
            Self::Version => "SnapshotVersion",
            Self::Values => "SnapshotValues",
        }
    }
}

/// Only that of a document by which one knows whether to read the rest.
#[derive(Deserialize)]
struct Versioned {
    version: Option<u32>,
}

fn versioned(text: &[u8]) -> Result<Option<u32>, Untaken> {
    if text.len() > LONGEST {
        return Err(Untaken::Form);
    }
    let read: Versioned = serde_json::from_slice(text).map_err(|_| Untaken::Form)?;
    if read.version.is_some_and(|version| version != VERSION) {
        return Err(Untaken::Version);
    }
    Ok(read.version)
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    /// See [`Untaken`].
    pub fn read(text: &[u8]) -> Result<Self, Untaken> {
        versioned(text)?;
        let line = serde_json::from_slice(text).map_err(|_| Untaken::Form)?;
        if let Self::Snapshot(pushed) = &line {
            pushed.check()?;
        }
        Ok(line)
    }

    /// As it is sent, with its end. Empty only if it cannot be written.
    pub fn write(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl Pushed {
    fn check(&self) -> Result<(), Untaken> {
        // A level must not be held to less than the one below it.
        let rising = self.minimum_class.is_sorted();
        let floor = self.floor.as_ref().is_none_or(Floor::reachable);
        let time = (1..=3_600_000).contains(&self.deadline_ms);
        (rising && floor && time)
            .then_some(())
            .ok_or(Untaken::Values)
    }

    /// Lowest class that may serve `level`.
    pub fn minimum(&self, level: PrivacyLevel) -> SovereigntyClass {
        self.minimum_class[usize::from(level.rank())]
    }
}

impl Floor {
    /// Reached by TLS and by a name.
    fn reachable(&self) -> bool {
        self.url.scheme() == "https" && self.url.has_host() && !self.model.is_empty()
    }
}

impl Floors {
    /// Of this version.
    pub fn new(floors: BTreeSet<Floor>) -> Self {
        Self {
            version: VERSION,
            floors,
        }
    }

    /// Reads the entry.
    ///
    /// # Errors
    /// See [`Untaken`].
    pub fn read(text: &[u8]) -> Result<Self, Untaken> {
        versioned(text)?.ok_or(Untaken::Version)?;
        let floors: Self = serde_json::from_slice(text).map_err(|_| Untaken::Form)?;
        let good = floors.floors.iter().all(Floor::reachable);
        good.then_some(floors).ok_or(Untaken::Values)
    }

    /// As it is published. Empty only if it cannot be written.
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Floors, Line, Untaken};

    fn pushed() -> Value {
        json!({"type": "snapshot", "version": 1, "policies": [{"name": "default", "digest": "ab"}], "baseLevel": "internal",
            "incompleteLevel": "restricted", "defaultLatency": "Interactive",
            "minimumClass": ["CloudRetained", "CloudDomestic", "RentedHardware", "OwnHardware"],
            "deadlineMs": 60000, "substitution": true,
            "floor": {"backend": "floor", "url": "https://floor-worker.mesh-system.svc:8444", "account": "mesh-system/floor-worker",
                "model": "small", "names": ["small"], "class": "OwnHardware", "maxPrivacy": "restricted", "trim": true}})
    }

    fn read(value: &Value) -> Result<Line, Untaken> {
        Line::read(value.to_string().as_bytes())
    }

    #[test]
    fn a_line_comes_back_from_what_it_writes_and_new_fields_do_no_harm() {
        let line = read(&pushed()).expect("a line");
        assert_eq!(Line::read(&line.write()), Ok(line.clone()));
        assert_eq!(Line::read(&Line::Alive.write()), Ok(Line::Alive));
        let mut newer = pushed();
        newer["more"] = json!({"of": "a newer gateway"});
        assert_eq!(read(&newer), Ok(line));
    }

    #[test]
    fn what_is_of_another_version_or_cannot_be_meant_is_not_taken() {
        let changed = |field: &str, value: Value| {
            let mut all = pushed();
            all[field] = value;
            read(&all)
        };
        assert_eq!(changed("version", json!(2)), Err(Untaken::Version));
        assert_eq!(changed("version", Value::Null), Err(Untaken::Form));
        assert_eq!(changed("type", json!("other")), Err(Untaken::Form));
        assert_eq!(changed("baseLevel", json!("secret")), Err(Untaken::Form));
        assert_eq!(changed("deadlineMs", json!(0)), Err(Untaken::Values));
        let falling = json!([
            "OwnHardware",
            "CloudDomestic",
            "RentedHardware",
            "OwnHardware"
        ]);
        assert_eq!(changed("minimumClass", falling), Err(Untaken::Values));
        let mut plain = pushed();
        plain["floor"]["url"] = json!("http://floor:8444");
        assert_eq!(read(&plain), Err(Untaken::Values));
        assert_eq!(
            Line::read(&vec![b' '; super::LONGEST + 1]),
            Err(Untaken::Form)
        );
        let only = json!({"floors": []});
        let found = Floors::read(only.to_string().as_bytes());
        assert_eq!(
            found,
            Err(Untaken::Version),
            "one without a version is older"
        );
    }

    #[test]
    fn floors_come_back_from_what_is_published() {
        let Ok(Line::Snapshot(pushed)) = read(&pushed()) else {
            panic!("a snapshot");
        };
        let floors = Floors::new(pushed.floor.into_iter().collect());
        assert_eq!(floors.floors.len(), 1);
        assert_eq!(Floors::read(floors.write().as_bytes()), Ok(floors));
    }
}
