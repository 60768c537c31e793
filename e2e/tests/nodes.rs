//! Real nodes: their network, their failures, and the stand-ins for what this machine lacks, an engine
//! for NetworkPolicies and GPUs. One cluster of two nodes, since a cluster is dear. Where there can be
//! none it says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod nodes {
    mod talk;

    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Options, Tier, Vendor};
    use serde_json::{Value, json};

    use self::talk::{Seen, World, until};

    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn two_nodes_with_policies_gpus_and_a_cut_link() {
        let Some(cluster) = Cluster::start_or_skip(&Options {
            tier: Tier::Nodes,
            nodes: 2,
            name: String::from("twonodes"),
            gpus: vec![(Vendor::Nvidia, 2), (Vendor::Amd, 1), (Vendor::Intel, 1)],
            claims: vec![(Vendor::Nvidia, 2), (Vendor::Intel, 1)],
            silence: Duration::from_secs(16),
            ..Options::default()
        })
        .unwrap() else {
            return;
        };
        if let Err(reason) = cluster.started_here() {
            mesh_cluster::skipped(reason).unwrap();
            return;
        }
        let world = World::new(&cluster);
        world.people();
        everybody_answers_on_every_node(&world);
        policies_mean_nothing_until_they_are_enforced(&world);
        world.cluster.enforce_network_policies(true).unwrap();
        for case in talk::cases() {
            world.holds(&case);
        }
        enforcement_can_be_switched_off_again(&world);
        a_pod_gets_the_gpu_that_it_asks_for(&world);
        a_restarted_kubelet_learns_of_its_gpus_again(&world);
        a_pod_with_a_claim_gets_a_device_that_fits(&world);
        a_cut_node_is_noticed_and_heals(&world);
    }

    fn everybody_answers_on_every_node(world: &World<'_>) {
        world.sees("without policies", Seen::all());
    }

    fn policies_mean_nothing_until_they_are_enforced(world: &World<'_>) {
        world.policy(
            "p",
            &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        );
        world.sees("a policy that nobody enforces", Seen::all());
        world.no_policy("p");
    }

    fn enforcement_can_be_switched_off_again(world: &World<'_>) {
        world.policy("p", &json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        world.sees("a denial", Seen::none());
        world.cluster.enforce_network_policies(false).unwrap();
        world.sees("a denial with the engine off", Seen::all());
        world.cluster.enforce_network_policies(true).unwrap();
        world.sees("a denial with the engine on again", Seen::none());
        world.no_policy("p");
        world.cluster.enforce_network_policies(false).unwrap();
    }

    fn asks_for(name: &str, resource: &str, count: u32) -> Value {
        let mut pod = talk::pod("a", name, None);
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {resource: count}});
        pod
    }

    fn unschedulable(world: &World<'_>, pod: &str) -> String {
        until("the scheduler has said why", LIMIT, || {
            let path = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}";
            let said = world.kubectl(&["get", "pod", "-n", "a", pod, "-o", path]);
            (!said.is_empty()).then_some(said)
        })
    }

    fn a_pod_gets_the_gpu_that_it_asks_for(world: &World<'_>) {
        for (name, vendor) in [
            ("nvidia", Vendor::Nvidia),
            ("amd", Vendor::Amd),
            ("intel", Vendor::Intel),
        ] {
            world.apply(&asks_for(name, vendor.resource(), 1));
            world.ready("a", name);
            let said = world.exec("a", name, &["env", "FAKE_GPUS"]);
            let plain = vendor.resource().replace('/', "-");
            assert!(
                said.starts_with(&format!("FAKE_GPUS=fake-{plain}-")) && !said.contains(','),
                "one device: {said}"
            );
        }
        let visible = world.exec("a", "nvidia", &["env", "NVIDIA_VISIBLE_DEVICES"]);
        assert!(visible.contains("=fake-nvidia.com-gpu-"), "{visible}");
        let none = world.exec("a", "near", &["env", "FAKE_GPUS"]);
        assert_eq!(none.trim(), "", "who asks for none gets none");
        world.apply(&asks_for("greedy", "nvidia.com/gpu", 3));
        let said = unschedulable(world, "greedy");
        assert!(said.contains("Insufficient nvidia.com/gpu"), "{said}");
        world.delete("a", &["greedy", "nvidia", "amd", "intel"]);
    }

    fn a_restarted_kubelet_learns_of_its_gpus_again(world: &World<'_>) {
        world.cluster.kill("kubelet-n1").unwrap();
        world.cluster.restart("kubelet-n1").unwrap();
        // A pod that only the first node can take proves it: the number alone may be an old one.
        let mut pod = asks_for("again", "nvidia.com/gpu", 1);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "n1"});
        until("the kubelet admits a pod with a GPU", LIMIT, || {
            world.apply(&pod);
            let waited = [
                "wait",
                "-n",
                "a",
                "pod/again",
                "--for=condition=Ready",
                "--timeout=5s",
            ];
            let good = world.cluster.kubectl(&waited).is_ok();
            if !good {
                world.delete("a", &["again"]);
            }
            good.then_some(())
        });
        world.delete("a", &["again"]);
    }

    fn claims(name: &str, class: &str, gibibytes: u32) -> Value {
        let fits =
            format!("device.capacity['{class}'].memory.compareTo(quantity('{gibibytes}Gi')) >= 0");
        let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
            "metadata": {"namespace": "a", "name": name},
            "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": {
                "deviceClassName": class, "selectors": [{"cel": {"expression": fits}}]}}]}}}});
        let mut pod = talk::pod("a", name, None);
        pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": name}]);
        pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "gpu"}]});
        json!({"apiVersion": "v1", "kind": "List", "items": [template, pod]})
    }

    fn a_pod_with_a_claim_gets_a_device_that_fits(world: &World<'_>) {
        world.apply(&claims("fits", "gpu.nvidia.com", 40));
        world.ready("a", "fits");
        let said = world.exec("a", "fits", &["env", "FAKE_CLAIM_"]);
        assert!(
            said.starts_with("FAKE_CLAIM_GPU_") && said.trim().ends_with("=gpu.nvidia.com"),
            "{said}"
        );
        world.apply(&claims("xe", "gpu.intel.com", 20));
        world.ready("a", "xe");
        world.apply(&claims("huge", "gpu.nvidia.com", 100));
        let said = unschedulable(world, "huge");
        assert!(said.contains("cannot allocate all claims"), "{said}");
        world.delete("a", &["fits", "xe", "huge"]);
    }

    fn a_cut_node_is_noticed_and_heals(world: &World<'_>) {
        let turns = |status: &str| {
            let begun = Instant::now();
            until(&format!("n2 is Ready={status}"), LIMIT, || {
                let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
                let said = world.kubectl(&["get", "node", "n2", "-o", path]);
                (said == status).then_some(begun.elapsed())
            })
        };
        world.cluster.cut(2).unwrap();
        let (noticed, healed) = (turns("Unknown"), {
            world.cluster.heal(2).unwrap();
            turns("True")
        });
        println!("link cut: noticed after {noticed:?}, healed after {healed:?}");
        world.sees("a healed link", Seen::all());
    }
}
