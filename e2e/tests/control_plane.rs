//! The kinds on a real API server: accepted, explained, checked, merged. Needs the built programs of a
//! Kubernetes (`cargo xtask tools`); where they cannot be had it says that it is skipped, and fails with
//! `CI=true`.

#[cfg(test)]
#[expect(
    clippy::unwrap_in_result,
    reason = "a test that cannot go on ends by a panic"
)]
mod tests {
    use std::path::Path;

    use mesh_cluster::{Cluster, Options};
    use serde_json::{Value, json};

    const KINDS: [&str; 3] = ["modelcaches", "inferencebackends", "sovereigntypolicies"];

    struct World {
        cluster: Cluster,
    }

    impl World {
        fn start(name: &str) -> Option<Self> {
            let options = Options {
                name: name.to_owned(),
                ..Options::default()
            };
            let world = Self {
                cluster: Cluster::start_or_skip(&options).unwrap()?,
            };
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let manifests = root.join("crds/manifests").display().to_string();
            world
                .run(&["apply", "--server-side", "-f", &manifests])
                .unwrap();
            for kind in KINDS {
                let crd = format!("crd/{kind}.inferencemesh.dev");
                world
                    .run(&["wait", "--for=condition=Established", &crd, "--timeout=20s"])
                    .unwrap();
            }
            Some(world)
        }

        fn run(&self, args: &[&str]) -> Result<String, String> {
            self.cluster.kubectl(args)
        }

        /// Server-side apply by somebody.
        fn apply(&self, object: &Value, manager: &str) -> Result<String, String> {
            self.cluster.apply(object, manager)
        }

        fn replicas(&self, name: &str) -> String {
            let path = "jsonpath={.spec.inCluster.replicas}";
            self.run(&["get", "ib", name, "-o", path]).unwrap()
        }
    }

    fn object(kind: &str, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    }

    fn cloud() -> Value {
        json!({"cloud": {"provider": "example", "url": "https://api.example.com/v1"}, "models": [{"name": "big"}]})
    }

