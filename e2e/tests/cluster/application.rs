//! Pods that are not ours: an application with the official SDK, and a scripted cloud. Their file
//! systems are the host's Python, mounted read-only, so that no foreign image is needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Where the host keeps what a Python needs; or an image that has one.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    interpreter: PathBuf,
    scripts: PathBuf,
    folders: BTreeSet<PathBuf>,
    image: Option<String>,
}

/// The ConfigMap of the scripts, and where it is in a pod, for a Python of an image.
const SCRIPTS: &str = "mesh-test-scripts";
const SCRIPTS_AT: &str = "/mesh-test-scripts";
const SHIPPED: [&str; 3] = ["ask.py", "load.py", "cloud.py"];

impl Python {
    /// Asks an interpreter where its parts are.
    pub(crate) fn find(interpreter: &Path, scripts: &Path) -> Result<Self> {
        let program = "import sys; print(sys.prefix); print(sys.base_prefix)";
        let said = Command::new(interpreter).args(["-c", program]).output()?;
        ensure!(
            said.status.success(),
            "{} does not run",
            interpreter.display()
        );
        let text = String::from_utf8(said.stdout)?;
        let mut folders: BTreeSet<PathBuf> = text.lines().map(PathBuf::from).collect();
        for system in [
            "/lib/x86_64-linux-gnu",
            "/lib64",
            "/usr/lib/x86_64-linux-gnu",
        ] {
            if Path::new(system).is_dir() {
                folders.insert(PathBuf::from(system));
            }
        }
        folders.insert(scripts.to_path_buf());
        Ok(Self {
            interpreter: interpreter.to_path_buf(),
            scripts: scripts.to_path_buf(),
            folders,
            image: None,
        })
    }

    /// One of an image, for nodes that do not see the host's files: `python3` with the package `openai`.
    pub(crate) fn of_image(image: &str, scripts: &Path) -> Self {
        Self {
            interpreter: PathBuf::from("python3"),
            scripts: scripts.to_path_buf(),
            folders: BTreeSet::new(),
            image: Some(image.to_owned()),
        }
    }

    /// What has to be in a namespace before pods of this Python: the scripts, where an image has none.
    pub(crate) fn shipped(&self, namespace: &str) -> Result<Option<Value>> {
        if self.image.is_none() {
            return Ok(None);
        }
        let mut data = serde_json::Map::new();
        for name in SHIPPED {
            let text = std::fs::read_to_string(self.scripts.join(name))?;
            data.insert(name.to_owned(), json!(text));
        }
        Ok(Some(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": SCRIPTS}, "data": data}),
        ))
    }

    /// The interpreter, as a command in a pod.
    pub(crate) fn command(&self) -> String {
        self.interpreter.display().to_string()
    }

    /// A script of the tests, as a path in a pod.
    pub(crate) fn script(&self, name: &str) -> String {
        let folder = match &self.image {
            Some(_) => Path::new(SCRIPTS_AT),
            None => &self.scripts,
        };
        folder.join(name).display().to_string()
    }

    /// Folders of the host that pods of this Python read, as they are named there.
    pub(crate) fn host_paths(&self) -> Vec<String> {
        let real = |folder: &PathBuf| folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let folders = self.folders.iter().map(real);
        let all: BTreeSet<String> = folders.map(|folder| folder.display().to_string()).collect();
        all.into_iter().collect()
    }

    fn volumes(&self) -> Vec<(Value, Value)> {
        let volume = |(number, folder): (usize, &PathBuf)| {
            let name = format!("host-{number}");
            // What is a link on the host is a folder in the pod.
            let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            (
                json!({"name": name, "hostPath": {"path": real, "type": "Directory"}}),
                json!({"name": name, "mountPath": folder, "readOnly": true}),
            )
        };
        self.folders.iter().enumerate().map(volume).collect()
    }

