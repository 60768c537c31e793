//! A control plane and Helm. A given one is used by one test after the other, if it is an API server and nothing else, and is
//! cleared after each.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use mesh_cluster::{Cluster, Options, Tier, tool};
use mesh_e2e::stage::alone;
use serde_json::Value;

use super::render::KUBERNETES;

/// The programs of both generations: names of tools.
pub(super) const HELM: &str = "helm";
pub(super) const HELM_3: &str = "helm3";

pub(super) struct World {
    pub(super) cluster: Cluster,
    helm: PathBuf,
    chart: String,
    /// In a given cluster: nobody else's turn.
    turn: Option<MutexGuard<'static, ()>>,
}

static TURN: Mutex<()> = Mutex::new(());

/// Label of everything of the product.
const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";
const KINDS: [&str; 3] = ["inferencebackends", "modelcaches", "sovereigntypolicies"];
/// Kinds of others that a test defines.
const FOREIGN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/foreign.yaml");
/// Namespaces of these tests, and the label of those that were made for them. Without controllers none ever ends.
const PLACES: [&str; 3] = ["mesh-system", "team", "lab"];
const TAKEN: &str = "inferencemesh.dev/taken-by-tests";

/// Makes the namespaces in a given cluster; what somebody else has of these names is not touched.
fn take_places(cluster: &Cluster) -> Result<()> {
    let said = |args: &[&str]| cluster.kubectl(args).map_err(anyhow::Error::msg);
    for place in PLACES {
        let name = format!("namespace/{place}");
        let there = said(&["get", &name, "--ignore-not-found", "-o", "json"])?;
        if there.contains(TAKEN) {
            continue;
        }
        ensure!(
            there.trim().is_empty(),
            "the cluster of KUBECONFIG has a namespace {place} that is not of these tests"
        );
        said(&["create", "namespace", place])?;
        said(&["label", &name, &format!("{TAKEN}=yes")])?;
    }
    Ok(())
}

impl World {
    /// None where the machine has not what it takes, which is said.
    pub(super) fn start(name: &str) -> Option<Self> {
        Self::with(name, HELM)
    }

    /// The same for a test that deletes its namespace, which without controllers never ends: in a given cluster none comes
    /// after it.
    pub(super) fn of_ours(name: &str, helm: &str) -> Option<Self> {
        if Cluster::is_given() {
            println!("skipped: {name} deletes a namespace that the cluster of KUBECONFIG keeps");
            return None;
        }
        Self::with(name, helm)
    }

