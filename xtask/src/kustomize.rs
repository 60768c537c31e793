//! The Kustomize folders of `deploy`: what the chart renders with its defaults, without what only Helm understands.
//! Written by `cargo xtask gen` and compared by `cargo xtask check`, so that the two never differ. Refuses nothing: what
//! it gives is looked at by a real API server in the tests.

use std::path::Path;

use anyhow::Result;
use mesh_cluster::tool;

use crate::process::output;

/// Where it lies; a folder each for the kinds, the mesh, and the Job that removes what the operator made.
pub(crate) const FOLDER: &str = "deploy/kustomize";
pub(crate) const PARTS: [&str; 4] = ["kinds", "mesh", "uninstall", "base"];
const NAMESPACE: &str = "mesh-system";
const HEAD: &str = "# Written by `cargo xtask gen` from charts/inference-mesh.\n";
const HOOK: &str = "    helm.sh/hook: ";
/// The mesh's namespace, which Helm makes by a flag.
const HOME: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: mesh-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
";

/// Paths below the folder and their text; none where there is no Helm, which is said, and an error under CI.
pub(crate) fn files(root: &Path) -> Result<Vec<(String, String)>> {
    let helm = match tool::path("helm") {
        Ok(helm) => helm,
        Err(error) if std::env::var_os("CI").is_some() => return Err(error),
        Err(error) => {
            println!("{FOLDER} is left as it is: {error:#}");
            return Ok(Vec::new());
        }
    };
    let mut helm = std::process::Command::new(helm);
    helm.args(["template", "mesh", "-n", NAMESPACE])
        .arg(root.join("charts/inference-mesh"))
        .args(["--kube-version", "1.33.0", "--set", "crds.keep=false"]);
    Ok(parts(&output(&mut helm)?))
}

fn parts(manifest: &str) -> Vec<(String, String)> {
    let mut texts = [HEAD.to_owned(), HEAD.to_owned() + HOME, HEAD.to_owned()];
    for document in documents(manifest) {
        // A folder without `helm test`.
        if document.contains("app.kubernetes.io/component: test") {
            continue;
        }
        let part = if document.contains("\nkind: CustomResourceDefinition\n") {
            0
        } else if document.contains(HOOK) {
            2
        } else {
            1
        };
        let separator = if texts[part] == HEAD { "" } else { "---\n" };
        texts[part].push_str(separator);
        texts[part].push_str(&plain(&document));
    }
    let mut files = Vec::new();
    for (part, text) in PARTS.into_iter().zip(texts) {
        files.push((format!("{part}/{part}.yaml"), text));
        files.push(kustomization(part, &[&format!("{part}.yaml")]));
    }
    files.push(kustomization("base", &["../kinds", "../mesh"]));
    files
}

fn kustomization(part: &str, resources: &[&str]) -> (String, String) {
    let text = format!(
        "{HEAD}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{}]\n",
        resources.join(", ")
    );
    (format!("{part}/kustomization.yaml"), text)
}

/// Documents that have an object in them.
fn documents(manifest: &str) -> impl Iterator<Item = String> {
    let all = manifest.split("\n---\n").map(|text| {
        let lines = text.trim_start_matches("---\n").lines();
        let told = lines.filter(|line| !line.starts_with("# Source: "));
        told.collect::<Vec<_>>().join("\n").trim().to_owned() + "\n"
    });
    all.filter(|text| text.contains("kind: "))
}

/// Without what only Helm understands.
fn plain(document: &str) -> String {
    let mut text = String::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        let ours = line.trim_start().starts_with("helm.sh/");
        let emptied = line.trim() == "annotations:"
            && lines
                .peek()
                .is_some_and(|next| next.contains(HOOK.trim_end()));
        if ours || emptied {
            continue;
        }
        let line = line.replace("managed-by: Helm", "managed-by: kustomize");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "---
# Source: a.yaml
apiVersion: v1
kind: ServiceAccount
metadata:
  name: a
  labels:
    app.kubernetes.io/component: gateway
    app.kubernetes.io/managed-by: Helm
    helm.sh/chart: c-1

---
# Source: b.yaml
# Only words.
---
# Source: c.yaml
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: c
---
# Source: d.yaml
apiVersion: batch/v1
kind: Job
metadata:
  name: d
  annotations:
    helm.sh/hook: pre-delete
    helm.sh/hook-weight: \"10\"
spec: {}
---
# Source: e.yaml
apiVersion: v1
kind: Pod
metadata:
  labels:
    app.kubernetes.io/component: test
";

    #[test]
    fn objects_go_to_their_folders_without_what_is_helms() {
        let files = parts(MANIFEST);
        let of = |path: &str| {
            let found = files.iter().find(|(name, _)| name == path);
            found.map(|(_, text)| text.as_str()).unwrap()
        };
        assert!(of("kinds/kinds.yaml").contains("name: c\n"));
        let mesh = of("mesh/mesh.yaml");
        assert!(mesh.contains("managed-by: kustomize") && mesh.contains("kind: Namespace"));
        assert_eq!(mesh.matches("---\n").count(), 1, "{mesh}");
        let uninstall = of("uninstall/uninstall.yaml");
        assert!(uninstall.contains("  name: d\nspec: {}\n"), "{uninstall}");
        assert!(
            files
                .iter()
                .all(|(_, text)| !text.contains("helm.sh") && !text.contains("kind: Pod\n"))
        );
    }
}
