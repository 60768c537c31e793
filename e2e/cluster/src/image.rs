//! Images from files of this machine: one layer, no base, no daemon. And the two that every node needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::run;
use crate::tool;

/// Does nothing until it is told to end.
pub(crate) const PAUSE: &str = "inferencemesh.test/pause:1";
const DNS: &str = "inferencemesh.test/coredns:1";
/// Answers on ports, and asks others whether they answer.
pub(crate) const TALK: &str = "inferencemesh.test/talk:1";

/// A program that sleeps until a signal, in as few bytes as a linker makes.
const PAUSE_SOURCE: &str = "#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { _exit(0); }\n\
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n";

/// User and group of every image.
pub const NOBODY: &str = "65532:65532";

/// An image to build.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Full name with its tag.
    pub name: String,
    /// Files of this machine and where they go, with their modes, such as `0555`.
    pub files: Vec<(PathBuf, String, String)>,
    /// What runs.
    pub entrypoint: String,
    /// Labels.
    pub labels: Vec<(String, String)>,
}

/// An archive in the OCI layout.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(crate) archive: PathBuf,
}

/// Writes an image as an OCI archive with Debian's buildah. The same files give the same layers.
///
/// # Errors
/// If buildah is missing or refuses.
pub fn build_image(image: &Image, archive: &Path) -> Result<()> {
    let storage = tool::cache()?
        .join("buildah")
        .join(std::process::id().to_string());
    fs::create_dir_all(&storage)?;
    let done = build_in(image, archive, &storage);
    drop(fs::remove_dir_all(&storage));
    done
}

/// buildah on a storage of its own.
struct Buildah<'a> {
    storage: &'a Path,
}

impl Buildah<'_> {
    fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(self.storage.join("root"))
            .arg("--runroot")
            .arg(self.storage.join("run"))
            .args(args)
            .env("BUILDAH_ISOLATION", "chroot")
            .env("STORAGE_DRIVER", "vfs");
        run(&mut command)
    }

    fn configure(&self, container: &str, image: &Image) -> Result<()> {
        let entrypoint = json!([image.entrypoint]).to_string();
        let mut config = vec![
            "config",
            "--entrypoint",
            &entrypoint,
            "--cmd",
            "",
            "--user",
            NOBODY,
        ];
        let labels: Vec<String> = image
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        for label in &labels {
            config.extend(["--label", label]);
        }
        config.push(container);
        self.run(&config).map(drop)
    }
}

fn build_in(image: &Image, archive: &Path, storage: &Path) -> Result<()> {
    let buildah = Buildah { storage };
    let container = buildah
        .run(&["from", "scratch"])
        .context("no image can be built: install buildah")?;
    let container = container.trim();
    ensure!(!container.is_empty(), "buildah gave no container");
    for (from, to, mode) in &image.files {
        let from = from.display().to_string();
        buildah.run(&[
            "copy", "--chmod", mode, "--chown", "0:0", container, &from, to,
        ])?;
    }
    buildah.configure(container, image)?;
    buildah.run(&[
        "commit",
        "--quiet",
        "--timestamp",
        "0",
        container,
        &image.name,
    ])?;
    if let Some(folder) = archive.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = archive.with_extension(format!("part-{}", std::process::id()));
    drop(fs::remove_file(&part));
    let target = format!("oci-archive:{}:{}", part.display(), image.name);
    buildah.run(&[
        "push",
        "--quiet",
        "--compression-format",
        "gzip",
        &image.name,
        &target,
    ])?;
    Ok(fs::rename(part, archive)?)
}

fn kept(archive: PathBuf, image: impl FnOnce() -> Result<Image>) -> Result<Archive> {
    if !archive.is_file() {
        build_image(&image()?, &archive)?;
    }
    Ok(Archive { archive })
}

/// An image with one of the built tools in it, kept beside it: a new version of the tool is a new image.
fn of_tool(program: &str, name: &str) -> Result<Archive> {
    let program = tool::path(program)?;
    kept(program.with_extension("tar"), || {
        let place = format!("/{}", program.file_name().unwrap_or_default().display());
        Ok(Image {
            name: name.to_owned(),
            files: vec![(program.clone(), place.clone(), String::from("0555"))],
            entrypoint: place,
            labels: Vec::new(),
        })
    })
}