    /// The same with one of the two.
    pub(super) fn with(name: &str, helm: &str) -> Option<Self> {
        let options = Options {
            name: name.to_owned(),
            ..Options::default()
        };
        // A test that failed before has cleared up, too.
        let turn = Cluster::is_given().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        let started = tool::obtain(helm).and_then(|helm| {
            let cluster = Cluster::start(&options)?;
            if turn.is_some() {
                alone(&cluster, Tier::ControlPlane)?;
                take_places(&cluster)?;
            }
            Ok((cluster, helm))
        });
        match started {
            Ok((cluster, helm)) => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
                let chart = root.join("charts/inference-mesh").display().to_string();
                Some(Self {
                    cluster,
                    helm,
                    chart,
                    turn,
                })
            }
            Err(error) => {
                assert!(std::env::var("CI").is_err(), "{error:#}");
                println!("skipped: {error:#}");
                None
            }
        }
    }

    /// The same cluster, with the other Helm from now on.
    pub(super) fn turned_to(mut self, helm: &str) -> Self {
        self.helm = tool::obtain(helm).unwrap();
        self
    }

    /// A namespace that warns of pods that are not `restricted`.
    pub(super) fn namespace(&self, name: &str) {
        // In a given cluster it is there.
        if self.turn.is_none() {
            self.kubectl(&["create", "namespace", name]);
        }
        let warn = "pod-security.kubernetes.io/warn=restricted";
        self.kubectl(&["label", "--overwrite", "namespace", name, warn]);
    }

    pub(super) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args)
            .unwrap_or_else(|said| panic!("kubectl {}: {said}", args.join(" ")))
    }

    pub(super) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.cluster.kubectl(args)
    }

    /// What kubectl wrote, and what it said besides.
    pub(super) fn kubectl_said(&self, args: &[&str]) -> Output {
        let mut command = self.cluster.kubectl_command().unwrap();
        command.args(args).output().unwrap()
    }

    pub(super) fn chart_folder(&self) -> PathBuf {
        PathBuf::from(&self.chart)
    }

    /// Helm on the chart of this checkout: `verb release <chart> args`.
    pub(super) fn helm(&self, verb: &str, release: &str, args: &[&str]) -> Result<String, String> {
        let chart = (verb != "uninstall").then_some(self.chart.as_str());
        let all: Vec<&str> = [verb, release].into_iter().chain(chart).collect();
        self.helm_alone(&[all.as_slice(), args].concat())
    }

    /// Release `mesh` of a chart somewhere else.
    pub(super) fn helm_chart(
        &self,
        verb: &str,
        chart: &str,
        args: &[&str],
    ) -> Result<String, String> {
        self.helm_alone(&[&[verb, "mesh", chart], args].concat())
    }

    /// Helm as it is.
    pub(super) fn helm_alone(&self, args: &[&str]) -> Result<String, String> {
        self.run(&self.helm, args)
    }

    /// The same, running: for what has to be done meanwhile.
    pub(super) fn helm_begun(&self, args: &[&str]) -> Child {
        let mut command = self.cluster.command(&self.helm);
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// What it wrote, or what it said when it refused.
    pub(super) fn ended(begun: Child) -> Result<String, String> {
        told(&begun.wait_with_output().unwrap())
    }

    /// The manifest of release `mesh` by the Helm before ours.
    pub(super) fn rendered_by_helm_3(&self, args: &[&str]) -> String {
        let helm = tool::obtain(HELM_3).unwrap();
        let all = [&["template", "mesh", &self.chart], args].concat();
        self.run(&helm, &all).unwrap()
    }

    /// Another program of the tests on files of this cluster: what it wrote, or what it said and wrote when it refused.
    pub(super) fn tool(&self, name: &str, args: &[&str]) -> Result<String, String> {
        self.run(&tool::obtain(name).unwrap(), args)
    }

    fn run(&self, program: &Path, args: &[&str]) -> Result<String, String> {
        let mut command = self.cluster.command(program);
        told(&command.args(args).output().unwrap())
    }

    /// Waits until a kind is served.
    pub(super) fn cluster_knows(&self, kind: &str) {
        let crd = format!("crd/{kind}");
        self.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=60s"]);
    }

    pub(super) fn lint(&self, values: &str) -> Result<String, String> {
        let mut command = self.cluster.command(&self.helm);
        let done = command
            .args([
                "lint",
                "--strict",
                &self.chart,
                "-f",
                values,
                "--kube-version",
                KUBERNETES,
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned()
            + &String::from_utf8_lossy(&done.stderr);
        if done.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    }

    /// Writes a file of the cluster's own folder.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.cluster.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Whether a ServiceAccount of a release may do something in a namespace, or anywhere.
    pub(super) fn may(
        &self,
        account: (&str, &str),
        verb: &str,
        resource: &str,
        place: &[&str],
    ) -> bool {
        let user = format!("--as=system:serviceaccount:{}:{}", account.0, account.1);
        let args = [&["auth", "can-i", verb, resource, &user], place].concat();
        let said = self.kubectl_said(&args);
        let word = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        assert!(word == "yes" || word == "no", "{args:?}: {said:?}");
        word == "yes"
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.turn.is_none() {
            return;
        }
        // What fails is found by the next start.
        let delete = |kinds: &str, more: &[&str]| {
            let args = ["delete", kinds, "--ignore-not-found", "--wait=false"];
            drop(self.try_kubectl(&[&args[..], more].concat()));
        };
        delete(
            "validatingadmissionpolicybindings,validatingadmissionpolicies,mutatingwebhookconfigurations,clusterroles,clusterrolebindings,priorityclasses",
            &["-l", OURS],
        );
        // With all their objects.
        delete("customresourcedefinitions", &["-l", OURS, "--wait=true"]);
        // What was not made by the chart has no label.
        let kinds = KINDS.map(|kind| format!("{kind}.inferencemesh.dev"));
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        let wait = [&kinds[..], &["--wait=true"]].concat();
        delete("customresourcedefinitions", &wait);
        let foreign = ["delete", "--ignore-not-found", "-f", FOREIGN];
        drop(self.try_kubectl(&foreign));
        let made = "deployments,statefulsets,jobs,pods,services,serviceaccounts,configmaps,secrets,poddisruptionbudgets,networkpolicies,persistentvolumeclaims,controllerrevisions,horizontalpodautoscalers,roles,rolebindings,leases";
        for place in PLACES {
            delete(made, &["--all", "-n", place, "--grace-period=0", "--force"]);
            let label = "inferencemesh.dev/mesh-";
            drop(self.try_kubectl(&["label", "namespace", place, label]));
        }
    }
}

fn told(done: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() {
        Ok(text(&done.stdout))
    } else {
        Err(text(&done.stderr) + &text(&done.stdout))
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
