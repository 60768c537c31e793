//! Rights granted and rights used: what the rules of a component allow, where and for which objects, against what the API
//! server was asked. A right over the cluster that only the mesh's own namespace needs is one too many, and so is one over
//! a name that nobody asks for.
//!
//! And rights of the operator that the story on real nodes does not come to, with the story that uses them. So
//! granted and used are compared over all stories, though each runs alone: the one on real nodes lets these
//! pass, and the one that is named fails if it did not use its own.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use mesh_cluster::Cluster;
use serde_json::Value;

use crate::operator::{HOME, USER};

/// What a rule allows, or a request asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `verb resource[/subresource]`.
    pub what: String,
    /// The only namespace that it reaches.
    pub namespace: Option<String>,
    /// The only object.
    pub name: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(name) = &self.name {
            write!(f, " named {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => f.write_str(" of the cluster"),
        }
    }
}

impl Right {
    /// What a request was about; none for one that is not about objects.
    fn asked(event: &Value) -> Option<Self> {
        let object = &event["objectRef"];
        let word = |value: &Value| {
            let word = value.as_str().filter(|word| !word.is_empty());
            word.map(str::to_owned)
        };
        let (verb, resource) = (word(&event["verb"])?, word(&object["resource"])?);
        let part = word(&object["subresource"]).map(|part| format!("/{part}"));
        Some(Self {
            what: format!("{verb} {resource}{}", part.unwrap_or_default()),
            namespace: word(&object["namespace"]),
            name: word(&object["name"]),
        })
    }

    fn allows(&self, asked: &Self) -> bool {
        let one = |own: &Option<String>, theirs: &Option<String>| own.is_none() || *own == *theirs;
        self.what == asked.what
            && one(&self.namespace, &asked.namespace)
            && one(&self.name, &asked.name)
    }

    /// Whether a request would be refused without it, though its component had the same over the mesh's own namespace.
    fn needed(&self, asked: &Self, home: &str) -> bool {
        let beyond = self.namespace.is_some() || asked.namespace.as_deref() != Some(home);
        self.allows(asked) && beyond
    }

    /// Creating by server-side apply is a patch that needs both rights.
    fn of_apply(&self) -> Option<Self> {
        let resource = self.what.strip_prefix("create ")?;
        Some(Self {
            what: format!("patch {resource}"),
            ..self.clone()
        })
    }
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// The rules of a role, each for one verb, resource and name.
fn of_role(role: &Value, namespace: Option<&str>) -> Vec<Right> {
    let mut all = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let mut only: Vec<Option<String>> = words(&rule["resourceNames"])
            .map(|name| Some(name.to_owned()))
            .collect();
        if only.is_empty() {
            only.push(None);
        }
        for (verb, resource) in words(&rule["verbs"])
            .flat_map(|verb| words(&rule["resources"]).map(move |resource| (verb, resource)))
        {
            all.extend(only.iter().map(|name| Right {
                what: format!("{verb} {resource}"),
                namespace: namespace.map(str::to_owned),
                name: name.clone(),
            }));
        }
    }
    all
}

/// What roles and bindings among these objects grant a ServiceAccount.
pub fn granted(objects: &[Value], namespace: &str, account: &str) -> BTreeSet<Right> {
    let whose = |subject: &Value| {
        subject["kind"] == "ServiceAccount"
            && subject["name"] == account
            && subject["namespace"] == namespace
    };
    let mut all = BTreeSet::new();
    for binding in objects {
        let mut subjects = binding["subjects"].as_array().into_iter().flatten();
        if !subjects.any(whose) {
            continue;
        }
        let at = binding["metadata"]["namespace"].as_str();
        let (kind, name) = (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]);
        let meant = |role: &&Value| {
            role["kind"] == *kind
                && role["metadata"]["name"] == *name
                && (kind == "ClusterRole" || role["metadata"]["namespace"].as_str() == at)
        };
        let reach = if binding["kind"] == "RoleBinding" {
            at
        } else {
            None
        };
        let roles = objects.iter().filter(meant);
        all.extend(roles.flat_map(|role| of_role(role, reach)));
    }
    all
}

