//! One cluster with the release installed from the chart, and the hands of a platform engineer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_cluster::{Cluster, Options, Tier, tool};
use serde_json::{Value, json};

use crate::application::{Node, Python, Said};
use crate::prometheus::Prometheus;

pub(crate) const RELEASE: &str = "mesh";
pub(crate) const HOME: &str = "mesh-system";
pub(crate) const TEAM: &str = "team";
pub(crate) const APP: &str = "app";
pub(crate) const IMAGES: [&str; 6] = [
    "operator",
    "gateway",
    "sidecar",
    "worker",
    "worker-floor",
    "mesh",
];

pub(crate) struct World {
    // It lives in the network of the cluster, so it ends first.
    prometheus: OnceLock<Prometheus>,
    pub(crate) cluster: Cluster,
    pub(crate) python: Python,
    node: Option<Node>,
    root: PathBuf,
    scratch: tempfile::TempDir,
    loads: AtomicU64,
}

/// Names the image of applications in a given cluster.
const APP_IMAGE: &str = "MESH_APP_IMAGE";

fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.context("e2e lies in the checkout")?.to_path_buf())
}

/// An application that asks without pause.
pub(crate) struct Load<'w> {
    world: &'w World,
    namespace: &'static str,
    name: String,
}

impl World {
    /// The cluster of `KUBECONFIG` if the user set it; else one of ours. None where the machine or the cluster has not
    /// what it takes, which is said.
    pub(crate) fn start() -> Result<Option<Self>> {
        if Cluster::is_given() {
            return match Self::in_given() {
                Ok(world) => Ok(Some(world)),
                Err(reason) => mesh_cluster::skipped(reason).map(|()| None),
            };
        }
        let (Some(images), Some(python), Some(node)) = (
            std::env::var_os("MESH_IMAGES"),
            std::env::var_os("MESH_SDK_PYTHON"),
            std::env::var_os("MESH_SDK_NODE"),
        ) else {
            println!(
                "skipped: MESH_IMAGES, MESH_SDK_PYTHON and MESH_SDK_NODE are not set; `cargo xtask test` builds what they name and sets them"
            );
            return Ok(None);
        };
        let root = root()?;
        let python = Python::find(Path::new(&python), &root.join("e2e/app"))?;
        let node = Node::find(Path::new(&node))?;
        let cluster = Cluster::start(&Options {
            tier: Tier::Nodes,
            nodes: 1,
            name: std::env::var("MESH_CLUSTER_NAME").unwrap_or_else(|_| String::from("e2e")),
            network_policies: true,
            ..Options::default()
        })?;
        for image in IMAGES {
            cluster.import_image(&Path::new(&images).join(format!("{image}.tar")))?;
        }
        Ok(Some(Self {
            prometheus: OnceLock::new(),
            cluster,
            python,
            node: Some(node),
            root,
            scratch: tempfile::tempdir()?,
            loads: AtomicU64::new(0),
        }))
    }

    /// Images are there or in a registry; applications are of an image, unless the nodes see this machine's files.
    fn in_given() -> Result<Self> {
        let cluster = Cluster::start(&Options {
            tier: Tier::Nodes,
            nodes: 1,
            name: std::env::var("MESH_CLUSTER_NAME").unwrap_or_else(|_| String::from("e2e")),
            ..Options::default()
        })?;
        let root = root()?;
        let scripts = root.join("e2e/app");
        let of_host = std::env::var_os("MESH_SDK_PYTHON").filter(|_| cluster.shares_files());
        let python = match (std::env::var(APP_IMAGE), of_host) {
            (Ok(image), _) => Python::of_image(&image, &scripts),
            (Err(_), Some(python)) => Python::find(Path::new(&python), &scripts)?,
            (Err(_), None) => bail!(
                "{APP_IMAGE} is not set: an application needs an image with python3 and the package openai that the nodes of this cluster can have"
            ),
        };
        Ok(Self {
            prometheus: OnceLock::new(),
            cluster,
            python,
            node: None,
            root,
            scratch: tempfile::tempdir()?,
            loads: AtomicU64::new(0),
        })
    }

