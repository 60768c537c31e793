//! Backends on two hundred nodes that only seem to be, by the real scheduler: NVIDIA's, AMD's, Intel's and
//! processors. Needs the built operator and the programs of a Kubernetes; without them it says that it is
//! skipped, and fails with `CI=true`.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Options, Tier, tool};
    use mesh_e2e::operator::{self, HOME, Operator, Settings};
    use mesh_e2e::rights;
    use serde_json::{Value, json};

    const LIMIT: Duration = Duration::from_secs(90);
    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    /// Drivers of dynamic resource allocation, as their devices are named.
    const DRIVER: &str = "gpu.example.com";

    struct World {
        cluster: Cluster,
        operator: Operator,
        /// Where its objects are.
        namespace: &'static str,
    }

    impl World {
        fn start(name: &str) -> Option<Self> {
            let options = Options {
                name: name.to_owned(),
                tier: Tier::FakeNodes,
                ..Options::default()
            };
            let started = operator::binary()
                .ok_or_else(|| anyhow::anyhow!("{} is not set", operator::BINARY))
                .and_then(|binary| Ok((Cluster::start(&options)?.here()?, binary)));
            let (cluster, binary) = match started {
                Ok(started) => started,
                Err(error) => {
                    assert!(std::env::var("CI").is_err(), "{error:#}");
                    println!("skipped: {error:#}");
                    return None;
                }
            };
            operator::install(&cluster).expect("the kinds and the rights");
            let mut settings = Settings::new(&cluster, "accelerators").expect("settings");
            for engine in ["VLLM", "LLAMACPP"] {
                for maker in ["NVIDIA", "AMD", "INTEL", "CPU"] {
                    let image = format!("engines.example/{engine}-{maker}:1").to_lowercase();
                    settings = settings.env(&format!("MESH_{engine}_{maker}_IMAGE"), &image);
                }
            }
            let operator = Operator::start(&binary, &settings).expect("it starts");
            operator.leads(LIMIT).expect("it leads");
            Some(Self {
                cluster,
                operator,
                namespace: HOME,
            })
        }

        fn apply(&self, object: &Value) {
            self.cluster
                .apply(object, "e2e")
                .unwrap_or_else(|said| panic!("{object}: {said}"));
        }

        fn get(&self, args: &[&str]) -> Value {
            let args = [&["get", "-n", self.namespace, "-o", "json"], args].concat();
            let said = self.cluster.kubectl(&args);
            said.map_or(Value::Null, |text| {
                serde_json::from_str(&text).expect("JSON")
            })
        }

        fn cache(&self, name: &str, files: &[&str]) {
            let files: Vec<Value> = files
                .iter()
                .map(|path| json!({"path": path, "sha256": DIGEST}))
                .collect();
            let spec = json!({"artifacts": files, "sources": [{"builtin": {}}]});
            self.apply(&object("ModelCache", self.namespace, name, &spec));
        }

        fn backend(&self, name: &str, spec: &Value) {
            let object = object("InferenceBackend", self.namespace, name, &served(spec));
            self.apply(&object);
        }

        fn condition(&self, namespace: &str, backend: &str, type_: &str) -> Value {
            let said = self
                .cluster
                .kubectl(&["get", "-n", namespace, "ib", backend, "-o", "json"]);
            let found: Value = said.map_or(Value::Null, |text| {
                serde_json::from_str(&text).expect("JSON")
            });
            let conditions = found["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            let found = conditions.find(|one| one["type"] == type_);
            found.cloned().unwrap_or_default()
        }

        /// Waits until a condition says so.
        fn until(&self, backend: &str, type_: &str, status: &str, words: &str) {
            let what = format!("{backend}: {type_}={status} `{words}`");
            wait(&what, || {
                let found = self.condition(self.namespace, backend, type_);
                let message = found["message"].as_str().unwrap_or_default();
                if found["status"] == status && message.contains(words) {
                    Ok(())
                } else {
                    Err(found.to_string())
                }
            });
        }

        fn pods(&self, backend: &str) -> Vec<Value> {
            let selector = format!("inferencemesh.dev/backend={backend}");
            let found = self.get(&["pods", "-l", &selector]);
            found["items"].as_array().cloned().unwrap_or_default()
        }
    }

    fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
    }

    fn served(in_cluster: &Value) -> Value {
        json!({"inCluster": in_cluster, "models": [{"name": "x"}]})
    }

    fn wait(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let Err(seen) = holds() else { return };
            assert!(Instant::now() < deadline, "{what}; last seen: {seen}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A backend, where its pods belong, and what each has.
    struct Case {
        name: &'static str,
        spec: Value,
        nodes: &'static str,
        limits: Value,
        image: &'static str,
    }

    fn cases() -> [Case; 4] {
        let case = |name, nodes, image, spec, limits| Case {
            name,
            spec,
            nodes,
            limits,
            image,
        };
        [
            case(
                "on-nvidia",
                "nvidia-",
                "engines.example/vllm-nvidia:1",
                json!({"modelRef": {"name": "folder"}, "engine": "Vllm", "accelerator": {"vendor": "Nvidia", "count": 2, "memory": "40Gi"}}),
                json!({"nvidia.com/gpu": "2"}),
            ),
            case(
                "on-amd",
                "amd-",
                "engines.example/vllm-amd:1",
                json!({"modelRef": {"name": "folder"}, "engine": "Vllm", "accelerator": {"vendor": "Amd", "memory": "100Gi"}}),
                json!({"amd.com/gpu": "1"}),
            ),
            case(
                "on-intel",
                "intel-",
                "engines.example/llamacpp-intel:1",
                json!({"modelRef": {"name": "file"}, "engine": "LlamaCpp", "accelerator": {"vendor": "Intel"}}),
                json!({"gpu.intel.com/xe": "1"}),
            ),
            case(
                "on-cpu",
                "cpu-",
                "inferencemesh.local/worker-floor:test",
                json!({"modelRef": {"name": "file"}, "replicas": 2, "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"memory": "2048Mi"}}}),
                json!({"memory": "2Gi"}),
            ),
        ]
    }

    fn every_maker_gets_its_nodes(world: &World) {
        for case in cases() {
            world.backend(case.name, &case.spec);
        }
        for case in cases() {
            world.until(case.name, "Ready", "True", "serve");
            let pods = world.pods(case.name);
            let wanted = case.spec["replicas"].as_u64().unwrap_or(1);
            assert_eq!(pods.len() as u64, wanted, "{}", case.name);
            for pod in pods {
                let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
                assert!(node.starts_with(case.nodes), "{} is on {node}", case.name);
                let engine = &pod["spec"]["containers"][0];
                assert_eq!(engine["resources"]["limits"], case.limits, "{}", case.name);
                assert_eq!(engine["image"], case.image);
            }
        }
        world.until("on-nvidia", "AcceleratorsBound", "True", "2 nvidia.com/gpu");
        let none = world.condition(HOME, "on-cpu", "AcceleratorsBound");
        assert!(none.is_null(), "a processor is not bound: {none}");
    }

    fn what_no_node_has_is_said(world: &World) {
        let folder = |accelerator: Value| json!({"modelRef": {"name": "folder"}, "engine": "Vllm", "accelerator": accelerator});
        world.backend(
            "too-large",
            &folder(json!({"vendor": "Nvidia", "memory": "500Gi"})),
        );
        world.backend("too-many", &folder(json!({"vendor": "Amd", "count": 9})));
        world.until(
            "too-large",
            "AcceleratorsBound",
            "False",
            "of 200 nodes have nvidia.com/gpu, 0 of them with 500Gi of memory each; the scheduler says: 0/200 nodes are available",
        );
        world.until(
            "too-many",
            "AcceleratorsBound",
            "False",
            "of 200 nodes have amd.com/gpu, 0 of them 9 or more",
        );
        for name in ["too-large", "too-many"] {
            assert_eq!(
                world.condition(HOME, name, "AcceleratorsBound")["reason"],
                "Unschedulable"
            );
            assert_eq!(world.condition(HOME, name, "Ready")["status"], "False");
            for pod in world.pods(name) {
                assert!(pod["spec"]["nodeName"].is_null(), "{pod}");
            }
        }
    }

    /// `1000m` is written back as `1`, and must not be written again.
    fn nothing_is_written_twice(world: &World) {
        let count = |name: &str| world.operator.metric(name).expect("metrics");
        let looked = r#"reconciles_total{kind="InferenceBackend",outcome="ok"}"#;
        let written = r#"api_writes_total{kind="Deployment"}"#;
        let (seen, before) = (count(looked), count(written));
        assert!(before > 0.0, "there are Deployments");
        let touch = ["annotate", "-n", HOME, "ib", "on-cpu", "touched=yes"];
        world.cluster.kubectl(&touch).expect("an annotation");
        wait("another look", || {
            let now = count(looked);
            if now > seen {
                Ok(())
            } else {
                Err(now.to_string())
            }
        });
        assert_eq!(count(written).to_bits(), before.to_bits());
    }

    /// A node with devices, each with so much memory.
    fn slice(node: &str, memory: &str) -> Value {
        let device = |number: u32| json!({"name": format!("gpu-{number}"), "capacity": {"memory": {"value": memory}}});
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": format!("{node}-{DRIVER}")},
            "spec": {"driver": DRIVER, "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
                "devices": [device(0), device(1)]}})
    }

    fn devices_are_claimed_by_their_class(world: &World) {
        world.apply(&json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": DRIVER},
            "spec": {"selectors": [{"cel": {"expression": format!("device.driver == '{DRIVER}'")}}]}}));
        world.apply(&slice("cpu-7", "24Gi"));
        world.apply(&slice("cpu-8", "80Gi"));
        let spec = json!({"modelRef": {"name": "folder"}, "engine": "Vllm",
            "accelerator": {"vendor": "Nvidia", "count": 2, "memory": "48Gi", "deviceClassName": DRIVER}});
        world.backend("claimed", &spec);
        world.until("claimed", "AcceleratorsBound", "True", "2 of DeviceClass");
        let pods = world.pods("claimed");
        assert_eq!(
            pods[0]["spec"]["nodeName"], "cpu-8",
            "the one with enough memory"
        );
        let limits = &pods[0]["spec"]["containers"][0]["resources"]["limits"];
        assert!(
            limits["nvidia.com/gpu"].is_null(),
            "nothing is asked for twice: {limits}"
        );
        let templates = || {
            world.get(&["resourceclaimtemplates"])["items"]
                .as_array()
                .map_or(0, Vec::len)
        };
        assert_eq!(templates(), 1);
        // One that asks for something else takes the place of the first.
        let mut other = spec;
        other["accelerator"]["count"] = json!(1);
        world.backend("claimed", &other);
        world.until("claimed", "AcceleratorsBound", "True", "1 of DeviceClass");
        wait("one template", || {
            let found = templates();
            if found == 1 {
                Ok(())
            } else {
                Err(found.to_string())
            }
        });
    }

    fn rights_that_only_claims_need_were_used(world: &World) {
        let idle = rights::idle("accelerators", &world.cluster).expect("its record");
        assert!(idle.is_empty(), "not used: {idle:?}");
    }

    fn a_tenants_own_program_gets_no_pod(world: &World) {
        world
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}));
        let files = json!({"artifacts": [{"path": "m.gguf", "sha256": DIGEST}], "sources": [{"builtin": {}}]});
        world.apply(&object("ModelCache", "team", "file", &files));
        let spec = served(&json!({"modelRef": {"name": "file"}, "args": ["--copy-to=elsewhere"]}));
        world.apply(&object("InferenceBackend", "team", "own", &spec));
        wait("the refusal", || {
            let ready = world.condition("team", "own", "Ready");
            if ready["reason"] == "OnlyInMeshNamespace" {
                Ok(())
            } else {
                Err(ready.to_string())
            }
        });
        let made = world
            .cluster
            .kubectl(&["get", "-n", "team", "deployments", "-o", "name"]);
        assert_eq!(made.as_deref(), Ok(""), "no pods are made");
    }

    /// The chart's admission policies, as Helm renders them.
    fn admission(world: &World) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let done = Command::new(tool::obtain("helm").expect("Helm"))
            .args(["template", "mesh", "-n", HOME, "--show-only"])
            .arg("templates/admission.yaml")
            .arg(root.join("charts/inference-mesh"))
            .output()
            .expect("Helm runs");
        assert!(done.status.success(), "{done:?}");
        let file = world.cluster.folder().join("admission.yaml");
        std::fs::write(&file, &done.stdout).expect("a file");
        let file = file.display().to_string();
        world
            .cluster
            .kubectl(&["apply", "--server-side", "-f", &file])
            .expect("the policies");
    }

    fn the_api_server_refuses_it_before_the_operator_does(world: &World) {
        admission(world);
        let own = |namespace: &str, name: &str, more: Value| {
            let mut spec = json!({"modelRef": {"name": "file"}});
            for (key, value) in more.as_object().expect("a mapping") {
                spec[key] = value.clone();
            }
            let object = object("InferenceBackend", namespace, name, &served(&spec));
            world.cluster.apply(&object, "e2e")
        };
        let image = || json!({"image": "elsewhere.example/program:1"});
        let mut tries = 0;
        wait("the policy to be in force", || {
            tries += 1;
            match own("team", &format!("with-image-{tries}"), image()) {
                Err(said) if said.contains("only backends of namespace mesh-system") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        for more in [
            json!({"args": ["--x"]}),
            json!({"env": [{"name": "X", "value": "y"}]}),
            json!({"runtimeClassName": "x"}),
        ] {
            let said = own("team", "refused", more.clone()).expect_err("it is refused");
            assert!(
                said.contains("only backends of namespace mesh-system"),
                "{more}: {said}"
            );
        }
        own("team", "plain", json!({})).expect("without them it is fine");
        own(HOME, "with-image", image()).expect("in the mesh namespace it is fine");
    }

    #[test]
    fn backends_get_the_nodes_that_have_what_they_ask_for() {
        let Some(mut world) = World::start("accelerators") else {
            return;
        };
        let folder = ["m/config.json", "m/model.safetensors"];
        world.cache("file", &["m.gguf"]);
        world.cache("folder", &folder);
        every_maker_gets_its_nodes(&world);
        what_no_node_has_is_said(&world);
        nothing_is_written_twice(&world);
        // Elsewhere than at home, where the operator needs its rights over the cluster.
        world.namespace = "lab";
        world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}}));
        world.cache("folder", &folder);
        devices_are_claimed_by_their_class(&world);
        rights_that_only_claims_need_were_used(&world);
        a_tenants_own_program_gets_no_pod(&world);
        the_api_server_refuses_it_before_the_operator_does(&world);
    }
}
