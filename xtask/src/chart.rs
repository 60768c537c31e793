//! The chart's values: everything in `values.yaml` is used by a template, described by a comment and typed
//! by the schema, and nothing is used or typed that is not there. Refuses a schema that lets unknown keys
//! through.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

const CHART: &str = "charts/inference-mesh";
/// Kubernetes' own vocabulary from here on: neither values of ours nor described one by one.
const OPAQUE: [&str; 1] = ["resources"];
/// Helm hands this to every chart.
const FOREIGN: &str = "global";

/// Everything that does not fit together, one sentence each.
pub(crate) fn violations(root: &Path) -> Result<Vec<String>> {
    let chart = root.join(CHART);
    let values = fs::read_to_string(chart.join("values.yaml"))?;
    let schema: Value = serde_json::from_slice(&fs::read(chart.join("values.schema.json"))?)?;
    let mut templates = String::new();
    read_all(&chart.join("templates"), &mut templates)?;
    judge(&values, &schema, &templates).context("the values of the chart could not be read")
}

/// Appends every file of a folder and of those in it.
fn read_all(folder: &Path, text: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, text)?;
        } else {
            text.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn judge(values: &str, schema: &Value, templates: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let declared = declared(values, &mut found);
    let mut typed = BTreeSet::new();
    typed_paths(schema, schema, "", &mut typed, &mut found)?;
    typed.retain(|path| path != FOREIGN);
    for path in declared.difference(&typed) {
        found.push(format!("values.schema.json does not know {path}"));
    }
    for path in typed.difference(&declared) {
        found.push(format!("values.yaml does not have {path}, the schema does"));
    }
    let used = Used::new(templates);
    for path in &declared {
        if !used.covers(path) {
            found.push(format!("no template uses {path}"));
        }
    }
    for path in used.wanting(&declared) {
        found.push(format!(
            "values.yaml does not have {path}, a template uses it"
        ));
    }
    Ok(found)
}

/// True if `path` lies inside of `known`, which is Kubernetes' own.
fn opaque(known: &str, path: &str) -> bool {
    let last = known.rsplit('.').next().unwrap_or_default();
    OPAQUE.contains(&last) && path.starts_with(&format!("{known}."))
}

/// Paths of all values. A value without a comment before it is a violation.
fn declared(values: &str, found: &mut Vec<String>) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut above: Vec<(usize, &str)> = Vec::new();
    let mut told = false;
    let lines: Vec<&str> = values.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text.starts_with('#') {
            told = true;
            continue;
        }
        let Some((key, value)) = text.split_once(':') else {
            told = false;
            continue;
        };
        above.retain(|(level, _)| *level < indent);
        let hidden = above.iter().any(|(_, key)| OPAQUE.contains(key));
        above.push((indent, key));
        let group = value.trim().is_empty() && !OPAQUE.contains(&key);
        if !hidden && !group {
            let path: Vec<&str> = above.iter().map(|(_, key)| *key).collect();
            let path = path.join(".");
            if !told {
                found.push(format!("values.yaml:{}: {path} has no comment", number + 1));
            }
            paths.insert(path);
        }
        told = false;
    }
    paths
}

/// Paths of all values that a schema types.
fn typed_paths(
    root: &Value,
    schema: &Value,
    prefix: &str,
    paths: &mut BTreeSet<String>,
    found: &mut Vec<String>,
) -> Result<()> {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root
            .pointer(reference.trim_start_matches('#'))
            .with_context(|| format!("{reference} leads nowhere"))?,
        None => schema,
    };
    let last = prefix.rsplit('.').next().unwrap_or_default();
    let closed = schema["additionalProperties"] == false;
    if let Some(properties) = schema["properties"].as_object() {
        if !closed {
            found.push(format!(
                "the schema of {prefix:?} lets unknown keys through"
            ));
        }
        if !OPAQUE.contains(&last) && !kubernetes(last) {
            for (key, below) in properties {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                typed_paths(root, below, &path, paths, found)?;
            }
            return Ok(());
        }
    }
    paths.insert(prefix.to_owned());
    Ok(())
}

/// Values that are one value for us, whatever Kubernetes has in them.
fn kubernetes(key: &str) -> bool {
    matches!(key, "affinity" | "tolerations")
}

