//! Rights granted and rights used are the same, by the API server's own record of the whole story.

use std::collections::BTreeSet;

use mesh_e2e::rights::ELSEWHERE;
use serde_json::Value;

use crate::chapter::install::text;
use crate::world::{HOME, World};

/// `verb resource`, as rules grant them and the record has them.
fn granted(world: &World, component: &str) -> BTreeSet<String> {
    let cluster = world.get(&[&format!("clusterrole/mesh-{component}")]);
    let roles = world.get(&["roles", "-n", HOME]);
    let own =
        roles["items"].as_array().unwrap().iter().filter(|role| {
            text(&role["metadata"]["name"]).starts_with(&format!("mesh-{component}"))
        });
    let all_rules = own
        .chain([&cluster])
        .flat_map(|role| role["rules"].as_array().unwrap());
    let words = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|word| text(word).to_owned())
            .collect()
    };
    let mut all = BTreeSet::new();
    for rule in all_rules {
        for verb in words(&rule["verbs"]) {
            all.extend(
                words(&rule["resources"])
                    .iter()
                    .map(|resource| format!("{verb} {resource}")),
            );
        }
    }
    all
}

fn used(record: &str, component: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let user = format!("system:serviceaccount:{HOME}:mesh-{component}");
    let (mut fine, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in record.lines().filter(|line| line.contains(&user)) {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let object = &event["objectRef"];
        if text(&event["user"]["username"]) != user || object["resource"].is_null() {
            continue;
        }
        let part = object["subresource"]
            .as_str()
            .map(|part| format!("/{part}"))
            .unwrap_or_default();
        let right = format!(
            "{} {}{part}",
            text(&event["verb"]),
            text(&object["resource"])
        );
        let forbidden = text(&event["annotations"]["authorization.k8s.io/decision"]) == "forbid";
        if forbidden {
            refused.insert(right)
        } else {
            fine.insert(right)
        };
    }
    (fine, refused)
}

pub(crate) fn used_are_granted(world: &World) {
    let record = std::fs::read_to_string(world.cluster.audit_log()).unwrap();
    for component in ["operator", "gateway"] {
        let granted = granted(world, component);
        let (used, refused) = used(&record, component);
        assert!(
            !granted.iter().any(|right| right.contains('*')),
            "{granted:?}"
        );
        // An API server that has just started refuses what it has not read yet; that is no lack.
        let lacking: Vec<&String> = refused.difference(&granted).collect();
        assert!(lacking.is_empty(), "{component} lacks {lacking:?}");
        // Creating by server-side apply is a patch that needs both rights.
        let idle = |right: &&String| {
            let patch = right
                .strip_prefix("create ")
                .map(|resource| format!("patch {resource}"));
            !used.contains(*right)
                && !ELSEWHERE.iter().any(|one| one.right == right.as_str())
                && !patch.is_some_and(|patch| used.contains(&patch))
        };
        let idle: Vec<&String> = granted.iter().filter(idle).collect();
        assert!(
            idle.is_empty(),
            "{component} does not need {idle:?}; it used {used:?}"
        );
        println!(
            "  {component}: {} rights granted, {} used",
            granted.len(),
            used.len()
        );
    }
}
