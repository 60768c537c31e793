//! What has to be looked at again after a change. A change whose reach is not known here means everything,
//! so a kind that is watched anew is at worst slow and never overlooked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_crds::label;
use mesh_watch::{Listener, Touched};
use tokio::time::Instant;

/// Namespace and name of a backend.
pub(crate) type Id = (String, String);

/// What changed since it was last taken.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Everything has to be looked at.
    pub(crate) everything: bool,
    backends: BTreeSet<Id>,
    /// Every backend in these.
    namespaces: BTreeSet<String>,
    /// When the first of it came.
    pub(crate) since: Option<Instant>,
}

impl Changes {
    /// All there is.
    pub(crate) fn whole(self) -> Self {
        Self {
            everything: true,
            ..self
        }
    }

    /// True if this backend has to be looked at.
    pub(crate) fn includes(&self, id: &Id) -> bool {
        self.everything || self.namespaces.contains(&id.0) || self.backends.contains(id)
    }

    fn add(&mut self, touched: Touched<'_>) {
        self.since.get_or_insert_with(Instant::now);
        let Touched::Object {
            kind,
            namespace,
            name,
            labels,
        } = touched
        else {
            self.everything = true;
            return;
        };
        let backend = labels.get(label::BACKEND);
        match (kind, backend) {
            ("InferenceBackend", _) => {
                self.backends
                    .insert((namespace.to_owned(), name.to_owned()));
            }
            // A backend's children and pods.
            (_, Some(backend)) => {
                self.backends
                    .insert((namespace.to_owned(), backend.clone()));
            }
            ("ModelCache", None) => {
                self.namespaces.insert(namespace.to_owned());
            }
            // They are asked in their own time.
            ("Pod", None) if is_gateway(labels) => {}
            // Applications come and go; no pass looks at their pods.
            ("Pod", None) if labels.contains_key(label::INJECTED) => {}
            // Every pass looks at all policies.
            ("ControllerRevision", None) => {}
            ("Job" | "Pod", None) if labels.contains_key(label::CANARY) => {}
            _ => self.everything = true,
        }
    }
}

fn is_gateway(labels: &BTreeMap<String, String>) -> bool {
    labels
        .get("app.kubernetes.io/component")
        .is_some_and(|component| component == "gateway")
}

/// Collects changes until they are taken. All clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Changes>>);

impl Collector {
    pub(crate) fn listener(&self) -> Listener {
        let collector = self.clone();
        Arc::new(move |touched| collector.lock().add(touched))
    }

    /// What changed; from now on it is collected anew.
    pub(crate) fn take(&self) -> Changes {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_crds::label;
    use mesh_watch::Touched;

    use super::Changes;

    fn after(kind: &str, labels: &[(&str, &str)]) -> Changes {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut changes = Changes::default();
        changes.add(Touched::Object {
            kind,
            namespace: "a",
            name: "x",
            labels: &labels,
        });
        changes
    }

    fn id(namespace: &str, name: &str) -> (String, String) {
        (namespace.to_owned(), name.to_owned())
    }

    #[test]
    fn a_change_reaches_as_far_as_it_may_matter_and_an_unknown_one_everywhere() {
        let own = after("InferenceBackend", &[]);
        assert!(own.includes(&id("a", "x")) && !own.includes(&id("a", "y")));
        let child = after("Deployment", &[(label::BACKEND, "y")]);
        assert!(child.includes(&id("a", "y")) && !child.includes(&id("a", "x")));
        let cache = after("ModelCache", &[]);
        assert!(cache.includes(&id("a", "y")) && !cache.includes(&id("b", "y")));
        for kind in ["SovereigntyPolicy", "ConfigMap", "Node"] {
            assert!(after(kind, &[]).includes(&id("b", "y")));
        }
        assert!(!after("ControllerRevision", &[]).includes(&id("a", "x")));
        let gateway = [("app.kubernetes.io/component", "gateway")];
        assert!(!after("Pod", &gateway).includes(&id("a", "x")));
        assert!(!after("Pod", &[(label::INJECTED, "true")]).includes(&id("a", "x")));
        assert!(after("Pod", &[]).includes(&id("a", "x")));
        assert!(!after("Pod", &[(label::CANARY, "all")]).includes(&id("a", "x")));
    }

    #[test]
    fn a_kind_that_was_listed_anew_means_everything() {
        let mut changes = Changes::default();
        changes.add(Touched::Listed("Pod"));
        assert!(changes.includes(&id("a", "x")) && changes.since.is_some());
    }
}
