//! Two hundred nodes that only seem to be: they say what real ones say, and the scheduler believes them.

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Options, Tier, Vendor};
    use serde_json::{Value, json};

    /// Pods of the crowd.
    const CROWD: u64 = 1000;
    const LIMIT: Duration = Duration::from_mins(3);

    struct World(Cluster);

    impl World {
        fn get(&self, args: &[&str]) -> Value {
            let text = self
                .0
                .kubectl(&[&["get", "-o", "json"], args].concat())
                .unwrap();
            serde_json::from_str(&text).unwrap()
        }

        fn apply(&self, object: &Value) {
            self.0.apply(object, "fake").unwrap();
        }

        fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
            let deadline = Instant::now() + LIMIT;
            loop {
                if let Some(value) = found() {
                    return value;
                }
                assert!(
                    Instant::now() < deadline,
                    "{what}: not within {LIMIT:?}: {}",
                    self.0.folder().display()
                );
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }

    #[test]
    fn two_hundred_nodes_look_and_schedule_like_real_ones() {
        let Some(cluster) = Cluster::start_or_skip(&Options {
            tier: Tier::FakeNodes,
            name: String::from("fakenodes"),
            ..Options::default()
        })
        .unwrap() else {
            return;
        };
        if let Err(reason) = cluster.started_here() {
            // Somebody else's fake nodes are others.
            mesh_cluster::skipped(reason).unwrap();
            return;
        }
        let world = World(cluster);
        nodes_say_what_vendors_say(&world);
        gpus_go_to_who_asks_and_tolerates(&world);
        claims_are_allocated(&world);
        a_crowd_runs(&world);
    }

    fn nodes_say_what_vendors_say(world: &World) {
        let wait = [
            "wait",
            "node",
            "--all",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        world.0.kubectl(&wait).unwrap();
        let nodes = world.get(&["nodes"]);
        let nodes = nodes["items"].as_array().unwrap();
        assert_eq!(nodes.len(), 200);
        let sum = |resource: &str| -> u64 {
            let counts = nodes.iter().filter_map(|node| {
                node["status"]["allocatable"][resource]
                    .as_str()?
                    .parse::<u64>()
                    .ok()
            });
            counts.sum()
        };
        // Of fifty nodes each, five offer theirs to claims.
        assert_eq!(
            Vendor::ALL.map(|vendor| sum(vendor.resource())),
            [45 * 8, 45 * 8, 45 * 4]
        );
        let with = |label: &str| {
            let found = nodes
                .iter()
                .filter(|node| !node["metadata"]["labels"][label].is_null());
            found.count()
        };
        for label in [
            "nvidia.com/gpu.product",
            "nvidia.com/gpu.memory",
            "amd.com/gpu.vram",
            "beta.amd.com/gpu.vram.192G",
            "gpu.intel.com/device-id.0300-e211.count",
            "feature.node.kubernetes.io/pci-0300_8086.present",
        ] {
            assert_eq!(with(label), 50, "{label}");
        }
        let slices = world.get(&["resourceslices"]);
        assert_eq!(slices["items"].as_array().unwrap().len(), 15);
    }

    fn pod(name: &str, limits: &Value, tolerates: Option<&str>) -> Value {
        let tolerations: Vec<Value> = tolerates
            .map(|key| json!({"key": key, "operator": "Exists"}))
            .into_iter()
            .collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": {
            "tolerations": tolerations,
            "containers": [{"name": "main", "image": "fake", "resources": {"limits": limits}}]}})
    }

    fn node_of(world: &World, pod: &str) -> String {
        world.until("a pod runs", || {
            let pod = world.get(&["pod", pod]);
            let running = pod["status"]["phase"] == "Running";
            running.then(|| pod["spec"]["nodeName"].as_str().unwrap().to_owned())
        })
    }

    fn gpus_go_to_who_asks_and_tolerates(world: &World) {
        world.until("the default ServiceAccount", || {
            world.0.kubectl(&["get", "serviceaccount", "default"]).ok()
        });
        for (vendor, sort) in Vendor::ALL.iter().zip(["nvidia", "amd", "intel"]) {
            let resource = vendor.resource();
            world.apply(&pod(sort, &json!({resource: 4}), Some(resource)));
            let node = node_of(world, sort);
            assert!(node.starts_with(&format!("{sort}-")), "{sort} on {node}");
        }
        world.apply(&pod("stubborn", &json!({"amd.com/gpu": 1}), None));
        let said = world.until("the scheduler has said why", || {
            let pod = world.get(&["pod", "stubborn"]);
            let conditions = pod["status"]["conditions"].as_array()?.clone();
            let scheduled = conditions
                .iter()
                .find(|one| one["type"] == "PodScheduled")?;
            Some(scheduled["message"].as_str()?.to_owned())
        });
        assert!(said.contains("untolerated taint"), "{said}");
    }

    fn claims_are_allocated(world: &World) {
        for (vendor, sort) in Vendor::ALL.iter().zip(["nvidia", "amd", "intel"]) {
            let (class, name) = (vendor.driver(), format!("claims-{sort}"));
            world.apply(&json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": class, "count": 2}}]}}}));
            let mut pod = pod(&name, &json!({}), Some(vendor.resource()));
            pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": name}]);
            pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "gpu"}]});
            world.apply(&pod);
            let node = node_of(world, &name);
            assert!(node.starts_with(&format!("{sort}-4")), "{name} on {node}");
            let claim = world.get(&["resourceclaim", &name]);
            let devices = &claim["status"]["allocation"]["devices"]["results"];
            assert_eq!(devices.as_array().unwrap().len(), 2);
        }
    }

    fn a_crowd_runs(world: &World) {
        let begun = Instant::now();
        let labels = json!({"app": "crowd"});
        world.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd", "namespace": "default"},
            "spec": {"replicas": CROWD, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "fake"}]}}}}));
        world.until("all pods are ready", || {
            let ready = world.get(&["deployment", "crowd"])["status"]["readyReplicas"].as_u64();
            (ready == Some(CROWD)).then_some(())
        });
        println!(
            "{CROWD} pods ready after {:.1} s",
            begun.elapsed().as_secs_f32()
        );
    }
}
