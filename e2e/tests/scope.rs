//! How far an operator reaches, on a real API server with the rights of the chart and no more: one of the
//! cluster, one of a namespace beside it, and what `mesh-operator uninstall` takes away of either. Needs the
//! built operator and the programs of a Kubernetes; without them it says that it is skipped, and fails with
//! `CI=true`.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Options, tool};
    use mesh_e2e::operator::{self, HOME, Operator, Settings};
    use serde_json::{Value, json};

    const LIMIT: Duration = Duration::from_secs(20);
    /// A namespace with a mesh of its own.
    const OWN: &str = "own";
    /// One without.
    const PLAIN: &str = "plain";
    const MANAGED: &str = "app.kubernetes.io/managed-by";
    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    struct World {
        cluster: Cluster,
        binary: PathBuf,
    }

    impl World {
        fn start(name: &str) -> Option<Self> {
            let options = Options {
                name: name.to_owned(),
                ..Options::default()
            };
            let started = operator::binary()
                .ok_or_else(|| anyhow::anyhow!("{} is not set", operator::BINARY))
                .and_then(|binary| Ok((Cluster::start(&options)?.here()?, binary)));
            match started {
                Ok((cluster, binary)) => Some(Self { cluster, binary }),
                Err(error) => {
                    assert!(std::env::var("CI").is_err(), "{error:#}");
                    println!("skipped: {error:#}");
                    None
                }
            }
        }

        fn apply(&self, object: &Value) {
            self.cluster
                .apply(object, "e2e")
                .unwrap_or_else(|said| panic!("{object}: {said}"));
        }

        fn namespace(&self, name: &str, own: bool) {
            let labels = if own {
                json!({"inferencemesh.dev/mesh": "own"})
            } else {
                json!({})
            };
            self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
        }

        fn get(&self, namespace: &str, what: &str) -> Value {
            let said = self
                .cluster
                .kubectl(&["get", "-n", namespace, what, "-o", "json"]);
            said.map_or(Value::Null, |text| {
                serde_json::from_str(&text).expect("JSON")
            })
        }

        /// Applies templates of the chart, as Helm renders them for a namespace.
        fn chart(&self, namespace: &str, template: &str, scope: &str) {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let done = Command::new(tool::obtain("helm").expect("Helm"))
                .args(["template", "mesh"])
                .arg(root.join("charts/inference-mesh"))
                .args(["-n", namespace, "--show-only", template])
                .args([
                    "--set",
                    &format!("scope={scope},uninstall.deleteVolumes=true"),
                ])
                .output()
                .expect("Helm runs");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{said}");
            let file = self.cluster.folder().join("template.yaml");
            std::fs::write(&file, &done.stdout).expect("a file");
            let file = file.display().to_string();
            self.cluster
                .kubectl(&["apply", "--server-side", "-f", &file])
                .unwrap_or_else(|said| panic!("{template}: {said}"));
        }

        /// The operator of a namespace or of the cluster, as the chart starts it.
        fn operator(&self, namespace: &str, scope: &str) -> Operator {
            let settings = Settings {
                kubeconfig: self.kubeconfig(namespace, "mesh-operator"),
                identity: namespace.to_owned(),
                env: vec![
                    (String::from("MESH_NAMESPACE"), namespace.to_owned()),
                    (String::from("MESH_SCOPE"), scope.to_owned()),
                ],
            };
            let operator = Operator::start(&self.binary, &settings).expect("it starts");
            operator.leads(LIMIT).expect("it leads");
            operator
        }

        fn kubeconfig(&self, namespace: &str, account: &str) -> PathBuf {
            let user = format!("system:serviceaccount:{namespace}:{account}");
            self.cluster
                .user_kubeconfig(&user, Some("system:serviceaccounts"))
                .expect("a kubeconfig")
        }

        fn uninstall(&self, namespace: &str, scope: &str, volumes: bool) {
            let mut command = Command::new(&self.binary);
            command
                .arg("uninstall")
                .env("KUBECONFIG", self.kubeconfig(namespace, "mesh-uninstall"))
                .env("MESH_NAMESPACE", namespace)
                .env("MESH_SCOPE", scope);
            if volumes {
                command.env("MESH_DELETE_VOLUMES", "true");
            }
            let done = command.output().expect("it runs");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{scope} {namespace}: {said}");
        }

        /// A backend with its model.
        fn backend(&self, namespace: &str, replicas: u32) {
            let meta = |name: &str| json!({"namespace": namespace, "name": name});
            self.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": meta("m"),
                "spec": {"artifacts": [{"path": "m.gguf", "sha256": DIGEST}], "sources": [{"builtin": {}}]}}));
            self.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": meta("b"),
                "spec": {"inCluster": {"modelRef": {"name": "m"}, "replicas": replicas}, "models": [{"name": "own"}]}}));
        }

        fn replicas(&self, namespace: &str) -> Option<u64> {
            self.get(namespace, "deployment/b-worker")["spec"]["replicas"].as_u64()
        }

        /// Requests of operators and hooks that were forbidden.
        fn forbidden(&self) -> Vec<String> {
            let record = std::fs::read_to_string(self.cluster.audit_log()).expect("a record");
            let ours = |event: &Value| {
                let user = event["user"]["username"].as_str().unwrap_or_default();
                user.contains(":mesh-")
                    && event["annotations"]["authorization.k8s.io/decision"] == "forbid"
            };
            record
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(ours)
                .map(|event| {
                    format!(
                        "{} {} {}",
                        event["user"]["username"], event["verb"], event["requestURI"]
                    )
                })
                .collect()
        }
    }

    fn until(what: &str, mut good: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !good() {
            assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn an_operator_of_a_namespace_and_one_of_the_cluster_keep_out_of_each_others_way() {
        let Some(world) = World::start("scope") else {
            return;
        };
        operator::install(&world.cluster).expect("kinds and rules");
        world.namespace(OWN, true);
        world.namespace(PLAIN, false);
        world.chart(OWN, "templates/rbac.yaml", "namespaced");
        let wide = world.operator(HOME, "cluster");
        let narrow = world.operator(OWN, "namespaced");
        world.backend(OWN, 1);
        world.backend(PLAIN, 1);
        for (namespace, mesh) in [(OWN, OWN), (PLAIN, HOME)] {
            until("its worker is made", || {
                world.replicas(namespace) == Some(1)
            });
            let policy = world.get(namespace, "networkpolicy/b-worker").to_string();
            let named = format!("\"kubernetes.io/metadata.name\":\"{mesh}\"");
            assert!(policy.contains(&named), "{namespace}: {policy}");
        }
        // Alone, the one of the cluster still leaves that namespace as it is.
        assert!(narrow.terminate().expect("it ends").success());
        world.backend(OWN, 2);
        world.backend(PLAIN, 2);
        until("the other is followed", || world.replicas(PLAIN) == Some(2));
        assert_eq!(world.replicas(OWN), Some(1));
        let narrow = world.operator(OWN, "namespaced");
        until("its own is followed", || world.replicas(OWN) == Some(2));
        drop((wide, narrow));
        let forbidden = world.forbidden();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
    }

    const PVC: &str = "persistentvolumeclaim";
    /// Kinds of everything that an operator makes.
    const KINDS: [&str; 9] = [
        "deployment",
        "statefulset",
        "job",
        "service",
        "configmap",
        "serviceaccount",
        "poddisruptionbudget",
        "networkpolicy",
        "resourceclaimtemplate",
    ];

    /// One object of each kind, made by `manager`.
    fn children(world: &World, namespace: &str, name: &str, manager: &str) {
        let mut meta = json!({"namespace": namespace, "name": name, "labels": {MANAGED: manager}});
        if name == "ours" {
            meta["labels"]["app.kubernetes.io/part-of"] = json!("inference-mesh");
        }
        let pod = json!({"metadata": {"labels": {"a": name}}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
        let once = {
            let mut pod = pod.clone();
            pod["spec"]["restartPolicy"] = json!("Never");
            json!({"template": pod})
        };
        let selector = json!({"matchLabels": {"a": name}});
        let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        for (version, kind, spec) in [
            (
                "apps/v1",
                "Deployment",
                json!({"selector": selector, "template": pod}),
            ),
            (
                "apps/v1",
                "StatefulSet",
                json!({"selector": selector, "serviceName": name, "template": pod}),
            ),
            ("batch/v1", "Job", once),
            (
                "v1",
                "Service",
                json!({"clusterIP": "None", "selector": {"a": name}, "ports": [{"port": 80}]}),
            ),
            ("v1", "ConfigMap", Value::Null),
            ("v1", "ServiceAccount", Value::Null),
            ("v1", "PersistentVolumeClaim", claim),
            (
                "policy/v1",
                "PodDisruptionBudget",
                json!({"maxUnavailable": 1, "selector": selector}),
            ),
            (
                "networking.k8s.io/v1",
                "NetworkPolicy",
                json!({"podSelector": selector}),
            ),
            (
                "resource.k8s.io/v1",
                "ResourceClaimTemplate",
                json!({"spec": {"devices": {}}}),
            ),
        ] {
            let mut object = json!({"apiVersion": version, "kind": kind, "metadata": meta});
            if !spec.is_null() {
                object["spec"] = spec;
            }
            world.apply(&object);
        }
    }

    /// True if it is there and nobody asked for its end. Without controllers an end is asked for and
    /// stays so.
    fn stays(world: &World, namespace: &str, kind: &str, name: &str) -> bool {
        let object = world.get(namespace, &format!("{kind}/{name}"));
        !object.is_null() && object["metadata"]["deletionTimestamp"].is_null()
    }

    fn all(world: &World, namespace: &str, name: &str, expected: bool) {
        for kind in KINDS {
            let found = stays(world, namespace, kind, name);
            assert_eq!(found, expected, "{namespace}: {kind}/{name}");
        }
    }

    #[test]
    fn an_uninstall_takes_every_child_within_its_reach_and_nothing_else() {
        let Some(world) = World::start("uninstall") else {
            return;
        };
        operator::kinds(&world.cluster).expect("the kinds");
        world.namespace(HOME, false);
        world.namespace(OWN, true);
        world.namespace(PLAIN, false);
        world.chart(OWN, "templates/uninstall.yaml", "namespaced");
        world.chart(HOME, "templates/uninstall.yaml", "cluster");
        world.chart(HOME, "templates/admission.yaml", "cluster");
        for namespace in [OWN, PLAIN] {
            children(&world, namespace, "ours", "mesh-operator");
            children(&world, namespace, "foreign", "somebody");
            // Of a product that calls its operator as we do ours.
            children(&world, namespace, "namesake", "mesh-operator");
            world.backend(namespace, 1);
        }
        world.uninstall(HOME, "cluster", false);
        all(&world, PLAIN, "ours", false);
        all(&world, PLAIN, "foreign", true);
        all(&world, PLAIN, "namesake", true);
        assert!(stays(&world, PLAIN, PVC, "ours"), "volumes stay");
        all(&world, OWN, "ours", true);
        let bindings = world.get(HOME, "validatingadmissionpolicybindings");
        let left = bindings["items"].as_array().map(Vec::len);
        assert!(
            left > Some(3),
            "the chart's own is the chart's to remove: {bindings}"
        );

        world.uninstall(OWN, "namespaced", true);
        all(&world, OWN, "ours", false);
        all(&world, OWN, "foreign", true);
        all(&world, OWN, "namesake", true);
        assert!(!stays(&world, OWN, PVC, "ours"), "volumes go if asked");
        assert!(stays(&world, PLAIN, PVC, "ours"), "but not elsewhere");
        assert!(stays(&world, OWN, PVC, "foreign"));
        for namespace in [OWN, PLAIN] {
            assert!(stays(&world, namespace, "inferencebackend", "b"));
            assert!(stays(&world, namespace, "modelcache", "m"));
        }
        // Again: what is gone is no error.
        world.uninstall(OWN, "namespaced", true);
        let forbidden = world.forbidden();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
    }
}