/// The objects of a manifest.
///
/// # Errors
/// If it is not YAML.
pub fn objects(manifest: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for document in manifest.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document)?;
        if object.is_object() {
            all.push(object);
        }
    }
    Ok(all)
}

/// Grants and requests side by side.
#[derive(Debug, Default)]
pub struct Compared {
    /// Granted, and needed by no request.
    pub idle: Vec<Right>,
    /// Refused, and not granted.
    pub lacking: BTreeSet<Right>,
}

/// Compares what is granted with all requests of whom it is granted; `home` is the mesh's namespace.
pub fn compare(granted: &BTreeSet<Right>, events: &[Value], home: &str) -> Compared {
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        let Some(asked) = Right::asked(event) else {
            continue;
        };
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            refused.insert(asked)
        } else {
            used.insert(asked)
        };
    }
    let needed = |right: &Right| used.iter().any(|asked| right.needed(asked, home));
    let idle = granted
        .iter()
        .filter(|right| !needed(right) && !right.of_apply().is_some_and(|patch| needed(&patch)));
    Compared {
        idle: idle.cloned().collect(),
        // An API server that has just started refuses what it has not read yet; that is no lack.
        lacking: refused
            .into_iter()
            .filter(|asked| !granted.iter().any(|right| right.allows(asked)))
            .collect(),
    }
}

/// A right, as `verb resource`, and who uses it.
#[derive(Debug, Clone, Copy)]
pub struct Elsewhere {
    /// As rules grant it and the record has it.
    pub right: &'static str,
    /// The test program that uses it.
    pub program: &'static str,
    /// What it is for.
    pub why: &'static str,
    /// In which namespaces it is needed.
    reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// In others than the mesh's.
    Cluster,
    /// In the mesh's.
    Home,
    /// No request has its name; the test program shows that one is refused without it.
    Unrecorded,
}

const fn used(right: &'static str, program: &'static str, why: &'static str) -> Elsewhere {
    Elsewhere {
        right,
        program,
        why,
        reach: Reach::Cluster,
    }
}

const CONFLICTS: &str = "operator_conflicts";
const ACCELERATORS: &str = "accelerators";
const SCOPE: &str = "scope";
const CHANGED: &str = "what was created and then changed by hand";
const BECAME: &str = "a backend that had pods and became something else";
const OWNER: &str = "an admission plugin of test clusters asks for it where an owner is named that blocks its deletion";
const CLAIMS: &str = "accelerators by DeviceClass, which only fake nodes have";

const fn unrecorded(right: &'static str) -> Elsewhere {
    Elsewhere {
        reach: Reach::Unrecorded,
        ..used(right, SCOPE, OWNER)
    }
}

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
    Elsewhere {
        reach: Reach::Home,
        ..used("update secrets", CONFLICTS, "an authority lives for years")
    },
    used(
        "delete controllerrevisions",
        CONFLICTS,
        "a policy that was changed more often than specs are kept",
    ),
    used("create resourceclaimtemplates", ACCELERATORS, CLAIMS),
    used("delete resourceclaimtemplates", ACCELERATORS, CLAIMS),
    unrecorded("update inferencebackends/finalizers"),
    unrecorded("update sovereigntypolicies/finalizers"),
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

/// Every request of a user that is on its way or answered, so also watches that go on.
///
/// # Errors
/// If the record cannot be read.
pub fn begun_by(cluster: &Cluster, user: &str) -> Result<Vec<Value>> {
    recorded(cluster, user)
}

