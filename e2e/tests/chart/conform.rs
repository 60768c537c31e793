//! kubeconform with the schemas of the real API server and of our kinds: nothing that is written may be unknown.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::world::{World, text};

/// Where the schema of a kind lies, for kubeconform.
const PATTERN: &str = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json";
const GROUP: &str = "x-kubernetes-group-version-kind";
const OPEN: &str = "x-kubernetes-preserve-unknown-fields";

/// A folder with the schema of every kind that the API server serves, closed against unknown fields.
pub(super) struct Schemas(PathBuf);

impl Schemas {
    pub(super) fn of(world: &World) -> Self {
        let kinds = world.chart_folder().join("../../crds/manifests");
        world.kubectl(&["apply", "--server-side", "-f", &kinds.display().to_string()]);
        for kind in ["modelcaches", "inferencebackends", "sovereigntypolicies"] {
            world.cluster_knows(&format!("{kind}.inferencemesh.dev"));
        }
        let folder = world.cluster.folder().join("schemas");
        std::fs::create_dir_all(&folder).unwrap();
        let ask = |path: &str| -> Value {
            serde_json::from_str(&world.kubectl(&["get", "--raw", path])).unwrap()
        };
        // It publishes what was just installed a moment later.
        let own = "apis/inferencemesh.dev/v1alpha1";
        let mut index = ask("/openapi/v3");
        for _ in 0..100 {
            if index["paths"].get(own).is_some() && written(&folder, own, &index, &ask) == 3 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
            index = ask("/openapi/v3");
        }
        let mut count = 0;
        for path in index["paths"].as_object().unwrap().keys() {
            count += written(&folder, path, &index, &ask);
        }
        assert!(count > 50, "only {count} kinds have a schema");
        let schemas = Self(folder);
        schemas.can_refuse(world);
        schemas
    }

    /// Every object of a manifest, and those that the operator makes of what is in it.
    pub(super) fn take(&self, world: &World, name: &str, manifest: &str) {
        self.judge(world, manifest)
            .unwrap_or_else(|said| panic!("{name}: {said}"));
        let key = "  objects.yaml: |\n";
        let Some((_, rest)) = manifest.split_once(key) else {
            return;
        };
        let inside = rest
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "))
            .map(|line| line.get(4..).unwrap_or_default());
        let inside = inside.collect::<Vec<_>>().join("\n");
        assert_eq!(inside.matches("kind: ").count(), 3, "{name}: {inside}");
        self.judge(world, &inside)
            .unwrap_or_else(|said| panic!("{name}: what the operator makes: {said}"));
    }

    fn judge(&self, world: &World, manifest: &str) -> Result<String, String> {
        let file = world.file("conform.yaml", manifest);
        let pattern = self.0.join(PATTERN).display().to_string();
        world.tool(
            "kubeconform",
            &["-strict", "-summary", "-schema-location", &pattern, &file],
        )
    }

    /// A check that takes everything is none.
    fn can_refuse(&self, world: &World) {
        let service = |spec: &str| {
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n")
        };
        let policy = |spec: &str| {
            format!(
                "apiVersion: inferencemesh.dev/v1alpha1\nkind: SovereigntyPolicy\nmetadata: {{name: a}}\nspec: {spec}\n"
            )
        };
        self.judge(world, &service("{ports: [{port: 80, targetPort: web}]}"))
            .unwrap();
        self.judge(world, &policy("{defaults: {privacy: Public}}"))
            .unwrap();
        for (manifest, words) in [
            (service("{ports: [{port: 80}], prots: []}"), "prots"),
            (service("{ports: [{port: many}]}"), "port"),
            (policy("{defaults: {privcy: Public}}"), "privcy"),
            (policy("{defaults: {privacy: Secret}}"), "privacy"),
            (service("{}").replace("Service", "Servant"), "Servant"),
        ] {
            let said = self.judge(world, &manifest).unwrap_err();
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

/// Writes the schemas of a group and version; how many kinds it has.
fn written(folder: &Path, path: &str, index: &Value, ask: &dyn Fn(&str) -> Value) -> usize {
    if !(path.starts_with("api/") || path.starts_with("apis/")) {
        return 0;
    }
    let mut document = ask(text(&index["paths"][path]["serverRelativeURL"]));
    let Some(all) = document["components"]["schemas"].as_object_mut() else {
        return 0;
    };
    all.values_mut().for_each(closed);
    let all = document["components"]["schemas"].as_object().unwrap();
    let mut count = 0;
    for (name, schema) in all {
        let kinds = schema[GROUP].as_array().into_iter().flatten();
        // What takes options or lists belongs to many groups.
        let kinds: Vec<&Value> = kinds.collect();
        let [kind] = kinds[..] else { continue };
        let (group, version) = (text(&kind["group"]), text(&kind["version"]));
        if !path.ends_with(version) || text(&kind["kind"]).ends_with("List") {
            continue;
        }
        // kubeconform's word for the group that has no name.
        let group = if group.is_empty() { version } else { group };
        let file = format!(
            "{}-{group}-{version}.json",
            text(&kind["kind"]).to_lowercase()
        );
        let whole = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [{"$ref": format!("#/components/schemas/{name}")}],
            "components": {"schemas": all},
        });
        std::fs::write(folder.join(file), whole.to_string()).unwrap();
        count += 1;
    }
    count
}

/// A schema that says which fields there are takes no others, here and below.
fn closed(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    if fields.contains_key("properties")
        && !fields.contains_key("additionalProperties")
        && fields.get(OPEN) != Some(&Value::Bool(true))
    {
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for word in ["properties", "additionalProperties", "items", "allOf"] {
        match fields.get_mut(word) {
            Some(Value::Object(below)) if word == "properties" => each(below),
            Some(Value::Array(below)) => below.iter_mut().for_each(closed),
            Some(below) => closed(below),
            None => {}
        }
    }
}

fn each(properties: &mut Map<String, Value>) {
    properties.values_mut().for_each(closed);
}
