//! Which pods get the sidecar, by labels. The chart's webhooks say the same with selectors, one webhook for each
//! case, so that the API server decides it from what it knows itself; here it is said again for whoever looks
//! for pods that were missed. A test asks both.

use std::collections::BTreeMap;

use mesh_crds::label;

use crate::world::MANAGED;

/// Value of the label on a namespace whose pods cannot opt out.
const REQUIRED: &str = "required";
/// Value of the label on a pod that opts out, and on a namespace in which no pod opts in.
const DISABLED: &str = "disabled";
/// Namespaces of Kubernetes itself begin so.
const KUBERNETES: &str = "kube-";

type Labels = BTreeMap<String, String>;

/// Who asked for the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The namespace; a pod may opt out.
    Namespace,
    /// The namespace, and no pod of it may opt out.
    Required,
    /// The pod, in a namespace that says nothing.
    Pod,
}

impl Asked {
    pub(crate) const ALL: [Self; 3] = [Self::Namespace, Self::Required, Self::Pod];

    const fn word(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Required => "required",
            Self::Pod => "pod",
        }
    }
}

/// One webhook of the chart: who asked, and whether the namespace is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) asked: Asked,
    pub(crate) confined: bool,
}

impl Case {
    /// Every case there is.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let both = |asked| [false, true].map(|confined| Self { asked, confined });
        Asked::ALL.into_iter().flat_map(both)
    }

    /// The path at which the API server asks in this case.
    pub(crate) fn path(self) -> String {
        let end = if self.confined { "/confined" } else { "" };
        format!("/inject/{}{end}", self.asked.word())
    }
}

fn word<'a>(labels: &'a Labels, key: &str) -> &'a str {
    labels.get(key).map_or("", String::as_str)
}

/// What the label of a pod says of itself.
pub(crate) fn pod_asks(labels: &Labels) -> bool {
    [label::ENABLED, REQUIRED].contains(&word(labels, label::INJECT))
}

/// True for a pod that says it wants no sidecar.
pub(crate) fn opted_out(labels: &Labels) -> bool {
    word(labels, label::INJECT) == DISABLED
}

/// True for a namespace in which no pod is ever touched.
pub(crate) fn never(home: &str, name: &str, labels: &Labels) -> bool {
    name == home || name.starts_with(KUBERNETES) || word(labels, label::MESH) == label::OWN
}

/// What a namespace asks for all of its pods.
pub(crate) fn namespace_asks(home: &str, name: &str, labels: &Labels) -> Option<Asked> {
    if never(home, name, labels) {
        return None;
    }
    match word(labels, label::INJECT) {
        label::ENABLED => Some(Asked::Namespace),
        REQUIRED => Some(Asked::Required),
        _ => None,
    }
}

/// Who asked that a pod carry the sidecar, if anybody did.
pub(crate) fn asked(home: &str, (name, namespace): (&str, &Labels), pod: &Labels) -> Option<Asked> {
    // What the operator makes serves models or proves something; it does not ask.
    if never(home, name, namespace) || word(pod, MANAGED.0) == MANAGED.1 {
        return None;
    }
    match namespace_asks(home, name, namespace) {
        Some(Asked::Namespace) => (!opted_out(pod)).then_some(Asked::Namespace),
        Some(asked) => Some(asked),
        None if word(namespace, label::INJECT) == DISABLED => None,
        None => pod_asks(pod).then_some(Asked::Pod),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Asked, Case, asked};

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn inject(value: &str) -> BTreeMap<String, String> {
        if value.is_empty() {
            return BTreeMap::new();
        }
        labels(&[("inferencemesh.dev/inject", value)])
    }

    #[test]
    fn a_namespace_asks_for_its_pods_and_a_pod_for_itself() {
        for (namespace, pod, expected) in [
            ("", "", None),
            ("", "enabled", Some(Asked::Pod)),
            ("", "disabled", None),
            ("", "yes", None),
            ("enabled", "", Some(Asked::Namespace)),
            ("enabled", "enabled", Some(Asked::Namespace)),
            ("enabled", "disabled", None),
            ("required", "", Some(Asked::Required)),
            ("required", "disabled", Some(Asked::Required)),
            ("disabled", "", None),
            ("disabled", "enabled", None),
            ("true", "enabled", Some(Asked::Pod)),
        ] {
            let found = asked("mesh-system", ("team", &inject(namespace)), &inject(pod));
            assert_eq!(found, expected, "namespace {namespace:?}, pod {pod:?}");
        }
    }

    #[test]
    fn some_namespaces_and_the_operators_own_pods_are_never_touched() {
        let (namespace, pod) = (inject("required"), inject("enabled"));
        for never in ["mesh-system", "kube-system", "kube-anything"] {
            let found = asked("mesh-system", (never, &namespace), &pod);
            assert_eq!(found, None, "{never}");
        }
        let own = labels(&[
            ("inferencemesh.dev/inject", "required"),
            ("inferencemesh.dev/mesh", "own"),
        ]);
        assert_eq!(asked("mesh-system", ("team", &own), &pod), None);
        let ours = labels(&[("app.kubernetes.io/managed-by", "mesh-operator")]);
        assert_eq!(asked("mesh-system", ("team", &namespace), &ours), None);
    }

    #[test]
    fn every_case_has_a_path_of_its_own() {
        let paths: std::collections::BTreeSet<String> = Case::all().map(Case::path).collect();
        assert_eq!(paths.len(), 6);
        assert!(paths.contains("/inject/pod/confined"), "{paths:?}");
    }
}
