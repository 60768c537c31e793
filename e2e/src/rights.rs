//! Rights of the operator that the story on real nodes does not come to, and which other story uses them. So
//! granted and used are compared over all stories, though each runs alone: the one on real nodes lets these
//! pass, and the one that is named fails if it did not use its own.

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
const CHANGED: &str = "what was created and then changed by hand";
const BECAME: &str = "a backend that had pods and became something else";
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
    unused("patch poddisruptionbudgets", CHANGED),
    unused("create statefulsets", "pods with a volume of their own"),
    unused("patch statefulsets", CHANGED),
    unused("delete statefulsets", BECAME),
    unused("list resourceclaimtemplates", CLAIMS),
    unused("watch resourceclaimtemplates", CLAIMS),
    unused("create resourceclaimtemplates", CLAIMS),
    unused("delete resourceclaimtemplates", CLAIMS),
    unused(
        "delete persistentvolumeclaims",
        "a cache that no longer keeps its files in a volume",
    ),
    unused(
        "patch persistentvolumeclaims",
        "a cache that keeps them in a larger one",
    ),
    unused(
        "delete jobs",
        "a Job that failed and rested, or is for a spec that was changed",
    ),
    unused("update secrets", "an authority lives for years"),
    unused(
        "delete controllerrevisions",
        "nobody changed a policy six times",
    ),
    unused(
        "update inferencebackends/finalizers",
        "with an admission plugin that test clusters have not",
    ),
    unused(
        "update sovereigntypolicies/finalizers",
        "with an admission plugin that test clusters have not",
    ),
];

/// Rights that a test program has to use.
pub fn of(program: &str) -> impl Iterator<Item = &'static str> {
    let own = ELSEWHERE
        .iter()
        .filter(move |one| one.program == Some(program));
    own.map(|one| one.right)
}