    /// Every path of a schema, with dots.
    fn paths(schema: &Value, prefix: &str, found: &mut Vec<(String, bool)>) {
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{prefix}.{name}");
            let told = below["description"]
                .as_str()
                .is_some_and(|text| text.len() > 3);
            found.push((path.clone(), told));
            paths(below, &path, found);
            paths(&below["items"], &path, found);
        }
    }

    fn every_field_has_a_text(world: &World) {
        for kind in KINDS {
            let crd = world
                .run(&[
                    "get",
                    "crd",
                    &format!("{kind}.inferencemesh.dev"),
                    "-o",
                    "json",
                ])
                .unwrap();
            assert!(crd.len() < 256 * 1024, "{kind}: {} bytes", crd.len());
            let crd: Value = serde_json::from_str(&crd).unwrap();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let mut all = Vec::new();
            paths(&schema["properties"]["spec"], "spec", &mut all);
            paths(&schema["properties"]["status"], "status", &mut all);
            let silent: Vec<&String> = all
                .iter()
                .filter(|(_, told)| !told)
                .map(|(path, _)| path)
                .collect();
            assert!(
                all.len() > 20 && silent.is_empty(),
                "{kind} has fields without a text: {silent:?}"
            );
        }
    }

    #[test]
    fn the_kinds_are_served_explained_and_listed_together() {
        let Some(world) = World::start("kinds") else {
            return;
        };
        every_field_has_a_text(&world);
        let text = world
            .run(&["explain", "inferencebackend.spec.inCluster.modelRef"])
            .unwrap();
        assert!(
            text.contains("DESCRIPTION") && text.contains("ModelCache"),
            "{text}"
        );
        world
            .apply(&object("InferenceBackend", "a", &cloud()), "one")
            .unwrap();
        let listed = world.run(&["get", "mesh"]).unwrap();
        assert!(
            listed.contains("inferencebackend.inferencemesh.dev/a") && listed.contains("MODELS"),
            "{listed}"
        );
        let selected = [
            "get",
            "ib",
            "--field-selector",
            "spec.cloud.provider=example",
            "-o",
            "name",
        ];
        assert!(world.run(&selected).unwrap().contains("/a"));
        let others = [
            "get",
            "ib",
            "--field-selector",
            "spec.cloud.provider=other",
            "-o",
            "name",
        ];
        assert!(world.run(&others).unwrap().is_empty());
    }

    const KEY: &str = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";

    fn peer(address: &str, identity: &str) -> Value {
        let peer = json!({"address": address, "identity": identity, "trust": "Invited"});
        let spec = json!({"peer": peer, "models": [{"name": "theirs"}]});
        object("InferenceBackend", "partner", &spec)
    }

    fn refused_peers() -> [(Value, &'static str); 3] {
        let (address, identity) = (
            "spec.peer.address in body should match",
            "spec.peer.identity in body should match",
        );
        [
            (peer("mesh.partner.example", KEY), address),
            (peer("127.1:8444", KEY), address),
            (peer("mesh.partner.example:8444", "a-key"), identity),
        ]
    }

    fn policy(minimum: &Value) -> Value {
        let spec = json!({"constraints": {"minimumClass": minimum}});
        object("SovereigntyPolicy", "p", &spec)
    }

    fn refused() -> Vec<(Value, &'static str)> {
        vec![
            (
                policy(&json!({"restricted": "CloudForeign", "public": "OwnHardware"})),
                "restricted must not ask for less",
            ),
            (
                object("InferenceBackend", "b", &json!({"models": [{"name": "x"}]})),
                "exactly one of inCluster",
            ),
            (
                object(
                    "InferenceBackend",
                    "b",
                    &json!({"cloud": {"provider": "p", "url": "http://api.example.com"}, "models": [{"name": "x"}]}),
                ),
                "use https",
            ),
            (
                object(
                    "InferenceBackend",
                    "b",
                    &json!({"cloud": {"provider": "p", "url": "https://a.example"}, "models": [{"name": "auto"}]}),
                ),
                "reserved",
            ),
            (
                object(
                    "ModelCache",
                    "m",
                    &json!({"type": "Adapter", "artifacts": [{"path": "a"}], "sources": [{"builtin": {}}]}),
                ),
                "names its base model",
            ),
            (
                object(
                    "ModelCache",
                    "m",
                    &json!({"artifacts": [{"path": "../a"}], "sources": [{"builtin": {}}]}),
                ),
                "relative",
            ),
            (
                object(
                    "ModelCache",
                    "m",
                    &json!({"artifacts": [{"path": "a"}], "sources": [{}]}),
                ),
                "exactly one",
            ),
        ]
    }

    #[test]
    fn rules_are_kept_by_the_api_server_itself() {
        let Some(world) = World::start("rules") else {
            return;
        };
        world
            .apply(
                &policy(&json!({"restricted": "OwnHardware", "public": "CloudRetained"})),
                "one",
            )
            .unwrap();
        world
            .apply(&peer("mesh.partner.example:8444", KEY), "one")
            .unwrap();
        for (object, words) in refused().into_iter().chain(refused_peers()) {
            let said = world.apply(&object, "one").expect_err(&object.to_string());
            assert!(said.contains(words), "{words}: {said}");
        }
        let model = |kind: &str| {
            object(
                "ModelCache",
                "t",
                &json!({"type": kind, "artifacts": [{"path": "a"}], "sources": [{"builtin": {}}]}),
            )
        };
        world.apply(&model("Model"), "one").unwrap();
        let mut adapter = model("Adapter");
        adapter["spec"]["base"] = json!({"name": "m", "sha256": "0".repeat(64)});
        let said = world.apply(&adapter, "one").unwrap_err();
        assert!(said.contains("the type cannot change"), "{said}");
    }

    #[test]
    fn two_managers_apply_to_one_object_and_neither_loses() {
        let Some(world) = World::start("merge") else {
            return;
        };
        world
            .apply(&object("InferenceBackend", "a", &cloud()), "one")
            .unwrap();
        let mut second = object(
            "InferenceBackend",
            "a",
            &json!({"models": [{"name": "other"}]}),
        );
        second["metadata"]["labels"] = json!({"by": "two"});
        world.apply(&second, "two").unwrap();
        let merged: Value =
            serde_json::from_str(&world.run(&["get", "ib", "a", "-o", "json"]).unwrap()).unwrap();
        let names: Vec<&str> = merged["spec"]["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            (names, merged["spec"]["cloud"]["provider"].as_str()),
            (vec!["big", "other"], Some("example"))
        );
        let mut scaled = object(
            "InferenceBackend",
            "s",
            &json!({"inCluster": {"modelRef": {"name": "m"}}, "models": [{"name": "x"}]}),
        );
        world.apply(&scaled, "one").unwrap();
        world.run(&["scale", "ib", "s", "--replicas=3"]).unwrap();
        assert_eq!(world.replicas("s"), "3");
        scaled["spec"]["inCluster"]["modelRef"]["name"] = json!("n");
        world.apply(&scaled, "one").unwrap();
        assert_eq!(
            world.replicas("s"),
            "3",
            "who does not say it does not take it back"
        );
    }
}
