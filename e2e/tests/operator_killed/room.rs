//! A namespace as one look finds it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mesh_e2e::stage::Stage;
use serde_json::Value;

/// Everything that an operator makes in a namespace.
const CHILDREN: &str = "deployments,statefulsets,jobs,services,serviceaccounts,configmaps,poddisruptionbudgets,networkpolicies,persistentvolumeclaims,controllerrevisions,resourceclaimtemplates";
const OBJECTS: &str = "modelcaches,inferencebackends,sovereigntypolicies";

/// What is there.
pub(crate) struct Room(Vec<Value>);

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Room {
    pub(crate) fn look(stage: &Stage, namespace: &str) -> Result<Self> {
        let found = stage.get(&["-n", namespace, &format!("{CHILDREN},{OBJECTS}")])?;
        let items = found["items"].as_array().context("a list")?;
        Ok(Self(items.clone()))
    }

    fn children(&self) -> impl Iterator<Item = &Value> {
        let label = "app.kubernetes.io/managed-by";
        let all = self.0.iter();
        all.filter(move |one| one["metadata"]["labels"][label] == "mesh-operator")
    }

    /// Names of a kind.
    pub(crate) fn of(&self, kind: &str) -> Vec<&str> {
        let all = self.0.iter().filter(|one| one["kind"] == kind);
        all.map(|one| text(&one["metadata"]["name"])).collect()
    }

    pub(crate) fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let mut all = self.0.iter().filter(|one| one["kind"] == kind);
        let found = all.find(|one| one["metadata"]["name"] == name);
        found.with_context(|| format!("{kind} {name} is not there"))
    }

    /// That the children are these, as `Kind/name`, and no others: each has one owner, or none where no object of ours is.
    pub(crate) fn holds(&self, wanted: &[&str]) -> Result<()> {
        let named =
            |one: &Value| format!("{}/{}", text(&one["kind"]), text(&one["metadata"]["name"]));
        let mut there: Vec<String> = self.children().map(named).collect();
        let mut wanted: Vec<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
        // Their names are made of uids.
        there.retain(|one| !one.starts_with("ControllerRevision/"));
        there.sort();
        wanted.sort();
        ensure!(there == wanted, "there are {there:?}");
        for one in self.children() {
            let owners = one["metadata"]["ownerReferences"].as_array();
            let owners = owners.map_or(0, Vec::len);
            let alone = one["kind"] == "ConfigMap" || one["metadata"]["name"] == "mesh-confine";
            ensure!(
                owners == usize::from(!alone),
                "{owners} owners of {}",
                named(one)
            );
            ensure!(
                one["metadata"]["deletionTimestamp"].is_null(),
                "{} is going",
                named(one)
            );
        }
        Ok(())
    }

    /// Numbers of the accepted versions of the policies.
    pub(crate) fn revisions(&self) -> Vec<u64> {
        let all = self
            .0
            .iter()
            .filter(|one| one["kind"] == "ControllerRevision");
        let mut numbers: Vec<u64> = all.filter_map(|one| one["revision"].as_u64()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// That a condition is so, and said of the spec that is.
    pub(crate) fn says(&self, object: [&str; 2], condition: &str, status: &str) -> Result<()> {
        let [kind, name] = object;
        let found = self.one(kind, name)?;
        let all = found["status"]["conditions"].as_array();
        let mut all = all.into_iter().flatten();
        let one = all.find(|one| one["type"] == condition);
        let one = one.with_context(|| format!("{kind} {name} does not say {condition}"))?;
        let generation = &found["metadata"]["generation"];
        let good = one["status"] == status
            && one["observedGeneration"] == *generation
            && found["status"]["observedGeneration"] == *generation;
        ensure!(good, "{kind} {name} says {one} of generation {generation}");
        Ok(())
    }

    /// Entries of a ConfigMap.
    pub(crate) fn entries(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let data = self.one("ConfigMap", name)?["data"].clone();
        Ok(serde_json::from_value(data)?)
    }

    /// How often the spec of a child was written.
    pub(crate) fn generation(&self, kind: &str, name: &str, wanted: u64) -> Result<()> {
        let found = &self.one(kind, name)?["metadata"]["generation"];
        ensure!(*found == wanted, "{kind} {name} has generation {found}");
        Ok(())
    }
}
