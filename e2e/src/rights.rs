//! Rights of the operator that the story on real nodes does not come to, and which other story uses them. So
//! granted and used are compared over all stories, though each runs alone: the one on real nodes lets these
//! pass, and the one that is named fails if it did not use its own.

use std::collections::BTreeSet;

use anyhow::Result;
use mesh_cluster::Cluster;
use serde_json::Value;

use crate::operator::USER;

/// A right, as `verb resource`, and who uses it.
#[derive(Debug, Clone, Copy)]
pub struct Elsewhere {
    /// As rules grant it and the record has it.
    pub right: &'static str,
    /// The test program that uses it; none where only this reason is given.
    pub program: Option<&'static str>,
    /// What it is for.
    pub why: &'static str,
}

const fn used(right: &'static str, program: &'static str, why: &'static str) -> Elsewhere {
    Elsewhere {
        right,
        program: Some(program),
        why,
    }
}

const fn unused(right: &'static str, why: &'static str) -> Elsewhere {
    Elsewhere {
        right,
        program: None,
        why,
    }
}

const CONFLICTS: &str = "operator_conflicts";
const ACCELERATORS: &str = "accelerators";
const CHANGED: &str = "what was created and then changed by hand";
const BECAME: &str = "a backend that had pods and became something else";
const OWNER: &str = "no request has this name: an admission plugin of test clusters asks for it where an owner is named that blocks its deletion";
const CLAIMS: &str = "accelerators by DeviceClass, which only fake nodes have";

/// All of them.
pub const ELSEWHERE: &[Elsewhere] = &[
    used("patch services", CONFLICTS, CHANGED),
    used("patch serviceaccounts", CONFLICTS, CHANGED),
    used("patch networkpolicies", CONFLICTS, CHANGED),
    used("patch configmaps", CONFLICTS, CHANGED),
    used("delete deployments", CONFLICTS, BECAME),
    used("delete networkpolicies", CONFLICTS, BECAME),
    used("delete services", CONFLICTS, BECAME),
    used("delete serviceaccounts", CONFLICTS, BECAME),
    used("patch poddisruptionbudgets", CONFLICTS, CHANGED),
    used("patch statefulsets", CONFLICTS, CHANGED),
    used("delete statefulsets", CONFLICTS, BECAME),
    used("patch persistentvolumeclaims", CONFLICTS, CHANGED),
    used(
        "delete persistentvolumeclaims",
        CONFLICTS,
        "a cache that no longer keeps its files in a volume",
    ),
    used(
        "delete jobs",
        CONFLICTS,
        "a Job that failed and rested, or is for a spec that was changed",
    ),
    used("update secrets", CONFLICTS, "an authority lives for years"),
    used(
        "delete controllerrevisions",
        CONFLICTS,
        "a policy that was changed more often than specs are kept",
    ),
    used("create resourceclaimtemplates", ACCELERATORS, CLAIMS),
    used("delete resourceclaimtemplates", ACCELERATORS, CLAIMS),
    unused("update inferencebackends/finalizers", OWNER),
    unused("update sovereigntypolicies/finalizers", OWNER),
];

fn recorded(cluster: &Cluster, user: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(cluster.audit_log())?;
    let lines = text.lines().filter(|line| line.contains(user));
    let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    // In a given cluster its owner acts as the user.
    let who = |event: &Value| {
        event["user"]["username"] == user || event["impersonatedUser"]["username"] == user
    };
    Ok(events.filter(who).collect())
}

/// Requests of the operator that the API server of a cluster has answered so far, oldest first.
///
/// # Errors
/// If its record cannot be read.
pub fn asked(cluster: &Cluster) -> Result<Vec<Value>> {
    asked_by(cluster, USER)
}

/// The same of any user.
///
/// # Errors
/// If its record cannot be read.
pub fn asked_by(cluster: &Cluster, user: &str) -> Result<Vec<Value>> {
    let mut all = recorded(cluster, user)?;
    all.retain(|event| event["stage"] == "ResponseComplete");
    Ok(all)
}

/// Rights that a test program has to use and has not used in its cluster.
///
/// # Errors
/// If the record of its API server cannot be read.
pub fn idle(program: &str, cluster: &Cluster) -> Result<Vec<&'static str>> {
    // A watch that goes on has begun to be answered.
    let events = recorded(cluster, USER)?;
    let right = |event: &Value| Some(line(event).rsplit_once(' ')?.0.to_owned());
    let used: BTreeSet<String> = events.iter().filter_map(right).collect();
    let own = ELSEWHERE
        .iter()
        .filter(|one| one.program == Some(program) && !used.contains(one.right));
    Ok(own.map(|one| one.right).collect())
}

/// A request as `verb resource[/subresource] namespace/name`.
pub(crate) fn line(event: &Value) -> String {
    let object = &event["objectRef"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let part = object["subresource"].as_str();
    let part = part.map(|part| format!("/{part}")).unwrap_or_default();
    format!(
        "{} {}{part} {}/{}",
        word(&event["verb"]),
        word(&object["resource"]),
        word(&object["namespace"]),
        word(&object["name"])
    )
}