/// What templates use.
struct Used {
    /// Written out: `.Values.x.y`.
    paths: BTreeSet<String>,
    /// Groups that a helper is given: `"values" .Values.x`.
    given: BTreeSet<String>,
    /// What helpers take of such a group: `.values.y`. What a group does not have is empty there.
    taken: BTreeSet<String>,
}

impl Used {
    fn new(templates: &str) -> Self {
        let given = occurrences(templates, "\"values\" .Values.");
        let mut paths = occurrences(templates, ".Values.");
        paths.retain(|path| !given.contains(path));
        Self {
            paths,
            given,
            taken: occurrences(templates, ".values."),
        }
    }

    /// True if a template uses this value, or a group that it is in.
    fn covers(&self, path: &str) -> bool {
        let whole = |used: &String| path == used || path.starts_with(&format!("{used}."));
        let by_helper = path
            .rsplit_once('.')
            .is_some_and(|(group, field)| self.given.contains(group) && self.taken.contains(field));
        by_helper || self.paths.iter().any(whole)
    }

    /// What is used and not declared.
    fn wanting(&self, declared: &BTreeSet<String>) -> Vec<String> {
        let known = |path: &str| {
            declared.iter().any(|known| {
                known == path || known.starts_with(&format!("{path}.")) || opaque(known, path)
            })
        };
        let written = self.paths.iter().filter(|path| !known(path)).cloned();
        let nobody = |field: &&String| {
            let mut groups = self.given.iter();
            !groups.any(|group| known(&format!("{group}.{field}")))
        };
        let helpers = self.taken.iter().filter(nobody);
        written
            .chain(helpers.map(|field| format!("any `values`.{field}")))
            .collect()
    }
}

fn occurrences(text: &str, start: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '.';
    text.match_indices(start)
        .map(|(at, _)| {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        })
        .filter(|path| !path.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VALUES: &str = "# How far.\nscope: cluster\npart:\n  # How many.\n  replicas: 1\n  # What it gets.\n  resources:\n    requests: {cpu: 1}\n";
    const TEMPLATES: &str = "{{ .Values.scope }} {{ include \"x\" (dict \"values\" .Values.part) }} {{ .values.replicas }} {{ toYaml .Values.part.resources }}";

    fn schema() -> Value {
        let resources = json!({"type": "object", "additionalProperties": false, "properties": {"requests": {}}});
        json!({"additionalProperties": false, "definitions": {"resources": resources}, "properties": {
            "scope": {"enum": ["cluster"]},
            "part": {"additionalProperties": false, "properties": {"replicas": {"type": "integer"}, "resources": {"$ref": "#/definitions/resources"}}},
        }})
    }

    #[test]
    fn values_schema_and_templates_that_agree_are_fine() {
        let found = judge(VALUES, &schema(), TEMPLATES).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn every_way_to_disagree_is_found() {
        let silent = VALUES.replace("  # How many.\n", "");
        let more = format!("{VALUES}# Nobody asks.\nidle: 1\n");
        let lax = {
            let mut schema = schema();
            schema["properties"]["part"]["additionalProperties"] = json!(true);
            schema
        };
        let wide = {
            let mut schema = schema();
            schema["properties"]["ghost"] = json!({"type": "string"});
            schema
        };
        let unknown = format!("{TEMPLATES} {{{{ .Values.part.ghost }}}}");
        for (values, schema, templates, words) in [
            (silent.as_str(), schema(), TEMPLATES, "has no comment"),
            (&more, schema(), TEMPLATES, "does not know idle"),
            (&more, schema(), TEMPLATES, "no template uses idle"),
            (VALUES, lax, TEMPLATES, "lets unknown keys through"),
            (
                VALUES,
                wide,
                TEMPLATES,
                "does not have ghost, the schema does",
            ),
            (
                VALUES,
                schema(),
                &unknown,
                "does not have part.ghost, a template",
            ),
        ] {
            let found = judge(values, &schema, templates).unwrap();
            assert!(
                found.iter().any(|one| one.contains(words)),
                "{words}: {found:?}"
            );
        }
    }

    #[test]
    fn the_chart_is_in_order() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let found = violations(root).unwrap();
        assert!(found.is_empty(), "{found:#?}");
    }
}