/// The image of every sandbox.
pub(crate) fn pause() -> Result<Archive> {
    let folder = tool::cache()?.join("images");
    kept(folder.join("pause-1.tar"), || {
        fs::create_dir_all(&folder)?;
        let (source, program) = (folder.join("pause.c"), folder.join("pause"));
        fs::write(&source, PAUSE_SOURCE)?;
        let mut compiler = Command::new("cc");
        compiler
            .args(["-static", "-Os", "-s", "-o"])
            .arg(&program)
            .arg(&source);
        run(&mut compiler).context("the pause program could not be compiled: install gcc")?;
        Ok(Image {
            name: PAUSE.to_owned(),
            files: vec![(program, String::from("/pause"), String::from("0555"))],
            entrypoint: String::from("/pause"),
            labels: Vec::new(),
        })
    })
}

/// The image of the cluster's DNS server.
pub(crate) fn dns() -> Result<Archive> {
    of_tool("coredns", DNS)
}

/// The image of pods that test networks and devices.
pub(crate) fn talk() -> Result<Archive> {
    of_tool("talk", TALK)
}

/// CoreDNS as it runs in clusters, without a way out.
pub(crate) fn dns_objects() -> Value {
    let corefile = ".:53 {\n  errors\n  health\n  ready\n  kubernetes cluster.local in-addr.arpa ip6.arpa {\n    pods insecure\n    ttl 5\n  }\n  cache 5\n}\n";
    let labels = json!({"k8s-app": "kube-dns"});
    let meta = |name: &str| json!({"name": name, "namespace": "kube-system", "labels": labels});
    let pod = json!({
        "serviceAccountName": "coredns", "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
        "containers": [{
            "name": "coredns", "image": DNS, "imagePullPolicy": "Never", "args": ["-conf", "/etc/coredns/Corefile"],
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": true}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
            "securityContext": {"runAsUser": 65532, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        }],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("coredns")},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("coredns"), "data": {"Corefile": corefile}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "mesh-test-coredns"}, "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "mesh-test-coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "mesh-test-coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}]},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("coredns"),
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta("kube-dns"), "spec": {"clusterIP": "10.0.0.10", "selector": labels, "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of an archive, as text.
    fn member(archive: &Path, name: &str) -> String {
        run(Command::new("tar").arg("-xOf").arg(archive).arg(name)).unwrap()
    }

    fn blob(archive: &Path, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = format!("blobs/{}", digest.replace(':', "/"));
        serde_json::from_str(&member(archive, &path)).unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_image_which_is_nobodys_and_has_no_shell() {
        if tool::packages_for_images().is_err() {
            assert!(std::env::var("CI").is_err(), "no image can be built here");
            println!("skipped: no image can be built here");
            return;
        }
        let folder = std::env::temp_dir().join(format!("mesh-image-{}", std::process::id()));
        let manifests: Vec<(Value, Value)> = ["one", "two"]
            .map(|name| {
                let folder = folder.join(name);
                fs::create_dir_all(&folder).unwrap();
                // Written twice: neither time nor place may matter.
                let program = folder.join("program");
                fs::write(&program, "a program").unwrap();
                let image = Image {
                    name: String::from("inferencemesh.test/same:1"),
                    files: vec![(program, String::from("/program"), String::from("0555"))],
                    entrypoint: String::from("/program"),
                    labels: vec![(String::from("title"), String::from("same"))],
                };
                let archive = folder.join("image.tar");
                build_image(&image, &archive).unwrap();
                let index: Value = serde_json::from_str(&member(&archive, "index.json")).unwrap();
                let manifest = blob(&archive, &index["manifests"][0]);
                let config = blob(&archive, &manifest["config"]);
                (index["manifests"][0]["digest"].clone(), config)
            })
            .into();
        fs::remove_dir_all(&folder).unwrap();
        let [(first, config), (second, _)] = &manifests[..] else {
            panic!("two images")
        };
        assert_eq!(first, second, "the same files, another digest");
        let config = &config["config"];
        assert_eq!(config["User"], NOBODY, "{config}");
        assert_eq!(config["Entrypoint"], json!(["/program"]), "{config}");
        assert_eq!(config["Labels"]["title"], "same", "{config}");
        assert!(
            config["Cmd"].as_array().is_none_or(Vec::is_empty),
            "{config}"
        );
    }
}
