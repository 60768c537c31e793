//! What Argo CD and Flux see, on a real API server with an operator that has the rights of the chart: the health that
//! kstatus, their own library, and the Lua of our page for Argo CD make of every kind in each of its states; and that what they applied stays as they
//! applied it, so that nobody works against the other. Needs the built operator, the programs of a Kubernetes and Go;
//! without them it says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use mesh_cluster::{Tier, skipped, tool};
    use mesh_e2e::operator::{HOME, Operator};
    use mesh_e2e::stage::{Stage, backend, cache, cloud, namespace, policy};
    use serde_json::{Value, json};

    const LIMIT: Duration = Duration::from_secs(40);
    /// As whom Flux applies.
    const MANAGER: &str = "--field-manager=kustomize-controller";
    const TEAM: &str = "team";
    const KINDS: &str = "modelcaches,inferencebackends,sovereigntypolicies";
    const WEBHOOK: &str = "mutatingwebhookconfiguration/mesh-inject";

    fn start() -> Option<Stage> {
        match tool::obtain("kstatus").and_then(|_| Stage::start("gitops", Tier::ControlPlane)) {
            Ok(stage) => Some(stage),
            Err(reason) => {
                skipped(reason).unwrap();
                None
            }
        }
    }

    /// What the page has people put into Argo CD, as a file.
    fn argo(stage: &Stage) -> String {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations/gitops.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut blocks = page.split("```yaml\n").skip(1);
        let block = blocks.find(|block| block.starts_with("data:")).unwrap();
        file(stage, "argocd-cm.yaml", block.split("```").next().unwrap())
    }

    /// `Kind name` of everything of ours in the team's namespace, and what kstatus calls it. Argo CD says the same in its
    /// own words, whenever it is asked.
    fn health(stage: &Stage) -> BTreeMap<String, String> {
        let objects = stage.get(&[KINDS, "-n", TEAM]).unwrap();
        let mut child = Command::new(tool::obtain("kstatus").unwrap())
            .arg(argo(stage))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), &objects).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let told = serde_json::Deserializer::from_slice(&done.stdout).into_iter::<Value>();
        told.map(|told| {
            let told = told.unwrap();
            let word = |field: &str| told[field].as_str().unwrap().to_owned();
            let what = format!("{} {}", word("kind"), word("name"));
            let argo = match word("status").as_str() {
                "Current" => "Healthy",
                "Failed" => "Degraded",
                _ => "Progressing",
            };
            assert_eq!(word("argo"), argo, "{what}: {told}");
            (what, word("status"))
        })
        .collect()
    }

    fn healthy(stage: &Stage, expected: &[(&str, &str)]) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = health(stage);
            let wrong: Vec<_> = expected
                .iter()
                .filter(|(what, status)| found.get(*what).map(String::as_str) != Some(*status))
                .collect();
            if wrong.is_empty() {
                return;
            }
            let told = || stage.get(&[KINDS, "-n", TEAM]).unwrap();
            assert!(
                Instant::now() < deadline,
                "expected {wrong:?}, found {found:?}: {}",
                told()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// One of each kind that gets well, one that cannot without help, and one that waits.
    fn objects() -> Value {
        let mut bad_cache = cache(TEAM, "bad");
        bad_cache["spec"]["sources"] = json!([{"peers": {}}]);
        let mut bad_policy = policy(TEAM, "bad");
        bad_policy["spec"]["tests"] = json!([{"name": "never", "request": {"text": "Hello"}, "expect": {"privacy": "Restricted"}}]);
        let mut waits = policy(TEAM, "waits");
        waits["spec"]["floor"]["backendRef"] = json!({"name": "waits"});
        let mut peer = cloud(TEAM, "peer");
        let key = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";
        peer["spec"] = json!({"peer": {"address": "mesh.partner.example:8444", "identity": key, "trust": "Open"}, "models": [{"name": "theirs"}]});
        let items = [
            peer,
            cache(TEAM, "good"),
            bad_cache,
            backend(TEAM, "good", "good", 1),
            backend(TEAM, "bad", "absent", 1),
            backend(TEAM, "waits", "good", 1),
            cloud(TEAM, "cloud"),
            policy(TEAM, "good"),
            bad_policy,
            waits,
        ];
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    fn file(stage: &Stage, name: &str, text: &str) -> String {
        let path = stage.cluster.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// As Flux does it every some minutes.
    fn apply(stage: &Stage, file: &str, more: &[&str]) {
        let args = ["apply", "--server-side", MANAGER, "-f", file];
        stage.kubectl(&[&args[..], more].concat()).unwrap();
    }

    fn operator(stage: &Stage, name: &str) -> Operator {
        let settings = stage
            .settings(name)
            .unwrap()
            .env("MESH_INJECT_LISTEN", "127.0.0.1:0")
            .env("MESH_SIDECAR_IMAGE", "inferencemesh.local/sidecar:test")
            .env(
                "MESH_SIDECAR_RESOURCES",
                r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#,
            );
        let operator = stage.begin(&settings).unwrap();
        operator.leads(LIMIT).unwrap();
        operator
    }

    /// A backend's one pod and its Deployment say what a kubelet and controllers would.
    fn serves(stage: &Stage, namespace: &str, name: &str) {
        let told = |what: &str, status: &Value| stage.says(namespace, what, status).unwrap();
        let worker = format!("deployment/{name}-worker");
        let found = stage.until("its worker is made", LIMIT, || {
            stage.get(&["-n", namespace, &worker]).map(Some)
        });
        let generation = &found.unwrap()["metadata"]["generation"];
        told(
            &worker,
            &json!({"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}),
        );
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": "default"}});
        stage.apply(&account).unwrap();
        let pod = format!("{name}-0");
        stage.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": pod, "labels": {"inferencemesh.dev/backend": name}},
            "spec": {"nodeName": "only", "containers": [{"name": "worker", "image": "none"}]}})).unwrap();
        told(
            &format!("pod/{pod}"),
            &json!({"podIP": "10.0.0.2", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        );
    }

    /// Everything that the chart renders with its defaults and an autoscaler, as a file.
    fn chart(stage: &Stage) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let home = stage.cluster.folder().join("helm");
        let done = Command::new(tool::obtain("helm").unwrap())
            .args([
                "template",
                "mesh",
                "--namespace",
                HOME,
                "--no-hooks",
                "--kube-version",
                "1.33.0",
            ])
            .args([
                "--set",
                "gateway.autoscaling.enabled=true,priorityClass.create=true",
            ])
            .arg(root.join("charts/inference-mesh"))
            .env("HELM_CACHE_HOME", &home)
            .env("HELM_CONFIG_HOME", &home)
            .env("HELM_DATA_HOME", &home)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        file(
            stage,
            "chart.yaml",
            &String::from_utf8(done.stdout).unwrap(),
        )
    }

    /// Name and version of every object of a file.
    fn versions(stage: &Stage, file: &str) -> BTreeMap<String, String> {
        let all = stage.get(&["-f", file]).unwrap();
        let objects = all["items"].as_array().unwrap().iter().map(|object| {
            let meta = &object["metadata"];
            let what = format!("{} {} {}", object["kind"], meta["namespace"], meta["name"]);
            (what, meta["resourceVersion"].to_string())
        });
        objects.collect()
    }

    /// Nothing differs, nobody is in conflict, and applying again changes nothing.
    fn calm(stage: &Stage, file: &str, least: usize) {
        let diff = ["diff", "--server-side", MANAGER, "-f", file];
        let said = stage.kubectl(&diff).unwrap();
        assert!(said.trim().is_empty(), "{said}");
        // The operator may write a status in between, once; what applying changes, it changes every time.
        let same = || {
            let before = versions(stage, file);
            assert!(before.len() >= least, "{before:?}");
            apply(stage, file, &[]);
            let after = versions(stage, file);
            anyhow::ensure!(after == before, "{before:?} became {after:?}");
            Ok(Some(()))
        };
        stage
            .until("applying again changes nothing", LIMIT, same)
            .unwrap();
    }

    /// An autoscaler decides meanwhile, and the operator writes its part of the webhook; what was applied stays.
    fn undisturbed(stage: &Stage, operator: &Operator, (chart, declared): (&str, &str)) {
        let scale = [
            "scale",
            "-n",
            HOME,
            "deployment/mesh-gateway",
            "--replicas=4",
        ];
        stage.kubectl(&scale).unwrap();
        let bundle = "jsonpath={.webhooks[*].clientConfig.caBundle}";
        let written = stage.until("the authority is written", LIMIT, || {
            let said = stage.kubectl(&["get", WEBHOOK, "-o", bundle])?;
            Ok((!said.trim().is_empty()).then_some(said))
        });
        let written = written.unwrap();
        stage.settled(operator, LIMIT).unwrap();
        calm(stage, chart, 40);
        calm(stage, declared, 10);
        assert_eq!(
            stage.kubectl(&["get", WEBHOOK, "-o", bundle]).unwrap(),
            written
        );
        let path = "jsonpath={.spec.replicas}";
        let replicas = stage.kubectl(&["get", "-n", HOME, "deployment/mesh-gateway", "-o", path]);
        assert_eq!(replicas.unwrap(), "4");
    }

    #[test]
    fn gitops_tools_see_the_health_of_every_kind_and_nothing_works_against_them() {
        let Some(stage) = start() else { return };
        let chart = chart(&stage);
        // Some of it is there already, by the tests' own hand.
        apply(&stage, &chart, &["--force-conflicts"]);
        stage.apply(&namespace(TEAM)).unwrap();
        let declared = file(&stage, "objects.json", &objects().to_string());
        let taken = stage.until("the kinds' rules are read", LIMIT, || {
            let args = ["apply", "--server-side", MANAGER, "-f", &declared];
            stage.kubectl(&args).map(Some)
        });
        taken.unwrap();
        // Nobody has looked yet, which is not the same as well.
        let seen = health(&stage);
        assert_eq!(seen.len(), 10, "{seen:?}");
        assert!(
            seen.values().all(|status| status == "InProgress"),
            "{seen:?}"
        );

        let first = operator(&stage, "first");
        stage.floor().unwrap();
        serves(&stage, HOME, "floor");
        serves(&stage, TEAM, "good");
        healthy(
            &stage,
            &[
                ("ModelCache good", "Current"),
                ("ModelCache bad", "Failed"),
                ("InferenceBackend good", "Current"),
                ("InferenceBackend bad", "Failed"),
                ("InferenceBackend peer", "Failed"),
                ("InferenceBackend waits", "InProgress"),
                ("SovereigntyPolicy good", "Current"),
                ("SovereigntyPolicy bad", "Failed"),
                ("SovereigntyPolicy waits", "InProgress"),
            ],
        );
        undisturbed(&stage, &first, (&chart, &declared));

        // What was changed since somebody looked is under way, whatever was said of the former.
        assert!(first.terminate().unwrap().success());
        let more = r#"{"spec": {"license": "MIT"}}"#;
        let args = [
            "patch",
            "-n",
            TEAM,
            "modelcache/good",
            "--type=merge",
            "-p",
            more,
        ];
        stage.kubectl(&args).unwrap();
        assert_eq!(health(&stage)["ModelCache good"], "InProgress");
        let _second = operator(&stage, "second");
        healthy(&stage, &[("ModelCache good", "Current")]);
    }
}
