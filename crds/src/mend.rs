//! What stands in for a policy, or for a part of it, that cannot be used any more: always something
//! stricter. A cluster changes around an accepted policy (the floor it names goes, a release reads less than
//! the last), and its prohibitions must not go with it.
//!
//! Refuses to guess: a part that cannot be read is replaced by the strictest thing it could have said, and
//! what only prefers is left out.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// Groups of a policy that hold or open something; everything else prefers, names or records.
const HARD: [&str; 6] = [
    "selector",
    "ownership",
    "defaults",
    "constraints",
    "classification",
    "audit",
];

/// Groups whose loss opens nothing: preferences, names, and what opens itself.
const SOFT: [&str; 10] = [
    "weights",
    "privacyWeight",
    "references",
    "preferLocal",
    "overrides",
    "failover",
    "floor",
    "egress",
    "concentration",
    "tests",
];

/// A policy that selects the same as `spec` and allows owned hardware only. It says nothing else.
pub fn stand_in(selector: Option<&Value>) -> Value {
    let mut spec = json!({"constraints": owned_only()});
    if let Some(selector) = selector.filter(|value| !value.is_null()) {
        spec["selector"] = selector.clone();
    }
    spec
}

/// The top-level groups of a spec in which errors were found; `None` if some error belongs to no group.
pub fn faulty_groups(problems: &[Problem]) -> Option<BTreeSet<String>> {
    let group = |problem: &Problem| {
        let field = problem.field.strip_prefix("spec.")?;
        let end = field.find(['.', '[']).unwrap_or(field.len());
        Some(field[..end].to_owned())
    };
    problems
        .iter()
        .filter(|problem| problem.error())
        .map(group)
        .collect()
}

/// `spec` without the faulty groups: each is replaced by the strictest thing it could have said. With
/// `None` every group that only prefers goes, since one of them is at fault. `home`: the policy is one of
/// the mesh namespace, the only ones whose ownership counts.
pub fn stricter(spec: &Value, faulty: Option<&BTreeSet<String>>, home: bool) -> Value {
    let mut mended = Map::new();
    for (name, value) in spec.as_object().into_iter().flatten() {
        let good = match faulty {
            Some(faulty) => !faulty.contains(name),
            None => HARD.contains(&name.as_str()),
        };
        if good {
            mended.insert(name.clone(), value.clone());
        }
    }
    let lost = |name: &str| spec.get(name).is_some() && !mended.contains_key(name);
    // Whom it selects is not known: then everybody, and owned hardware only.
    if lost("selector") {
        return stand_in(None);
    }
    // Several intersect: this one leaves nothing.
    if lost("ownership") && home {
        mended.insert(String::from("ownership"), json!({}));
    }
    let strictest = [
        ("defaults", json!({"privacy": "Restricted"})),
        ("classification", json!({"incompleteLevel": "Restricted"})),
        ("audit", json!({"durableFrom": "Public"})),
    ];
    for (name, value) in strictest {
        if spec.get(name).is_some() && !mended.contains_key(name) {
            mended.insert(name.to_owned(), value);
        }
    }
    let kept = |name: &String| mended.contains_key(name) || SOFT.contains(&name.as_str());
    let all_kept = spec.as_object().is_none_or(|spec| {
        let mut others = spec.keys().filter(|name| *name != "ownership");
        others.all(kept)
    });
    if !all_kept {
        let constraints = mended
            .entry("constraints")
            .or_insert_with(|| Value::Object(Map::new()));
        constraints["minimumClass"] = owned_only()["minimumClass"].clone();
    }
    Value::Object(mended)
}

fn owned_only() -> Value {
    let own = "OwnHardware";
    json!({"minimumClass": {"restricted": own, "confidential": own, "internal": own, "public": own}})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::{stand_in, stricter};
    use crate::{Home, parse_for};

    fn groups(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_policy_without_its_floor_keeps_everything_else() {
        let spec = json!({"ownership": {"homeJurisdictions": ["DE"]}, "defaults": {"privacy": "Public"}, "floor": {"backendRef": {"name": "gone"}}, "failover": {"maxAttempts": 2}});
        let mended = stricter(&spec, Some(&groups(&["floor"])), true);
        assert_eq!(
            mended,
            json!({"ownership": {"homeJurisdictions": ["DE"]}, "defaults": {"privacy": "Public"}, "failover": {"maxAttempts": 2}})
        );
        assert_eq!(
            stricter(&spec, None, true),
            json!({"ownership": {"homeJurisdictions": ["DE"]}, "defaults": {"privacy": "Public"}})
        );
    }

    #[test]
    fn a_hard_group_that_cannot_be_read_becomes_the_strictest_it_could_have_been() {
        let spec = json!({"ownership": {"networks": ["?"]}, "defaults": {"privacy": "?"}, "constraints": {"?": 1}, "classification": {"?": 1}, "audit": {"?": 1}});
        let all = groups(&[
            "ownership",
            "defaults",
            "constraints",
            "classification",
            "audit",
        ]);
        let mended = stricter(&spec, Some(&all), true);
        assert_eq!(mended["ownership"], json!({}));
        assert_eq!(mended["defaults"]["privacy"], "Restricted");
        assert_eq!(
            mended["constraints"]["minimumClass"]["public"],
            "OwnHardware"
        );
        assert_eq!(mended["classification"]["incompleteLevel"], "Restricted");
        assert_eq!(mended["audit"]["durableFrom"], "Public");
        assert!(
            stricter(&spec, Some(&all), false)
                .get("ownership")
                .is_none()
        );
        let selector = json!({"selector": {"?": 1}, "constraints": {"minimumClass": {"public": "CloudRetained"}}});
        assert_eq!(
            stricter(&selector, Some(&groups(&["selector"])), true),
            stand_in(None)
        );
    }

    #[test]
    fn a_group_that_nobody_knows_may_have_been_a_prohibition() {
        let spec = json!({"constraints": {"licenses": {"deny": ["MIT"]}}, "future": {"a": 1}, "weights": {}});
        let mended = stricter(&spec, Some(&groups(&["future"])), true);
        assert_eq!(mended["constraints"]["licenses"], json!({"deny": ["MIT"]}));
        assert_eq!(
            mended["constraints"]["minimumClass"]["public"],
            "OwnHardware"
        );
        let mended = stricter(&spec, Some(&groups(&["weights"])), true);
        assert!(
            mended["constraints"].get("minimumClass").is_none(),
            "{mended}"
        );
    }

    #[test]
    fn everything_that_stands_in_can_itself_be_read() {
        let all = groups(&[
            "ownership",
            "defaults",
            "constraints",
            "classification",
            "audit",
        ]);
        let spec = json!({"ownership": 1, "defaults": 1, "constraints": 1, "classification": 1, "audit": 1});
        let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
        for spec in [
            stricter(&spec, Some(&all), true),
            stand_in(None),
            stand_in(Some(&selector)),
        ] {
            let policy = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"name": "p", "namespace": "n"}, "spec": spec});
            let parsed = parse_for(Home::Cluster, "it", &policy.to_string());
            assert!(
                parsed.usable() && parsed.documents.len() == 1,
                "{spec}: {:?}",
                parsed.problems
            );
        }
    }
}