    /// The host's Node; a given cluster has none.
    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("a cluster of ours")
    }

    /// What watches the pods from the first time on that somebody asks for it.
    pub(crate) fn prometheus(&self) -> &Prometheus {
        self.prometheus.get_or_init(|| Prometheus::start(self))
    }

    /// Waits until an alert fires, for what is so.
    pub(crate) fn fires(&self, alert: &str, labels: &[(&str, &str)]) {
        self.prometheus().fires(self, (alert, labels), || {});
    }

    /// Waits until an alert does not fire, for what is no longer so.
    pub(crate) fn silent(&self, alert: &str, labels: &[(&str, &str)]) {
        self.prometheus().silent(self, (alert, labels), || {});
    }

    /// Waits until no alert fires at all.
    pub(crate) fn quiet(&self) {
        self.prometheus().quiet(self);
    }

    /// A folder of this machine that the nodes see too and everybody may write; it goes with the world.
    pub(crate) fn scratch(&self, name: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.scratch.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for folder in [self.scratch.path(), &folder] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        folder.display().to_string()
    }

    pub(crate) fn path(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    /// kubectl, or its words if it refuses.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.cluster.kubectl(args)
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args)
            .unwrap_or_else(|said| panic!("kubectl {}: {said}", args.join(" ")))
    }

    pub(crate) fn helm(&self, args: &[&str]) -> String {
        let helm = tool::path("helm").unwrap();
        let done = self.cluster.command(&helm).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "helm {}: {said}", args.join(" "));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Server-side apply of one object or a list of them.
    pub(crate) fn apply(&self, object: &Value) {
        self.cluster
            .apply(object, "e2e")
            .unwrap_or_else(|said| panic!("apply: {said}"));
    }

    pub(crate) fn get(&self, args: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Waits as a platform engineer does.
    pub(crate) fn wait(&self, namespace: &str, what: &str, condition: &str, limit: Duration) {
        let (limit, condition) = (
            format!("--timeout={}s", limit.as_secs()),
            format!("--for=condition={condition}"),
        );
        self.kubectl(&["wait", "-n", namespace, what, &condition, &limit]);
    }

    /// A namespace with a ServiceAccount and a pod of the test's Python.
    pub(crate) fn python_pod(&self, namespace: &str, name: &str, args: &[&str]) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"team": namespace}}}));
        self.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}));
        if let Some(scripts) = self.python.shipped(namespace).unwrap() {
            self.apply(&scripts);
        }
        self.apply(&self.python.pod(namespace, name, Cluster::PAUSE_IMAGE, args));
        self.wait(
            namespace,
            &format!("pod/{name}"),
            "Ready",
            Duration::from_mins(1),
        );
    }

    /// An application that waits to be told what to ask.
    pub(crate) fn application(&self, namespace: &str) {
        self.python_pod(namespace, APP, &["-c", "import signal; signal.pause()"]);
    }

    pub(crate) fn exec(&self, namespace: &str, args: &[&str]) -> Command {
        let mut command = self.cluster.kubectl_command().unwrap();
        command
            .args(["exec", "-n", namespace, APP, "--"])
            .arg(self.python.command())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// One request of the application in `namespace`, by the official SDK.
    pub(crate) fn ask(&self, namespace: &str, request: &Value) -> Said {
        let script = self.python.script("ask.py");
        let done = self
            .exec(namespace, &[&script, &request.to_string()])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ask.py: {errors}");
        Said::parse(&String::from_utf8_lossy(&done.stdout)).unwrap()
    }

    /// Asks without pause from now on. It runs in the pod by itself, so it outlives the API server.
    pub(crate) fn load(&self, model: &str, callers: usize) -> Load<'_> {
        self.load_from(TEAM, model, callers, 0)
    }

    /// The same from another namespace; each caller asks at least so often, whenever it is told to end.
    pub(crate) fn load_from(
        &self,
        namespace: &'static str,
        model: &str,
        callers: usize,
        each: u64,
    ) -> Load<'_> {
        let name = format!("/tmp/load-{}", self.loads.fetch_add(1, Ordering::Relaxed));
        let (python, script) = (self.python.command(), self.python.script("load.py"));
        let program = format!(
            "import subprocess; subprocess.Popen([{python:?}, {script:?}, {model:?}, '{callers}', '{name}.end', '{each}'], \
             stdout=open('{name}.part', 'w'), stderr=subprocess.STDOUT, start_new_session=True)"
        );
        let done = self.exec(namespace, &["-c", &program]).output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Load {
            world: self,
            namespace,
            name,
        }
    }

    /// What somebody would look at first.
    pub(crate) fn diagnosis(&self) -> String {
        let mut text = String::new();
        for args in [
            &[
                "get",
                "pods,deployments,jobs,endpointslices",
                "-A",
                "-o",
                "wide",
            ][..],
            &["get", "mesh", "-A", "-o", "wide"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "-n",
                HOME,
                "-l",
                "app.kubernetes.io/component=operator",
                "--tail=40",
            ],
            &[
                "logs",
                "-n",
                HOME,
                "-l",
                "app.kubernetes.io/component=gateway",
                "--tail=40",
            ],
            &[
                "logs",
                "-n",
                HOME,
                "-l",
                "app.kubernetes.io/component=worker",
                "--all-containers",
                "--tail=20",
            ],
        ] {
            let said = self.try_kubectl(args).unwrap_or_else(|said| said);
            text.extend(["--- kubectl ", &args.join(" "), "\n", &said, "\n"]);
        }
        text
    }
}

/// Looks until `found` gives something. For what kubectl cannot wait for.
pub(crate) fn until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Load<'_> {
    /// Ends it; gives the number of requests and what failed.
    pub(crate) fn finish(self) -> Result<(u64, Vec<String>)> {
        let name = &self.name;
        let program = format!(
            "import time\nopen('{name}.end', 'w').close()\nfor _ in range(1200):\n    text = open('{name}.part').read()\n    \
             if text.endswith('}}\\n'):\n        break\n    time.sleep(0.1)\nprint(text)"
        );
        let done = self
            .world
            .exec(self.namespace, &["-c", &program])
            .output()?;
        let text = String::from_utf8_lossy(&done.stdout);
        let Some(said) = text
            .trim()
            .lines()
            .last()
            .and_then(|line| serde_json::from_str::<Value>(line).ok())
        else {
            bail!(
                "load.py said {text} {}",
                String::from_utf8_lossy(&done.stderr)
            );
        };
        println!("  load: {said}");
        let failures = said["failures"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        Ok((said["requests"].as_u64().unwrap_or_default(), failures))
    }
}