    /// A pod that runs `args` with this Python and holds a token for the mesh.
    pub(crate) fn pod(&self, namespace: &str, name: &str, image: &str, args: &[&str]) -> Value {
        let (mut volumes, mut mounts): (Vec<_>, Vec<_>) = self.volumes().into_iter().unzip();
        if self.image.is_some() {
            volumes.push(json!({"name": "scripts", "configMap": {"name": SCRIPTS}}));
            mounts.push(json!({"name": "scripts", "mountPath": SCRIPTS_AT, "readOnly": true}));
        }
        let (image, pulled) = match &self.image {
            Some(own) => (own.as_str(), "IfNotPresent"),
            None => (image, "Never"),
        };
        volumes.push(json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": "inferencemesh.dev", "expirationSeconds": 3600, "path": "token"}}]}}));
        mounts.push(json!({"name": "token", "mountPath": "/var/run/secrets/inferencemesh.dev/token", "readOnly": true}));
        volumes.push(json!({"name": "tmp", "emptyDir": {}}));
        mounts.push(json!({"name": "tmp", "mountPath": "/tmp"}));
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {
                "serviceAccountName": name,
                "terminationGracePeriodSeconds": 0,
                "volumes": volumes,
                "containers": [{
                    "name": "app", "image": image, "imagePullPolicy": pulled,
                    "command": [self.command()], "args": args,
                    "env": [{"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
                    "securityContext": {"runAsUser": 65534, "runAsNonRoot": true},
                    "volumeMounts": mounts,
                }],
            },
        })
    }
}

/// The host's Node and the official SDK for it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    program: PathBuf,
    modules: PathBuf,
}

impl Node {
    /// The Node of `PATH`, with the modules that were installed in `folder`.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path).map(|folder| folder.join("node"));
        let program = program.into_iter().find(|program| program.is_file());
        Ok(Self {
            program: program.context("no Node was found")?.canonicalize()?,
            modules: folder.join("node_modules"),
        })
    }

    /// A pod that asks once, with the SDK's own settings, and ends; the scripts are in folder `scripts`.
    pub(crate) fn pod(&self, namespace: &str, name: &str, image: &str, scripts: &str) -> Value {
        let folders = [
            "/lib/x86_64-linux-gnu",
            "/lib64",
            "/usr/lib/x86_64-linux-gnu",
        ];
        let folders = folders
            .into_iter()
            .filter(|folder| Path::new(folder).is_dir());
        let folders = folders.chain([scripts]).map(PathBuf::from);
        let mut wanted: Vec<(PathBuf, &str)> =
            folders.map(|folder| (folder, "Directory")).collect();
        wanted.extend([
            (self.modules.clone(), "Directory"),
            (self.program.clone(), "File"),
        ]);
        let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
        for (number, (path, kind)) in wanted.iter().enumerate() {
            let name = format!("host-{number}");
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            volumes.push(json!({"name": name, "hostPath": {"path": real, "type": kind}}));
            mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {
                "volumes": volumes,
                "containers": [{
                    "name": "app", "image": image, "imagePullPolicy": "Never",
                    "command": [self.program, format!("{scripts}/ask.cjs")],
                    "env": [{"name": "NODE_PATH", "value": self.modules}],
                    "securityContext": {"runAsUser": 65534, "runAsNonRoot": true},
                    "volumeMounts": mounts,
                }],
            },
        })
    }
}

/// What an application saw of one request.
#[derive(Debug, Clone)]
pub(crate) struct Said(pub(crate) Value);

impl Said {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let line = text.lines().last().context("nothing was said")?;
        Ok(Self(serde_json::from_str(line).with_context(|| {
            format!("not what ask.py says: {text}")
        })?))
    }

    pub(crate) fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> &str {
        self.0["text"].as_str().unwrap_or_default()
    }

    pub(crate) fn code(&self) -> &str {
        self.0["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.0["headers"][name].as_str().unwrap_or_default()
    }
}
