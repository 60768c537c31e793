//! What the chart says of itself is so: version, images, kinds. Needs Helm only.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use mesh_cluster::tool;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn rendered() -> Option<String> {
    let helm = match tool::obtain("helm") {
        Ok(helm) => helm,
        Err(error) => {
            assert!(std::env::var("CI").is_err(), "{error:#}");
            println!("skipped: {error:#}");
            return None;
        }
    };
    let done = Command::new(helm)
        .args(["template", "mesh", "-n", "mesh-system"])
        .arg(root().join("charts/inference-mesh"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    Some(String::from_utf8(done.stdout).unwrap())
}

/// Images of ours in a text.
fn images(text: &str) -> BTreeSet<&str> {
    let words = text.split([' ', '\n', '"']);
    words
        .filter(|word| word.starts_with("inferencemesh.local/"))
        .collect()
}

#[test]
fn the_charts_metadata_is_true() {
    let text = std::fs::read_to_string(root().join("charts/inference-mesh/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&text).unwrap();
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
    let said = |name: &str| {
        chart["annotations"][format!("artifacthub.io/{name}")]
            .as_str()
            .unwrap()
    };
    let kinds: Vec<Value> = serde_saphyr::from_str(said("crds")).unwrap();
    let folder = root().join("charts/inference-mesh/files/crds");
    assert_eq!(kinds.len(), std::fs::read_dir(&folder).unwrap().count());
    let Some(manifest) = rendered() else { return };
    for kind in &kinds {
        let name = format!("  name: {}\n", kind["name"].as_str().unwrap());
        assert!(manifest.contains(&name), "{name}");
    }
    let told = images(said("images"));
    assert_eq!(
        told,
        images(&manifest),
        "images of the chart's annotation and of its templates"
    );
}
