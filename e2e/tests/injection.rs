//! The injection on a real API server, which asks the operator's own webhook by the chart's own configuration, with
//! the rights of the chart and no more. Needs the built operator and the programs of a Kubernetes; without them it
//! says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod injection {
    mod controllers;
    mod debugged;
    mod latency;
    mod missed;
    mod posing;
    mod shapes;

    use std::process::Command;
    use std::time::Duration;

    use mesh_cluster::Tier;
    use mesh_e2e::operator::{self, HOME, Operator};
    use mesh_e2e::stage::Stage;
    use serde_json::{Value, json};

    const SOON: Duration = Duration::from_secs(30);
    const SIDECAR: &str = "mesh-sidecar";
    const CONFIGURATION: &str = "mutatingwebhookconfiguration/mesh-inject";
    const IMAGE: &str = "registry.example/sidecar:1";
    /// Namespaces and their labels besides their names.
    const NAMESPACES: [(&str, &[(&str, &str)]); 9] = [
        ("plain", &[]),
        ("asking", &[("inject", "enabled")]),
        ("strict", &[("inject", "required")]),
        ("never", &[("inject", "disabled")]),
        ("odd", &[("inject", "yes")]),
        ("own", &[("inject", "required"), ("mesh", "own")]),
        ("closed", &[("inject", "enabled"), ("confine", "enabled")]),
        ("kube-extra", &[("inject", "required")]),
        ("guarded", &[("inject", "enabled")]),
    ];

    struct World {
        stage: Stage,
        operator: Option<Operator>,
    }

    impl World {
        fn start(name: &str, tier: Tier) -> Option<Self> {
            let stage = match Stage::start(name, tier) {
                Ok(stage) => stage,
                Err(error) => {
                    assert!(std::env::var("CI").is_err(), "{error:#}");
                    println!("skipped: {error:#}");
                    return None;
                }
            };
            for (name, labels) in NAMESPACES {
                let mut own = json!({});
                for (key, value) in labels {
                    own[format!("inferencemesh.dev/{key}")] = json!(value);
                }
                if name == "guarded" {
                    own["pod-security.kubernetes.io/enforce"] = json!("restricted");
                }
                let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": own}});
                stage.apply(&object).unwrap();
            }
            // No controller makes them.
            let bare = (tier == Tier::ControlPlane).then_some(NAMESPACES);
            for (name, _) in bare.iter().flatten().chain(&[(HOME, &[][..])]) {
                let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": name, "name": "default"}});
                stage.apply(&account).unwrap();
            }
            let operator = begin(&stage, "first");
            operator.leads(SOON).unwrap();
            let world = Self {
                stage,
                operator: Some(operator),
            };
            world.configure("helm");
            Some(world)
        }

        /// The chart's configuration as Helm renders it, and a way to the operator's process: the address of
        /// its Service is this machine.
        fn configure(&self, manager: &str) {
            let written = self.operator.as_ref().unwrap().written();
            let (_, rest) = written
                .split_once("injecting on https://127.0.0.1:")
                .unwrap();
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": HOME, "name": "mesh-operator"},
                "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
            self.stage.apply(&service).unwrap();
            let rendered =
                operator::rendered(&self.stage.cluster, "templates/injection.yaml").unwrap();
            assert_eq!(rendered.matches("port: 9443").count(), 6, "{rendered}");
            let rendered = rendered.replace("port: 9443", &format!("port: {port}"));
            let file = self.stage.cluster.folder().join("injection.yaml");
            std::fs::write(&file, rendered).unwrap();
            let file = file.display().to_string();
            let manager = format!("--field-manager={manager}");
            let args = [
                "apply",
                "--server-side",
                "--force-conflicts",
                &manager,
                "-f",
                &file,
            ];
            self.stage.kubectl(&args).unwrap();
        }

        /// Waits until every webhook of the configuration has a bundle; gives them.
        fn bundles(&self) -> Vec<String> {
            let found = || {
                let object = self.stage.get(&[CONFIGURATION])?;
                let webhooks = object["webhooks"].as_array().cloned().unwrap_or_default();
                let bundle =
                    |one: &Value| one["clientConfig"]["caBundle"].as_str().map(str::to_owned);
                let all: Option<Vec<String>> = webhooks.iter().map(bundle).collect();
                Ok(all.filter(|all| all.len() == 6))
            };
            self.stage
                .until("the webhooks have a bundle", SOON, found)
                .unwrap()
        }

        /// How often the operator wrote the configuration.
        fn written(&self) -> usize {
            let all = self.stage.wrote().unwrap();
            let ours = |line: &&String| line.contains("mutatingwebhookconfigurations");
            all.iter().filter(ours).count()
        }

        /// What the API server makes of objects in a dry run, in their order.
        fn tried(&self, objects: &[Value]) -> Vec<Value> {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            let file = self.stage.cluster.folder().join("list.json");
            std::fs::write(&file, list.to_string()).unwrap();
            let file = file.display().to_string();
            let args = ["create", "--dry-run=server", "-o", "json", "-f", &file];
            let text = self.stage.kubectl(&args).unwrap();
            // One after the other, not as a list.
            let made = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            made.collect::<Result<_, _>>().unwrap()
        }

        /// The words of a refusal.
        fn refused(&self, object: &Value) -> String {
            let said = self.stage.apply(object);
            format!("{:#}", said.expect_err(&object.to_string()))
        }

        fn metric(&self, outcome: &str, reason: &str) -> f64 {
            let name = format!("injections_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}");
            self.operator.as_ref().unwrap().metric(&name).unwrap()
        }
    }

    fn begin(stage: &Stage, name: &str) -> Operator {
        begin_with(stage, name, "0s")
    }

    fn begin_with(stage: &Stage, name: &str, drain: &str) -> Operator {
        let settings = stage
            .settings(name)
            .unwrap()
            .env("MESH_DRAIN_DELAY", drain)
            .env("MESH_INJECT_LISTEN", "127.0.0.1:0")
            .env("MESH_SIDECAR_IMAGE", IMAGE)
            .env(
                "MESH_SIDECAR_RESOURCES",
                r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#,
            );
        let operator = stage.begin(&settings).unwrap();
        operator.wait_for("injecting on https://", SOON).unwrap();
        operator
    }

    fn restricted() -> Value {
        json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})
    }

    fn container(name: &str) -> Value {
        json!({"name": name, "image": "app:1", "securityContext": restricted()})
    }

    fn pod(namespace: &str, name: &str, inject: &str) -> Value {
        let labels = if inject.is_empty() {
            json!({})
        } else {
            json!({"inferencemesh.dev/inject": inject})
        };
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"containers": [container("app")]}})
    }

    fn carries(pod: &Value) -> bool {
        pod["spec"]["initContainers"][0]["name"] == SIDECAR
    }

    #[test]
    fn pods_get_their_sidecar_where_it_was_asked_for_and_nowhere_else() {
        let Some(mut world) = World::start("inject", Tier::ControlPlane) else {
            return;
        };
        bundle(&world);
        selected(&world);
        shapes::all(&world);
        again(&world);
        refused(&world);
        trusted(&world);
        posing::refused(&world);
        debugged::kept_out(&world);
        missed::told(&world);
        let lacking = world.stage.refused().unwrap();
        assert!(lacking.is_empty(), "rights are lacking: {lacking:?}");
        drains(&mut world);
        down(&world);
        uninstalled(&world);
    }

    /// Written once by the leader, kept by whoever applies the chart again, and repaired.
    fn bundle(world: &World) {
        let first = world.bundles();
        assert!(first.iter().all(|one| *one == first[0]), "{first:?}");
        let standby = begin(&world.stage, "second");
        // As Helm 4 upgrades, and as Helm 3 and kubectl do.
        world.configure("helm");
        let file = world.stage.cluster.folder().join("injection.yaml");
        let file = file.display().to_string();
        world.stage.kubectl(&["apply", "-f", &file]).unwrap();
        assert_eq!(world.bundles(), first);
        assert_eq!(world.written(), 1, "{:?}", world.stage.wrote().unwrap());
        let lost = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
        let patch = ["patch", CONFIGURATION, "--type=json", "-p", lost];
        world.stage.kubectl(&patch).unwrap();
        assert_eq!(world.bundles(), first);
        assert_eq!(world.written(), 2);
        assert!(standby.terminate().unwrap().success());
    }

    /// The table of who is asked about.
    fn selected(world: &World) {
        let mut asked = Vec::new();
        for (namespace, of_pods) in [
            // By the pod's label: none, enabled, disabled, something else.
            ("plain", [false, true, false, false]),
            ("asking", [true, true, false, true]),
            ("strict", [true, true, true, true]),
            ("never", [false, false, false, false]),
            ("odd", [false, true, false, false]),
            ("own", [false, false, false, false]),
            ("closed", [true, true, false, true]),
            ("kube-extra", [false, false, false, false]),
            (HOME, [false, false, false, false]),
        ] {
            let labels = ["", "enabled", "disabled", "yes"];
            for (number, (label, expected)) in labels.into_iter().zip(of_pods).enumerate() {
                let object = pod(namespace, &format!("p{number}"), label);
                asked.push((object, expected));
            }
        }
        let mut mirror = pod("strict", "mirror", "");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        mirror["spec"]["nodeName"] = json!("somewhere");
        asked.push((mirror, false));
        // A pod needs no name.
        let mut generated = pod("asking", "", "");
        generated["metadata"] = json!({"namespace": "asking", "generateName": "g-"});
        asked.push((generated, true));

        let objects: Vec<Value> = asked.iter().map(|(object, _)| object.clone()).collect();
        let made = world.tried(&objects);
        assert_eq!(made.len(), asked.len());
        for (made, (object, expected)) in made.iter().zip(&asked) {
            let what = format!("{}", object["metadata"]);
            assert_eq!(carries(made), *expected, "{what}");
            let marked = made["metadata"]["labels"]["inferencemesh.dev/injected"] == "true";
            assert_eq!(marked, *expected, "{what}");
        }
        let expected = asked.iter().filter(|(_, expected)| *expected).count();
        let expected = f64::from(u32::try_from(expected).unwrap());
        // Who was not to be asked about was not asked about.
        assert!((world.metric("dry_run", "") - expected).abs() < 0.5);
    }

    /// What has its sidecar is taken as it is, also with all that the API server has added.
    fn again(world: &World) {
        let pods = world.stage.get(&["pods", "-n", "guarded"]).unwrap();
        let bare = |pod: &Value| {
            let mut pod = pod.clone();
            let meta = &pod["metadata"];
            pod["metadata"] = json!({"namespace": "guarded", "name": format!("again-{}", meta["name"].as_str().unwrap()),
                "labels": meta["labels"], "annotations": meta["annotations"]});
            pod.as_object_mut().unwrap().remove("status");
            pod
        };
        let copies: Vec<Value> = pods["items"].as_array().unwrap().iter().map(bare).collect();
        let made = world.tried(&copies);
        for (made, copy) in made.iter().zip(&copies) {
            assert_eq!(made["spec"], copy["spec"], "{}", copy["metadata"]["name"]);
            assert_eq!(
                made["metadata"]["annotations"],
                copy["metadata"]["annotations"]
            );
        }
    }

    fn refused(world: &World) {
        let before = world.metric("refused", "HostNetwork");
        let mut host = pod("plain", "host", "enabled");
        host["spec"]["hostNetwork"] = json!(true);
        let said = world.refused(&host);
        assert!(
            said.contains("hostNetwork") && said.contains("inferencemesh.dev/inject"),
            "{said}"
        );
        assert!(world.metric("refused", "HostNetwork") > before);
        // One that did not ask is let through, and counted.
        let mut quiet = pod("asking", "host", "");
        quiet["spec"]["hostNetwork"] = json!(true);
        world.stage.apply(&quiet).unwrap();
        let made = world.stage.get(&["pod/host", "-n", "asking"]).unwrap();
        assert!(
            !carries(&made) && made["spec"]["initContainers"].is_null(),
            "{made}"
        );
        assert!(world.metric("skipped", "HostNetwork") > 0.5);

        let mut taken = pod("asking", "taken", "");
        taken["spec"]["containers"][0]["name"] = json!(SIDECAR);
        assert!(world.refused(&taken).contains("rename yours"));
        let mut port = pod("asking", "port", "");
        port["spec"]["containers"][0]["ports"] = json!([{"containerPort": 14141}]);
        assert!(world.refused(&port).contains("14141"));

        // A base URL of its own leaves the mesh: told, and where the namespace is confined refused.
        let mut foreign = pod("closed", "foreign", "");
        foreign["spec"]["containers"][0]["env"] =
            json!([{"name": "OPENAI_BASE_URL", "value": "https://key:secret@api.example.com/v1"}]);
        let said = world.refused(&foreign);
        assert!(
            said.contains("confined") && said.contains("api.example.com"),
            "{said}"
        );
        assert!(!said.contains("secret"), "{said}");
        foreign["metadata"]["namespace"] = json!("asking");
        world.stage.apply(&foreign).unwrap();
        let made = world.stage.get(&["pod/foreign", "-n", "asking"]).unwrap();
        assert_eq!(
            made["metadata"]["annotations"]["inferencemesh.dev/foreign-base-url"],
            "app=api.example.com"
        );
        let written = world.operator.as_ref().unwrap().written();
        assert!(
            !written.contains("secret@") && !written.contains("key:"),
            "{written}"
        );
    }

    /// Whom to trust is told where sidecars are, and nowhere else.
    fn trusted(world: &World) {
        world
            .stage
            .apply(&pod("plain", "alone", "enabled"))
            .unwrap();
        let told = || {
            let all = world.stage.get(&[
                "configmaps",
                "-A",
                "--field-selector=metadata.name=mesh-trust",
            ])?;
            let mut names: Vec<String> = all["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one["metadata"]["namespace"].as_str().map(str::to_owned))
                .collect();
            names.sort();
            let expected = ["asking", "closed", "guarded", HOME, "plain", "strict"];
            Ok((names == expected).then_some(()))
        };
        world
            .stage
            .until("all sidecars are told", SOON, told)
            .unwrap();
    }

    /// Asked to end it gives up the lease at once, says that it is not ready, and answers still.
    fn drains(world: &mut World) {
        let first = world.operator.take().unwrap();
        // Longer than any machine takes for what follows.
        let operator = begin_with(&world.stage, "drains", "10m");
        assert!(first.terminate().unwrap().success());
        operator.leads(SOON).unwrap();
        world.operator = Some(operator);
        world.configure("helm");
        let asking = [pod("asking", "drains", "")];
        assert!(carries(&world.tried(&asking)[0]));
        let operator = world.operator.as_ref().unwrap();
        operator.ask_to_end().unwrap();
        operator.readiness(503, "it is draining", SOON).unwrap();
        let free = || {
            let lease = world.stage.get(&["lease", "mesh-operator", "-n", HOME])?;
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            Ok(holder.is_empty().then_some(()))
        };
        world.stage.until("another may lead", SOON, free).unwrap();
        for _ in 0..3 {
            assert!(carries(&world.tried(&asking)[0]));
        }
        world.operator.take().unwrap().kill();
    }

    /// Nobody answers: what should carry a sidecar is not made, and nothing else is touched.
    fn down(world: &World) {
        assert!(world.operator.is_none());
        for (namespace, label) in [("asking", ""), ("strict", "disabled"), ("plain", "enabled")] {
            let said = world.refused(&pod(namespace, "down", label));
            assert!(said.contains("failed calling webhook"), "{said}");
        }
        for (namespace, label) in [
            ("asking", "disabled"),
            ("plain", ""),
            (HOME, ""),
            ("kube-extra", ""),
        ] {
            world.stage.apply(&pod(namespace, "down", label)).unwrap();
        }
    }

    /// What removes the release removes the webhook, so that nothing is held up by what is gone.
    fn uninstalled(world: &World) {
        let done = Command::new(operator::binary().unwrap())
            .arg("uninstall")
            .env("KUBECONFIG", world.stage.cluster.kubeconfig())
            .env("MESH_NAMESPACE", HOME)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(
            world.stage.get(&[CONFIGURATION]).is_err(),
            "it is still there"
        );
        world.stage.apply(&pod("strict", "free", "")).unwrap();
        let made = world.stage.get(&["pod/free", "-n", "strict"]).unwrap();
        assert!(!carries(&made));
    }
}