/// Rights that a test program has to use and has not used in its cluster.
///
/// # Errors
/// If the record of its API server cannot be read.
pub fn idle(program: &str, cluster: &Cluster) -> Result<Vec<&'static str>> {
    // A watch that goes on has begun to be answered.
    let events = recorded(cluster, USER)?;
    let asked: Vec<Right> = events.iter().filter_map(Right::asked).collect();
    let used = |one: &Elsewhere| {
        asked.iter().any(|asked| {
            let home = asked.namespace.as_deref() == Some(HOME);
            asked.what == one.right && home == (one.reach == Reach::Home)
        })
    };
    let own = ELSEWHERE
        .iter()
        .filter(|one| one.program == program && one.reach != Reach::Unrecorded && !used(one));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r"
kind: ClusterRole
metadata: {name: wide}
rules:
  - {resources: [pods, jobs], verbs: [list, delete]}
  - {resources: [configmaps], resourceNames: [a, b], verbs: [get]}
  - {resources: [services], verbs: [create]}
---
kind: ClusterRoleBinding
metadata: {name: wide}
roleRef: {kind: ClusterRole, name: wide}
subjects: [{kind: ServiceAccount, name: me, namespace: home}]
---
kind: Role
metadata: {name: own, namespace: home}
rules: [{resources: [leases], verbs: [get]}]
---
kind: RoleBinding
metadata: {name: own, namespace: home}
roleRef: {kind: Role, name: own}
subjects: [{kind: ServiceAccount, name: me, namespace: home}]
---
kind: RoleBinding
metadata: {name: theirs, namespace: home}
roleRef: {kind: ClusterRole, name: wide}
subjects: [{kind: ServiceAccount, name: other, namespace: home}]
";

    fn event(verb: &str, resource: &str, namespace: &str, name: &str) -> Value {
        json!({"verb": verb, "objectRef": {"resource": resource, "namespace": namespace, "name": name}})
    }

    fn all() -> Vec<Value> {
        vec![
            event("list", "pods", "", ""),
            event("delete", "pods", "team", "p"),
            event("list", "jobs", "", ""),
            event("delete", "jobs", "team", "j"),
            event("get", "configmaps", "team", "a"),
            event("get", "configmaps", "team", "b"),
            event("patch", "services", "team", "s"),
            event("get", "leases", "home", "l"),
        ]
    }

    fn idle(events: &[Value]) -> Vec<String> {
        let granted = granted(&objects(RULES).expect("YAML"), "home", "me");
        let compared = compare(&granted, events, "home");
        compared.idle.iter().map(Right::to_string).collect()
    }

    #[test]
    fn who_uses_all_it_has_has_nothing_too_much() {
        assert_eq!(idle(&all()), Vec::<String>::new());
        let theirs = granted(&objects(RULES).expect("YAML"), "home", "other");
        assert!(
            theirs
                .iter()
                .all(|right| right.namespace.as_deref() == Some("home"))
        );
    }

    #[test]
    fn a_right_over_the_cluster_that_is_used_at_home_only_is_too_much() {
        let mut events = all();
        events[1] = event("delete", "pods", "home", "p");
        assert_eq!(idle(&events), ["delete pods of the cluster"]);
    }

    #[test]
    fn a_name_that_nobody_asks_for_is_too_much() {
        let mut events = all();
        events.remove(5);
        assert_eq!(idle(&events), ["get configmaps named b of the cluster"]);
    }

    #[test]
    fn what_is_refused_is_lacking_unless_it_is_granted() {
        let refused = |mut event: Value| {
            event["annotations"] = json!({"authorization.k8s.io/decision": "forbid"});
            event
        };
        let granted = granted(&objects(RULES).expect("YAML"), "home", "me");
        let events = [
            refused(event("get", "leases", "home", "l")),
            refused(event("get", "leases", "team", "l")),
            refused(event("get", "configmaps", "team", "c")),
        ];
        let lacking = compare(&granted, &events, "home").lacking;
        let lacking: Vec<String> = lacking.iter().map(Right::to_string).collect();
        assert_eq!(
            lacking,
            [
                "get configmaps named c in team",
                "get leases named l in team"
            ]
        );
    }
}
