//! The kinds as people meet them at a real API server: explained, listed, selected, scaled.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_cluster::Tier;
    use mesh_e2e::api_server::{ApiServer, KINDS};
    use serde_json::{Value, json};

    fn definition(server: &ApiServer, kind: &str) -> Value {
        server
            .get(&[&format!("crd/{kind}.inferencemesh.dev")])
            .unwrap()
    }

    /// Every path of a schema below `spec` and `status`, with the texts.
    fn paths(schema: &Value, prefix: &str, found: &mut Vec<(String, String)>) {
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let path = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            let text = below["description"].as_str().unwrap_or_default();
            found.push((path.clone(), text.to_owned()));
            paths(below, &path, found);
            paths(&below["items"], &path, found);
        }
    }

    /// The paths that `kubectl explain --recursive` shows, read from its indentation.
    fn shown(text: &str) -> BTreeSet<String> {
        let fields = text.split("FIELDS:").nth(1).unwrap_or_default();
        let (mut stack, mut found) = (Vec::<(usize, String)>::new(), BTreeSet::new());
        for line in fields.lines() {
            let name = line.trim_start();
            let depth = line.len() - name.len();
            let Some((name, _)) = name.split_once('\t') else {
                continue;
            };
            stack.retain(|(above, _)| *above < depth);
            stack.push((depth, name.to_owned()));
            let path: Vec<&str> = stack.iter().map(|(_, name)| name.as_str()).collect();
            found.insert(path.join("."));
        }
        found
    }

    fn every_path_is_explained(server: &ApiServer, kind: &str) {
        let crd = definition(server, kind);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut all = Vec::new();
        for part in ["spec", "status"] {
            paths(&schema["properties"][part], part, &mut all);
        }
        assert!(all.len() > 20, "{kind}: {}", all.len());
        let tree = server.kubectl(&["explain", kind, "--recursive"]).unwrap();
        let shown = shown(&tree);
        for (path, text) in &all {
            assert!(text.len() > 3, "{kind}.{path} has no text");
            assert!(
                shown.contains(path),
                "kubectl explain does not show {kind}.{path}"
            );
        }
        // A sample of single pages, which are made from the same document.
        for (path, text) in all.iter().step_by(40) {
            let page = server
                .kubectl(&["explain", &format!("{kind}.{path}")])
                .unwrap();
            let flat: String = page.split_whitespace().collect::<Vec<_>>().join(" ");
            let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(&words), "{kind}.{path}: {page}");
        }
    }

    fn object(kind: &str, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    }

    fn made(server: &ApiServer) {
        let cache = json!({"artifacts": [{"path": "a"}], "sources": [{"builtin": {}}]});
        let pods = json!({"inCluster": {"modelRef": {"name": "m"}}, "models": [{"name": "x"}]});
        let cloud = json!({"cloud": {"provider": "example", "url": "https://api.example.com/v1"}, "models": [{"name": "big"}]});
        let policy = json!({"floor": {"backendRef": {"name": "pods"}}});
        for object in [
            object("ModelCache", "cache", &cache),
            object("InferenceBackend", "pods", &pods),
            object("InferenceBackend", "cloud", &cloud),
            object("SovereigntyPolicy", "policy", &policy),
        ] {
            server.apply(&object, "e2e").unwrap();
        }
    }

    /// What `kubectl get` shows is what the definition says, wide or not.
    fn columns(server: &ApiServer, kind: &str) {
        let crd = definition(server, kind);
        let all = crd["spec"]["versions"][0]["additionalPrinterColumns"].clone();
        let all = all.as_array().expect("columns");
        for (wide, args) in [
            (false, &["get", kind][..]),
            (true, &["get", kind, "-o", "wide"]),
        ] {
            let wanted = all
                .iter()
                .filter(|column| wide || column["priority"].as_i64().unwrap_or_default() == 0)
                .map(|column| column["name"].as_str().unwrap().to_uppercase());
            let listed = server.kubectl(args).unwrap();
            let head: Vec<&str> = listed
                .lines()
                .next()
                .unwrap()
                .split("   ")
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .collect();
            let wanted: Vec<String> = std::iter::once(String::from("NAME"))
                .chain(wanted)
                .collect();
            assert_eq!(head, wanted, "{listed}");
        }
    }

    /// Every selectable field finds what has it and leaves out the rest.
    fn selectors(server: &ApiServer, kind: &str) -> usize {
        let crd = definition(server, kind);
        let fields = crd["spec"]["versions"][0]["selectableFields"].clone();
        let fields = fields.as_array().cloned().unwrap_or_default();
        for field in &fields {
            let path = field["jsonPath"].as_str().unwrap();
            let column = format!("jsonpath={{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}");
            let values = server.kubectl(&["get", kind, "-o", &column]).unwrap();
            let values: BTreeSet<&str> = values.lines().filter(|value| !value.is_empty()).collect();
            let field = path.trim_start_matches('.');
            for value in values {
                let selected = format!("--field-selector={field}={value}");
                let found = server
                    .kubectl(&["get", kind, "-o", "name", &selected])
                    .unwrap();
                let rest = format!("--field-selector={field}!={value}");
                let rest = server.kubectl(&["get", kind, "-o", "name", &rest]).unwrap();
                assert!(!found.is_empty(), "{field}={value}");
                assert!(
                    found.lines().all(|name| !rest.contains(name)),
                    "{found} {rest}"
                );
            }
            let nothing = format!("--field-selector={field}=nothing-like-it");
            assert_eq!(
                server
                    .kubectl(&["get", kind, "-o", "name", &nothing])
                    .unwrap(),
                ""
            );
        }
        fields.len()
    }

    fn scaled(server: &ApiServer) {
        server
            .kubectl(&["scale", "ib", "pods", "--replicas=3"])
            .unwrap();
        let scale = server
            .kubectl(&[
                "get",
                "--raw",
                "/apis/inferencemesh.dev/v1alpha1/namespaces/default/inferencebackends/pods/scale",
            ])
            .unwrap();
        let scale: Value = serde_json::from_str(&scale).unwrap();
        assert_eq!(scale["spec"]["replicas"], 3);
        let object = server.get(&["ib", "pods"]).unwrap();
        assert_eq!(object["spec"]["inCluster"]["replicas"], 3);
        // What has no pods has no scale: Kubernetes itself fails there, and changes nothing.
        assert!(
            !server
                .run(&["scale", "ib", "cloud", "--replicas=3"])
                .unwrap()
                .good
        );
        let object = server.get(&["ib", "cloud"]).unwrap();
        assert!(object["spec"]["inCluster"].is_null());
    }

    #[test]
    fn the_kinds_are_explained_listed_selected_and_scaled() {
        let Some(server) = ApiServer::start("explained", Tier::ControlPlane).unwrap() else {
            return;
        };
        made(&server);
        let mut selectable = 0;
        for kind in KINDS {
            every_path_is_explained(&server, kind);
            columns(&server, kind);
            selectable += selectors(&server, kind);
        }
        assert!(selectable >= 2, "{selectable}");
        scaled(&server);
        let listed = server.kubectl(&["get", "mesh", "-o", "name"]).unwrap();
        for name in [
            "modelcache.inferencemesh.dev/cache",
            "inferencebackend.inferencemesh.dev/pods",
            "sovereigntypolicy.inferencemesh.dev/policy",
        ] {
            assert!(listed.contains(name), "{listed}");
        }
        for short in ["ib", "sp", "mc"] {
            assert!(
                server
                    .kubectl(&["get", short, "-o", "name"])
                    .unwrap()
                    .contains('/'),
                "{short}"
            );
        }
    }
}
