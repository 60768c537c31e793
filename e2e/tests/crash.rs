//! What a crash leaves of a cluster, and what becomes of it; and a cluster that somebody else runs. Both
//! need a process of their own: this program, run again.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use mesh_cluster::{Cluster, Options, Tier, sweep};
    use serde_json::json;

    const CHILD: &str = "MESH_TEST_CHILD";
    const NAME: &str = "crash";

    /// This program with one test that waits to be called.
    fn again(test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(CHILD, "1");
        command
    }

    fn here(name: &str, tier: Tier) -> Option<Cluster> {
        let started = Cluster::start_here(&Options {
            tier,
            name: name.to_owned(),
            ..Options::default()
        });
        match started {
            Ok(cluster) => Some(cluster),
            Err(reason) => {
                mesh_cluster::skipped(reason).unwrap();
                None
            }
        }
    }

    #[test]
    #[ignore = "the first part of the test below, which kills it"]
    fn a_cluster_whose_owner_is_killed() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let Some(cluster) = here(NAME, Tier::Nodes) else {
            println!("no cluster");
            return;
        };
        // A container is what no process number of ours leads to.
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talk", "namespace": "default"}, "spec": {
            "automountServiceAccountToken": false, "containers": [{"name": "talk", "image": Cluster::TALK_IMAGE,
                "imagePullPolicy": "Never", "args": ["serve", "8080"]}]}});
        let deadline = Instant::now() + Duration::from_mins(1);
        while let Err(said) = cluster.apply(&pod, "crash") {
            // The default ServiceAccount comes a moment after the node.
            assert!(Instant::now() < deadline, "{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let wait = ["wait", "pod/talk", "--for=condition=Ready", "--timeout=60s"];
        cluster.kubectl(&wait).unwrap();
        println!("folder {}", cluster.folder().display());
        // Until it is killed.
        loop {
            std::thread::park();
        }
    }

    /// Processes of the cluster: by their arguments or their cgroup.
    fn processes(folder: &Path) -> Vec<u32> {
        let folder = folder.display().to_string();
        let of = |pid: &u32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let said = [read("cmdline"), read("cgroup")].concat();
            let said = String::from_utf8_lossy(&said);
            // One that has ended and is not yet taken off the list has no memory any more.
            let ended = String::from_utf8_lossy(&read("statm")).starts_with("0 ");
            !ended && (said.contains(&folder) || said.contains(&format!("/mesh-{NAME}-n")))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(of).collect()
    }

    fn cgroups() -> Vec<PathBuf> {
        let ours = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path());
            paths
                .filter(|path| {
                    path.display()
                        .to_string()
                        .contains(&format!("/mesh-{NAME}-n"))
                })
                .collect::<Vec<_>>()
        };
        let root = Path::new("/sys/fs/cgroup");
        let mut found = ours(root);
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            found.extend(ours(&entry.path()));
        }
        found
    }

    /// What the child says about its cluster.
    fn folder(child: &mut Child) -> Option<PathBuf> {
        let lines = BufReader::new(child.stdout.take()?).lines();
        lines.map_while(Result::ok).find_map(|line| {
            let (_, folder) = line.split_once("folder ")?;
            Some(PathBuf::from(folder))
        })
    }

    #[test]
    fn a_crash_leaves_nothing_behind_at_the_next_start() {
        let mut child = again("tests::a_cluster_whose_owner_is_killed")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let Some(folder) = folder(&mut child) else {
            // The child has said why; with CI set it failed.
            child.wait().unwrap();
            assert!(std::env::var_os("CI").is_none(), "no cluster came up");
            return;
        };
        let (alive, groups) = (processes(&folder), cgroups());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alive.len() > 8 && !groups.is_empty(), "{alive:?}");
        // The first thing that every start does.
        sweep::abandoned().unwrap();
        assert_eq!(processes(&folder), Vec::<u32>::new());
        assert_eq!(cgroups(), Vec::<PathBuf>::new());
        assert!(!folder.exists(), "{}", folder.display());
        assert!(!Cluster::names().unwrap().contains(&String::from(NAME)));
        assert!(
            !Cluster::down(NAME).unwrap(),
            "there is nothing left to end"
        );
    }

    #[test]
    #[ignore = "a part of the test below, which gives it a cluster"]
    fn a_guest() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let options = |tier| Options {
            tier,
            name: String::from("guest"),
            ..Options::default()
        };
        for (tier, words) in [
            (Tier::Nodes, "has 0 nodes, not 1"),
            (Tier::FakeNodes, "no fake nodes"),
        ] {
            let said = Cluster::start(&options(tier)).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
        let cluster = Cluster::start(&options(Tier::ControlPlane)).unwrap();
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-a-guest"}});
        cluster.apply(&map, "guest").unwrap();
        let where_ = [
            "get",
            "configmap",
            "-A",
            "-o",
            "name",
            "--field-selector=metadata.namespace=mesh-test-guest",
        ];
        assert!(cluster.kubectl(&where_).unwrap().contains("of-a-guest"));
        let other = cluster.user_kubeconfig("somebody", None).unwrap();
        let other = format!("--kubeconfig={}", other.display());
        let said = cluster
            .kubectl(&[&other, "get", "configmap"])
            .expect_err("somebody has no rights");
        assert!(said.contains("\"somebody\" cannot list"), "{said}");
        for refused in [
            cluster.kill("etcd"),
            cluster.restart("etcd"),
            cluster.cut(1),
            cluster.import_image(Path::new("/image.tar")),
            cluster.enforce_network_policies(true),
            cluster.started_here(),
        ] {
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("was not started here"), "{said}");
        }
        println!("the guest is done");
    }

    #[test]
    fn a_cluster_of_kubeconfig_is_used_in_a_namespace_of_its_own_and_not_harmed() {
        let Some(cluster) = here("host", Tier::ControlPlane) else {
            return;
        };
        let said = again("tests::a_guest")
            .env("KUBECONFIG", cluster.kubeconfig())
            .env_remove("MESH_CLUSTER_KUBECONFIG")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned()
            + &String::from_utf8_lossy(&said.stderr);
        assert!(
            said.status.success() && text.contains("the guest is done"),
            "{text}"
        );
        // Without a controller-manager a namespace stays where it is while it is being deleted.
        let path = "jsonpath={.metadata.deletionTimestamp}";
        let ending = cluster.kubectl(&["get", "namespace", "mesh-test-guest", "-o", path]);
        assert!(!ending.unwrap().is_empty(), "the guest has left");
        cluster.kubectl(&["get", "--raw", "/readyz"]).unwrap();
    }
}
