//! Events of Kubernetes (`events.k8s.io/v1`) about any object: what `kubectl describe` shows. An event is told
//! once: a pass that sees the same again is silent. What went away and came again may be told again, after a
//! while, so that whatever goes to and fro does not flood. Refuses to fail a pass: an event that cannot be
//! written is logged.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use mesh_crds::Kind;
use tokio::time::Instant;

use crate::apply::resource;
use crate::status::cut;

/// Who tells.
const CONTROLLER: &str = "mesh-operator";
/// Events remembered, so that none is told twice. More than are so at one time: see `inject::look`.
pub(crate) const REMEMBERED: usize = 4096;
/// The same transition of the same object is told again after this time at the earliest.
const AGAIN: Duration = Duration::from_mins(10);
/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1024;

/// One thing that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Story {
    /// Somebody should look.
    warning: bool,
    /// What happened, as one PascalCase word.
    reason: String,
    /// What was being done, as one PascalCase word.
    action: &'static str,
    /// What happened, for people. Never a secret, never the text of a request.
    note: String,
    /// It is the change that is told, which may come again; else the fact, which is told once.
    change: bool,
}

impl Story {
    /// As it should be.
    pub(crate) fn normal(reason: &str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.to_owned(),
            action,
            note: note.into(),
            change: false,
        }
    }

    /// Somebody should look.
    pub(crate) fn warning(reason: &str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::normal(reason, action, note)
        }
    }

    /// The same as a change: told by whoever saw how it was before, and so never of a steady state.
    pub(crate) fn change(self) -> Self {
        Self {
            change: true,
            ..self
        }
    }
}

/// Tells of what happens to objects. All clones know what was told.
#[derive(Clone)]
pub(crate) struct Events {
    client: Client,
    reporter: Reporter,
    told: Arc<Mutex<Told>>,
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
            told: Arc::default(),
        }
    }

    /// Tells a story of an object of one of our kinds, unless it was told.
    pub(crate) async fn tell(&self, object: &DynamicObject, story: &Story) {
        let types = object.types.as_ref();
        if let Some(kind) = types.and_then(|types| Kind::named(&types.kind)) {
            self.tell_of(&object.object_ref(&resource(kind)), story)
                .await;
        }
    }

    /// Tells a story of whatever is referred to, unless it was told. What has no namespace is told of in
    /// `default`.
    pub(crate) async fn tell_of(&self, about: &ObjectReference, story: &Story) {
        let first = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.first(about, story, Instant::now())
        };
        if !first {
            return;
        }
        let event = Event {
            type_: if story.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: story.reason.clone(),
            note: Some(cut(&story.note, LONGEST_NOTE).to_owned()),
            action: story.action.to_owned(),
            secondary: None,
        };
        // A recorder joins events of one reason and forgets the notes of all but the first, so it gets no
        // time to: what was told is known here.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(&event, about).await {
            // A namespace that is going away takes no events.
            tracing::info!(%error, reason = story.reason, name = about.name, "an event could not be written");
        }
    }
}

/// What was told, and when; what nobody has spoken of for longest comes first, and is forgotten first. So what is
/// so all the time is told once, however much else comes and goes.
#[derive(Default)]
struct Told(VecDeque<(u64, Instant)>);

impl Told {
    /// False if it was told before.
    fn first(&mut self, about: &ObjectReference, story: &Story, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        (&about.kind, &about.namespace, &about.name).hash(&mut hasher);
        (&about.uid, &story.reason, &story.note).hash(&mut hasher);
        let key = hasher.finish();
        let place = self.0.iter().position(|(told, _)| *told == key);
        if let Some((_, told)) = place.and_then(|place| self.0.remove(place)) {
            let again = story.change && now.saturating_duration_since(told) >= AGAIN;
            self.0.push_back((key, if again { now } else { told }));
            return again;
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((key, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use tokio::time::Instant;

    use super::{AGAIN, REMEMBERED, Story, Told};

    fn about(uid: &str) -> ObjectReference {
        ObjectReference {
            kind: Some(String::from("Pod")),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn a_fact_is_told_once_and_a_change_again_after_a_while() {
        let (mut told, now) = (Told::default(), Instant::now());
        let fact = Story::warning("Lost", "Look", "it is gone");
        assert!(told.first(&about("a"), &fact, now));
        assert!(!told.first(&about("a"), &fact, now + 2 * AGAIN));
        assert!(told.first(&about("b"), &fact, now), "another object");
        let other = Story::warning("Lost", "Look", "that one is gone");
        assert!(told.first(&about("a"), &other, now), "another note");

        let change = Story::normal("Back", "Look", "it is back").change();
        assert!(told.first(&about("a"), &change, now));
        assert!(!told.first(&about("a"), &change, now + AGAIN / 2));
        assert!(told.first(&about("a"), &change, now + AGAIN));
        assert!(!told.first(&about("a"), &change, now + AGAIN + AGAIN / 2));
    }

    #[test]
    fn what_is_so_all_the_time_is_told_once_however_much_else_comes_and_goes() {
        let (mut told, now) = (Told::default(), Instant::now());
        let fact = Story::warning("SidecarMissing", "Inject", "it has none");
        let lasting: Vec<String> = (0..100).map(|number| format!("lasting-{number}")).collect();
        for uid in &lasting {
            assert!(told.first(&about(uid), &fact, now));
        }
        for round in 0..20 {
            for number in 0..REMEMBERED / 2 {
                let passing = about(&format!("passing-{round}-{number}"));
                assert!(told.first(&passing, &fact, now));
            }
            for uid in &lasting {
                assert!(
                    !told.first(&about(uid), &fact, now),
                    "{uid} in round {round}"
                );
            }
        }
        assert_eq!(told.0.len(), REMEMBERED);
    }

    #[test]
    fn as_much_is_remembered_as_fits() {
        let (mut told, now) = (Told::default(), Instant::now());
        let fact = Story::normal("Seen", "Look", "");
        for number in 0..=REMEMBERED {
            assert!(told.first(&about(&number.to_string()), &fact, now));
        }
        assert_eq!(told.0.len(), REMEMBERED);
        assert!(
            told.first(&about("0"), &fact, now),
            "the oldest is forgotten"
        );
    }
}
