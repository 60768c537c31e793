//! Objects that the API server refused: tried again ever later, and at once when they themselves change. News of
//! others would else make every pass try all of them again. What is made of no single object (whom to trust, what
//! confines) goes by its name and by what it shall be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use crate::apply::Error;
use crate::world::Read;

/// Kind, namespace and name.
pub(crate) type Key = (String, String, String);
/// Of which object, and of which of its specs.
pub(crate) type Version = (Option<String>, Option<i64>);

/// One object.
struct Setback {
    of: Version,
    attempts: u32,
    until: Instant,
    /// Why it was refused.
    why: String,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Setbacks(BTreeMap<Key, Setback>);

impl Setbacks {
    /// True if it is too early to try it again.
    pub(super) fn rests(&self, read: &Read, now: Instant) -> bool {
        self.resting(&key(read), &version(read), now).is_some()
    }

    /// Why it was refused the last time, if it is too early to try it again.
    pub(crate) fn resting(&self, key: &Key, of: &Version, now: Instant) -> Option<&str> {
        let found = self.0.get(key)?;
        (found.of == *of && now < found.until).then_some(found.why.as_str())
    }

    /// What came of trying it.
    pub(super) fn note(&mut self, read: &Read, outcome: &Result<(), Error>, now: Instant) {
        self.noted(key(read), version(read), outcome, now);
    }

    /// The same by name.
    pub(crate) fn noted(
        &mut self,
        key: Key,
        of: Version,
        outcome: &Result<(), Error>,
        now: Instant,
    ) {
        let Err(error) = outcome else {
            self.0.remove(&key);
            return;
        };
        // What the API server could not do may be done at once; what it will not do, hardly. That it refused before is
        // over: a time that has come and is not waited for anew would begin pass after pass.
        if !error.refused() {
            self.0.remove(&key);
            return;
        }
        let attempts = match self.0.get(&key) {
            Some(one) if one.of == of => one.attempts.saturating_add(1),
            _ => 1,
        };
        let until = now + super::rest(attempts);
        self.0.insert(
            key,
            Setback {
                of,
                attempts,
                until,
                why: error.to_string(),
            },
        );
    }

    /// Its time has come, and something else kept it from being tried.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// How long until the first may be tried again.
    pub(crate) fn first(&self, now: Instant) -> Option<Duration> {
        let due = self.0.values().map(|one| one.until).min()?;
        // One that is due is tried by the pass that begins now.
        Some(due.saturating_duration_since(now).max(super::DEBOUNCE))
    }

    /// Forgets those that are gone or going: nobody tries them any more, so that nobody waits for their time.
    pub(super) fn keep<'a>(&mut self, all: impl Iterator<Item = &'a Read>) {
        if self.0.is_empty() {
            return;
        }
        let there: BTreeSet<Key> = all.filter(|read| !read.deleted()).map(key).collect();
        self.only(&there);
    }

    /// Forgets all but these.
    pub(crate) fn only(&mut self, there: &BTreeSet<Key>) {
        self.0.retain(|key, _| there.contains(key));
    }
}

fn key(read: &Read) -> Key {
    let kind = read.raw.types.as_ref();
    (
        kind.map(|types| types.kind.clone()).unwrap_or_default(),
        read.namespace(),
        read.name(),
    )
}

fn version(read: &Read) -> (Option<String>, Option<i64>) {
    (read.raw.uid(), read.raw.metadata.generation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tokio::time::Instant;

    use super::{Error, Read, Setbacks};
    use crate::pass::RETRY;

    fn read(generation: i64) -> Read {
        let object = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend",
            "metadata": {"namespace": "a", "name": "b", "uid": "u", "generation": generation}, "spec": {}});
        Read::new(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn error(code: u16) -> Error {
        let status = json!({"status": "Failure", "message": "no", "reason": "", "code": code});
        Error::Write {
            what: String::from("it"),
            source: Box::new(kube::Error::Api(serde_json::from_value(status).unwrap())),
        }
    }

    #[test]
    fn what_is_refused_rests_longer_each_time_and_not_once_it_is_changed() {
        let (mut all, now) = (Setbacks::default(), Instant::now());
        assert!(!all.rests(&read(1), now));
        all.note(&read(1), &Err(error(422)), now);
        assert!(all.rests(&read(1), now + RETRY));
        assert_eq!(all.first(now), Some(2 * RETRY));
        assert!(!all.rests(&read(1), now + 2 * RETRY));
        all.note(&read(1), &Err(error(403)), now);
        assert!(all.rests(&read(1), now + 3 * RETRY));
        assert!(!all.rests(&read(2), now), "somebody mended it");
        all.note(&read(1), &Ok(()), now);
        assert!(!all.rests(&read(1), now));
    }

    #[test]
    fn what_is_made_of_no_object_rests_until_it_shall_be_something_else() {
        let (mut all, now) = (Setbacks::default(), Instant::now());
        let key = |namespace: &str| {
            (
                String::from("ConfigMap"),
                namespace.to_owned(),
                String::from("mesh-trust"),
            )
        };
        let of = |digest: &str| (Some(digest.to_owned()), None);
        all.noted(key("a"), of("one"), &Err(error(403)), now);
        assert!(
            all.resting(&key("a"), &of("one"), now)
                .is_some_and(|why| why.contains("no"))
        );
        assert_eq!(
            all.resting(&key("a"), &of("two"), now),
            None,
            "it shall be something else"
        );
        assert_eq!(all.resting(&key("b"), &of("one"), now), None);
        all.only(&std::collections::BTreeSet::from([key("b")]));
        assert_eq!(all.resting(&key("a"), &of("one"), now), None);
    }

    #[test]
    fn what_could_not_be_done_is_not_held_against_an_object() {
        let (mut all, now) = (Setbacks::default(), Instant::now());
        for code in [409, 429, 500, 503] {
            all.note(&read(1), &Err(error(code)), now);
        }
        assert!(!all.rests(&read(1), now));
        all.note(&read(1), &Err(error(403)), now);
        let due = now + 2 * RETRY;
        all.note(&read(1), &Err(error(503)), due);
        assert_eq!(all.first(due), None, "its time has come and gone");
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (mut all, now) = (Setbacks::default(), Instant::now());
        all.note(&read(1), &Err(error(422)), now);
        all.keep(std::iter::empty());
        assert!(!all.rests(&read(1), now));
        all.note(&read(1), &Err(error(422)), now);
        let mut going = (*read(1).raw).clone();
        let since = serde_json::from_value(json!("2026-01-01T00:00:00Z"));
        going.metadata.deletion_timestamp = since.unwrap();
        all.keep([Read::new(Arc::new(going))].iter());
        assert_eq!(all.first(now), None, "no pass is made for its sake");
    }
}
