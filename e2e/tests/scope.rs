//! How far an operator reaches, on a real API server with the rights of the chart and no more: one of the
//! cluster, one of a namespace beside it, and what `mesh-operator uninstall` takes away of either, with which of its
//! rights. Needs the built operator and the programs of a Kubernetes; without them it says that it is skipped, and
//! fails with `CI=true`. In a given cluster it plays the controllers, as the operator's stories do.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Tier, tool};
    use mesh_e2e::operator::{self, HOME, Operator, Settings};
    use mesh_e2e::rights::{self, Right};
    use mesh_e2e::stage::{Stage, policy};
    use serde_json::{Value, json};

    const LIMIT: Duration = Duration::from_secs(20);
    /// A namespace with a mesh of its own.
    const OWN: &str = "own";
    /// One without.
    const PLAIN: &str = "plain";
    const MANAGED: &str = "app.kubernetes.io/managed-by";
    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    struct World {
        // It is left before the next one's turn.
        stage: Stage,
        _turn: Option<MutexGuard<'static, ()>>,
    }

    /// Of a given cluster there is only one.
    static TURN: Mutex<()> = Mutex::new(());

    impl World {
        fn start(name: &str) -> Option<Self> {
            let given = Cluster::is_given();
            let turn = given.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
            match Stage::start(name, Tier::ControlPlane) {
                Ok(stage) => Some(Self { stage, _turn: turn }),
                Err(error) => {
                    assert!(std::env::var("CI").is_err(), "{error:#}");
                    println!("skipped: {error:#}");
                    None
                }
            }
        }

        fn apply(&self, object: &Value) {
            self.stage
                .apply(object)
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
            self.stage
                .get(&["-n", namespace, what])
                .unwrap_or(Value::Null)
        }

        /// A template of the chart, as Helm renders it for a namespace.
        fn rendered(namespace: &str, template: &str, scope: &str) -> String {
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
            String::from_utf8(done.stdout).expect("text")
        }

        /// Applies one.
        fn chart(&self, namespace: &str, template: &str, scope: &str) {
            let text = Self::rendered(namespace, template, scope);
            let file = self.stage.cluster.folder().join("template.yaml");
            std::fs::write(&file, text).expect("a file");
            let file = file.display().to_string();
            self.stage
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
            let operator = self.stage.begin(&settings).expect("it starts");
            operator.leads(LIMIT).expect("it leads");
            operator
        }

        fn kubeconfig(&self, namespace: &str, account: &str) -> PathBuf {
            let user = format!("system:serviceaccount:{namespace}:{account}");
            let cluster = &self.stage.cluster;
            cluster
                .user_kubeconfig(&user, Some("system:serviceaccounts"))
                .expect("a kubeconfig")
        }

        fn uninstall(&self, namespace: &str, scope: &str, volumes: bool) {
            let mut command = Command::new(operator::binary().expect("a stage has one"));
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

        /// Requests of operators and hooks that were forbidden, as far as they are recorded.
        fn forbidden(&self) -> Vec<String> {
            let cluster = &self.stage.cluster;
            if let Err(reason) = cluster.recorded() {
                println!("what was forbidden is not looked at: {reason:#}");
                return Vec::new();
            }
            let record = std::fs::read_to_string(cluster.audit_log()).expect("a record");
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
        finalizers(&world);
        drop((wide, narrow));
        let forbidden = world.forbidden();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
    }

    const LESSER: &str = "lesser";

    /// Somebody with all rights of the operator but those over finalizers.
    fn lesser(world: &World) {
        let mut rules = world.get(OWN, "clusterrole/mesh-operator")["rules"].take();
        let all = rules.as_array_mut().expect("rules");
        let before = all.len();
        all.retain(|rule| !rule["resources"].to_string().contains("/finalizers"));
        assert_eq!(all.len(), before - 1);
        let meta = json!({"name": LESSER});
        let group = "rbac.authorization.k8s.io";
        world.apply(&json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": meta, "rules": rules}));
        world.apply(&json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": LESSER},
            "subjects": [{"apiGroup": group, "kind": "User", "name": format!("system:serviceaccount:{OWN}:{LESSER}")}]}));
    }

    /// Children name owners whose deletion they block. Where the API server asks whether one may, whoever has all rights
    /// of the operator but those over finalizers is refused. No record shows that, so it is tried.
    fn finalizers(world: &World) {
        let mut own = policy(OWN, "p");
        own["spec"]["floor"]["backendRef"] = json!({"name": "b"});
        world.apply(&own);
        let owner = |object: &Value| {
            let found = object.pointer("/metadata/ownerReferences/0");
            found.cloned().unwrap_or_default()
        };
        let of_policy = || {
            let kept = world.get(OWN, "controllerrevisions");
            owner(kept.pointer("/items/0").unwrap_or(&Value::Null))
        };
        until("an accepted policy is kept", || {
            of_policy()["blockOwnerDeletion"] == true
        });
        let of_backend = owner(&world.get(OWN, "deployment/b-worker"));
        assert_eq!(of_backend["blockOwnerDeletion"], true, "{of_backend}");
        if let Err(reason) = world.stage.cluster.started_here() {
            println!("whether the API server asks for finalizers is not looked at: {reason:#}");
            return;
        }
        lesser(world);
        let file = world.stage.cluster.folder().join("owned.json");
        let named = |kind: &str, version: &str, owner: &Value| json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": PLAIN, "name": "owned", "ownerReferences": [owner]}});
        let mut service = named("Service", "v1", &of_backend);
        service["spec"] = json!({"clusterIP": "None", "ports": [{"port": 80}]});
        let mut revision = named("ControllerRevision", "apps/v1", &of_policy());
        revision["revision"] = json!(1);
        revision["data"] = json!({});
        for object in [service, revision] {
            std::fs::write(&file, object.to_string()).expect("a file");
            let create = |namespace: &str, account: &str| {
                let mut kubectl = world.stage.cluster.kubectl_command().expect("kubectl");
                let config = world.kubeconfig(namespace, account).display().to_string();
                kubectl.args([
                    "create",
                    "--validate=false",
                    "--dry-run=server",
                    "--kubeconfig",
                    &config,
                    "-f",
                ]);
                let done = kubectl.arg(&file).output().expect("it runs");
                (
                    done.status.success(),
                    String::from_utf8_lossy(&done.stderr).into_owned(),
                )
            };
            until("the rules are known", || {
                create(OWN, LESSER).1.contains("blockOwnerDeletion")
            });
            let (made, said) = create(HOME, "mesh-operator");
            assert!(made, "{said}");
            let (made, said) = create(OWN, LESSER);
            assert!(
                !made && said.contains("cannot set blockOwnerDeletion"),
                "{said}"
            );
        }
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
        // The same of the whole cluster, whose other children are gone.
        world.uninstall(HOME, "cluster", true);
        assert!(!stays(&world, PLAIN, PVC, "ours"));
        assert!(stays(&world, PLAIN, PVC, "foreign"));
        let forbidden = world.forbidden();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
        all_rights_were_used(&world);
        let theirs = format!("{MANAGED}=somebody");
        let kinds = format!("{},{PVC}", KINDS.join(","));
        let left = ["delete", &kinds, "-A", "-l", &theirs, "--wait=false"];
        world.stage.kubectl(&left).expect("they go");
    }

    /// What the chart grants the hook is what it used: verb, resource, reach and name.
    fn all_rights_were_used(world: &World) {
        const ACCOUNT: &str = "mesh-uninstall";
        let cluster = &world.stage.cluster;
        // In a given one the record and what is there may be of others.
        if cluster.started_here().is_err() {
            return;
        }
        for (namespace, scope) in [(HOME, "cluster"), (OWN, "namespaced")] {
            let rules = World::rendered(namespace, "templates/uninstall.yaml", scope);
            let objects = rights::objects(&rules).expect("YAML");
            let granted = rights::granted(&objects, namespace, ACCOUNT);
            assert!(granted.len() > 20, "{granted:?}");
            let user = format!("system:serviceaccount:{namespace}:{ACCOUNT}");
            let asked = rights::begun_by(cluster, &user).expect("a record");
            let compared = rights::compare(&granted, &asked, namespace);
            let idle: Vec<String> = compared.idle.iter().map(Right::to_string).collect();
            assert!(idle.is_empty(), "{scope}: not used: {idle:#?}");
        }
    }
}
