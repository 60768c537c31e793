//! Files of ModelCaches on a real API server with the rights of the chart and no more: volumes, Jobs and
//! policies are made, accepted and taken away, and what their pods say becomes status and events. The test
//! is the Job controller and the kubelet. Needs the built operator and the programs of a Kubernetes; without
//! them it says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Options};
    use mesh_e2e::operator::{self, HOME, Operator, Settings};
    use serde_json::{Value, json};

    const LIMIT: Duration = Duration::from_secs(20);
    const PLACE: &str = "models";
    const RIGHT: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    const SMALLER: &str = "0179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

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
                .and_then(|binary| Ok((Cluster::start(&options)?, binary)));
            let (cluster, binary) = match started {
                Ok(started) => started,
                Err(error) => {
                    assert!(std::env::var("CI").is_err(), "{error:#}");
                    println!("skipped: {error:#}");
                    return None;
                }
            };
            operator::install(&cluster).expect("the kinds and the rights");
            let world = Self { cluster, binary };
            let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
            world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": restricted}}));
            world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": PLACE, "name": "default"}}));
            Some(world)
        }

        fn operator(&self) -> Operator {
            let settings = Settings::new(&self.cluster, HOME).expect("a kubeconfig");
            let operator = Operator::start(&self.binary, &settings).expect("it starts");
            operator.leads(LIMIT).expect("it leads");
            operator
        }

        fn apply(&self, object: &Value) {
            self.cluster
                .apply(object, "e2e")
                .unwrap_or_else(|said| panic!("{object}: {said}"));
        }

        fn cache(&self, name: &str, spec: &Value) {
            self.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"namespace": PLACE, "name": name}, "spec": spec}));
        }

        fn run(&self, args: &[&str]) -> Result<String, String> {
            self.cluster.kubectl(&[&["-n", PLACE], args].concat())
        }

        fn get(&self, what: &str) -> Value {
            let said = self.run(&["get", what, "-o", "json"]);
            said.map_or(Value::Null, |text| {
                serde_json::from_str(&text).expect("JSON")
            })
        }

        fn until<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
            let deadline = Instant::now() + LIMIT;
            loop {
                if let Some(value) = found(self) {
                    return value;
                }
                assert!(
                    Instant::now() < deadline,
                    "{what}: not within {LIMIT:?}; {}",
                    self.all()
                );
                std::thread::sleep(Duration::from_millis(100));
            }
        }

        fn all(&self) -> String {
            let said = self.run(&[
                "get",
                "modelcaches,jobs,pvc,networkpolicies,events",
                "-o",
                "yaml",
            ]);
            said.unwrap_or_else(|said| said)
        }

        /// The Job of a cache that does this.
        fn job(&self, prefix: &str) -> Value {
            self.until(&format!("Job {prefix}…"), |world| {
                let jobs = world.get("jobs");
                let mut all = jobs["items"].as_array()?.iter();
                let found = all.find(|job| {
                    job["metadata"]["name"]
                        .as_str()
                        .is_some_and(|name| name.starts_with(prefix))
                });
                found.cloned()
            })
        }

        /// What the Job controller and the kubelet do: a pod of the template runs and says `words`.
        fn finish(&self, job: &Value, words: &Value) {
            let name = job["metadata"]["name"].as_str().expect("a name");
            let mut pod = job["spec"]["template"].clone();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            pod["metadata"]["name"] = json!(format!("{name}-1"));
            pod["metadata"]["namespace"] = json!(PLACE);
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": true}]);
            // Refused if it were not restricted.
            self.apply(&pod);
            let container = pod["spec"]["containers"][0]["name"].clone();
            let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": words.to_string()}});
            let status = json!({"status": {"phase": "Succeeded", "containerStatuses": [{"name": container, "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": ended}]}});
            self.status(&format!("pod/{name}-1"), &status);
            let at = "2026-01-01T00:00:00Z";
            let condition = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": at, "lastProbeTime": at});
            let status = json!({"status": {"startTime": at, "completionTime": at, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}});
            self.status(&format!("job/{name}"), &status);
        }

        fn status(&self, what: &str, status: &Value) {
            let patch = status.to_string();
            self.run(&[
                "patch",
                what,
                "--subresource=status",
                "--type=merge",
                "-p",
                &patch,
            ])
            .unwrap_or_else(|said| panic!("{what}: {said}"));
        }

        fn condition(&self, cache: &str, type_: &str) -> Value {
            let object = self.get(&format!("modelcache/{cache}"));
            let all = object["status"]["conditions"].as_array().cloned();
            let mut found = all
                .unwrap_or_default()
                .into_iter()
                .filter(|one| one["type"] == type_);
            found.next().unwrap_or_default()
        }

        fn holds(&self, cache: &str, type_: &str) {
            self.until(&format!("{cache} is {type_}"), |world| {
                (world.condition(cache, type_)["status"] == "True").then_some(())
            });
        }

        fn event(&self, reason: &str, words: &str) {
            self.until(&format!("an event {reason} with {words}"), |world| {
                let events = world.get("events.events.k8s.io");
                let mut all = events["items"].as_array()?.iter();
                let told = |event: &&Value| {
                    event["reason"] == reason
                        && event["note"]
                            .as_str()
                            .is_some_and(|note| note.contains(words))
                };
                all.find(told).map(drop)
            });
        }
    }

    fn artifact(source: &str) -> Value {
        json!({"path": "m.gguf", "sha256": RIGHT, "sizeBytes": 7, "source": source, "verifiedAt": "2026-01-01T00:00:00Z"})
    }

    fn failure() -> Value {
        json!({"artifact": "m.gguf", "source": "https://bad.example/", "reason": "Truncated", "message": "it ended early", "quarantined": true})
    }

    fn volume() -> Value {
        json!({
            "artifacts": [{"path": "m.gguf", "sha256": RIGHT}],
            "sources": [{"http": {"url": "https://bad.example/", "credentials": {"secretRef": {"name": "s", "key": "k"}}}}, {"builtin": {}}],
            "derive": [{"quantization": "Q8_0"}],
            "storage": {"persistentVolumeClaim": {"size": "1Gi"}},
        })
    }

    #[test]
    fn a_volume_is_made_filled_quantized_and_taken_away() {
        let Some(world) = World::start("caches") else {
            return;
        };
        let operator = world.operator();
        world.cache("kept", &volume());
        let fetch = world.job("kept-fetch-");
        let claim = world.get("pvc/kept-models");
        assert_eq!(
            claim["metadata"]["ownerReferences"][0]["kind"],
            "ModelCache"
        );
        assert_eq!(world.condition("kept", "Ready")["reason"], "Progressing");
        assert!(world.get("networkpolicy/kept-fetching").is_object());
        world.finish(
            &fetch,
            &json!({"artifacts": [artifact("builtin")], "failures": [failure()]}),
        );
        world.event("Quarantined", "m.gguf from https://bad.example/: Truncated");
        let quantize = world.job("kept-quantize-");
        assert_eq!(world.condition("kept", "Quantized")["status"], "False");
        world.finish(&quantize, &json!({"sha256": SMALLER, "sizeBytes": 3, "parentSha256": RIGHT, "tool": "t", "quantization": "Q8_0"}));
        for type_ in [
            "Ready",
            "SourceResolved",
            "Fetched",
            "Verified",
            "Quantized",
            "Distributed",
        ] {
            world.holds("kept", type_);
        }
        let status = world.get("modelcache/kept")["status"].clone();
        assert_eq!(status["derived"][0]["sha256"], SMALLER);
        assert_eq!(status["artifacts"][0]["source"], "builtin");
        idle(&operator);

        let mut plain = volume();
        plain["storage"] = json!({"emptyDir": {}});
        world.cache("kept", &plain);
        world.until("the volume and its Jobs go", |world| {
            let left = world.get("jobs")["items"].as_array()?.len();
            // Nobody here takes the protection of claims away.
            let claim = world.get("pvc/kept-models");
            let gone = claim.is_null() || claim["metadata"]["deletionTimestamp"].is_string();
            (left == 0 && gone).then_some(())
        });
    }

    /// Nothing is written when nothing changes.
    fn idle(operator: &Operator) {
        let writes = |kind: &str| {
            let name = format!("api_writes_total{{kind=\"{kind}\"}}");
            operator.metric(&name).expect("a number").round()
        };
        let all = || {
            [
                "ModelCache",
                "Job",
                "PersistentVolumeClaim",
                "NetworkPolicy",
            ]
            .map(writes)
        };
        let passes = || operator.get("/metrics").expect("metrics").text();
        drop(passes());
        let before = all();
        std::thread::sleep(Duration::from_secs(2));
        let written = all().iter().sum::<f64>() - before.iter().sum::<f64>();
        assert!(written.abs() < 0.5, "an idle operator writes");
    }

    #[test]
    fn a_file_without_a_digest_is_pinned_once_and_for_all() {
        let Some(world) = World::start("pins") else {
            return;
        };
        let operator = world.operator();
        let spec = json!({"artifacts": [{"path": "m.gguf"}], "sources": [{"http": {"url": "https://a.example/"}}]});
        world.cache("pinned", &spec);
        let job = world.job("pinned-pin-");
        world.finish(
            &job,
            &json!({"artifacts": [artifact("https://a.example/")]}),
        );
        world.holds("pinned", "Ready");
        world.event("Pinned", RIGHT);
        // Another source is another fetch only where something is not known.
        let other = json!({"artifacts": [{"path": "m.gguf"}], "sources": [{"http": {"url": "https://b.example/"}}]});
        world.cache("pinned", &other);
        world.until("the Job of the old spec goes", |world| {
            let generation = world.get("modelcache/pinned");
            let seen =
                generation["status"]["observedGeneration"] == generation["metadata"]["generation"];
            let left = world.get("jobs")["items"].as_array()?.len();
            (seen && left == 0).then_some(())
        });
        assert_eq!(
            world.get("modelcache/pinned")["status"]["artifacts"][0]["sha256"],
            RIGHT
        );
        drop(operator);
        // The pin outlives the operator, since the status is its memory.
        let next = world.operator();
        world.holds("pinned", "Ready");
        assert!(next.written().contains("leading"));
        assert_eq!(world.get("jobs")["items"].as_array().map(Vec::len), Some(0));
    }

    #[test]
    fn a_claim_of_somebody_else_is_left_alone() {
        let Some(world) = World::start("claims") else {
            return;
        };
        let foreign = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": PLACE, "name": "kept-models"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        world.apply(&foreign);
        let _operator = world.operator();
        world.cache("kept", &volume());
        world.until("it says why", |world| {
            let ready = world.condition("kept", "Ready");
            ready["message"]
                .as_str()?
                .contains("is there already")
                .then_some(())
        });
        let claim = world.get("pvc/kept-models");
        assert!(claim["metadata"]["ownerReferences"].is_null(), "{claim}");
        assert_eq!(world.get("jobs")["items"].as_array().map(Vec::len), Some(0));
    }
}
