//! Events of Kubernetes (`events.k8s.io/v1`) about the objects of the kinds: what `kubectl describe` shows.
//! An event is told once: a pass that sees the same again is silent. Refuses to fail a pass: an event that
//! cannot be written is logged.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use kube::api::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use mesh_crds::Kind;

use crate::apply::resource;

/// Who tells.
const CONTROLLER: &str = "mesh-operator";
/// Events remembered, so that none is told twice.
const REMEMBERED: usize = 4096;
/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1024;

/// One thing that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Story {
    /// Somebody should look.
    pub(crate) warning: bool,
    /// What happened, as one PascalCase word.
    pub(crate) reason: String,
    /// What was being done, as one PascalCase word.
    pub(crate) action: &'static str,
    /// What happened, for people. Never a secret, never the text of a request.
    pub(crate) note: String,
}

/// Tells of what happens to objects.
pub(crate) struct Events {
    client: Client,
    reporter: Reporter,
    told: Mutex<VecDeque<u64>>,
}

impl Events {
    /// `instance` is the name of this replica.
    pub(crate) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            client,
            reporter,
            told: Mutex::default(),
        }
    }

    /// Tells a story of an object, unless it was told.
    pub(crate) async fn tell(&self, object: &DynamicObject, story: &Story) {
        let types = object.types.clone().unwrap_or_default();
        let Some(kind) = Kind::named(&types.kind) else {
            return;
        };
        if !self.remember(object, story) {
            return;
        }
        let event = Event {
            type_: if story.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: story.reason.clone(),
            note: Some(cut(&story.note).to_owned()),
            action: story.action.to_owned(),
            secondary: None,
        };
        let about = object.object_ref(&resource(kind));
        // A recorder joins events of one reason and forgets the notes of all but the first, so it gets no
        // time to: what was told is known here.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(&event, &about).await {
            // A namespace that is going away takes no events.
            tracing::info!(%error, reason = story.reason, name = object.name_any(), "an event could not be written");
        }
    }

    /// False if it was told before.
    fn remember(&self, object: &DynamicObject, story: &Story) -> bool {
        let mut hasher = DefaultHasher::new();
        object.uid().hash(&mut hasher);
        story.reason.hash(&mut hasher);
        story.note.hash(&mut hasher);
        let key = hasher.finish();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.contains(&key) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.pop_front();
        }
        told.push_back(key);
        true
    }
}

/// As much as an event may hold.
fn cut(note: &str) -> &str {
    let end = (0..=note.len().min(LONGEST_NOTE))
        .rev()
        .find(|at| note.is_char_boundary(*at));
    &note[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_NOTE, cut};

    #[test]
    fn a_note_is_cut_between_characters() {
        let long = "ä".repeat(LONGEST_NOTE);
        assert_eq!(cut(&long).len(), LONGEST_NOTE);
        assert_eq!(cut(&format!("x{long}")).len(), LONGEST_NOTE - 1);
        assert_eq!(cut("short"), "short");
    }
}
