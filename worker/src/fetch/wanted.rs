//! What `fetch` is asked for: `artifacts` and `sources` as a ModelCache has them, with files in the place
//! of Secrets and claims. Refuses kinds of sources that nothing here can read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use mesh_models::{Access, ArtifactSpec, CacheSpec, Credentials, SourceSpec};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Where the volumes of `pvc` sources are mounted, one folder each.
const VOLUMES: &str = "/sources";

#[derive(Debug, Deserialize)]
struct Wanted {
    artifacts: Vec<Artifact>,
    sources: Vec<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    path: String,
    sha256: Option<String>,
}

/// Where the image's own files are, and whether they are used there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Builtin<'a> {
    pub(super) folder: &'a Path,
    pub(super) link: bool,
}

/// Reads the JSON of `--spec`.
pub(super) fn read(text: &str, builtin: Builtin<'_>, store: &str) -> anyhow::Result<CacheSpec> {
    let wanted: Wanted =
        serde_json::from_str(text).context("--spec is not what fetch understands")?;
    let artifact = |artifact: &Artifact| -> anyhow::Result<ArtifactSpec> {
        ensure!(
            artifact.path.split('/').next() != Some(store),
            "artifact path {} lies in the store's own folder",
            artifact.path
        );
        Ok(ArtifactSpec {
            path: artifact.path.parse()?,
            sha256: artifact.sha256.as_deref().map(str::parse).transpose()?,
        })
    };
    let artifacts: anyhow::Result<_> = wanted.artifacts.iter().map(artifact).collect();
    let sources: anyhow::Result<_> = wanted
        .sources
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            source(entry, builtin).with_context(|| format!("sources[{index}] of --spec"))
        })
        .collect();
    Ok(CacheSpec {
        name: String::from("model"),
        artifacts: artifacts?,
        sources: sources?,
    })
}

/// One source: a kind with its fields. `credentialsFile`, `caFile` and `proxy` may stand among them or
/// beside the kind.
struct Fields<'a> {
    beside: &'a Map<String, Value>,
    own: &'a Value,
}

/// What may stand beside the kind.
const BESIDE: [&str; 3] = ["credentialsFile", "caFile", "proxy"];

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.own[name].as_str().map(str::to_owned)
    }

    fn need(&self, name: &str) -> anyhow::Result<String> {
        self.text(name)
            .with_context(|| format!("`{name}` is missing"))
    }

    fn either(&self, name: &str) -> Option<&Value> {
        self.own.get(name).or_else(|| self.beside.get(name))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.either(name)?.as_str().map(PathBuf::from)
    }

    fn access(&self) -> Access {
        let proxy = self.either("proxy").and_then(|proxy| proxy["url"].as_str());
        Access {
            credentials: self.path("credentialsFile").map(Credentials::File),
            ca_file: self.path("caFile"),
            proxy: proxy.map(str::to_owned),
        }
    }

    fn files(&self) -> anyhow::Result<BTreeMap<String, String>> {
        match self.own.get("files") {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(files) => BTreeMap::deserialize(files).context("`files` maps paths to paths"),
        }
    }
}

fn source(entry: &Map<String, Value>, builtin: Builtin<'_>) -> anyhow::Result<SourceSpec> {
    let mut kinds = entry
        .iter()
        .filter(|(name, value)| !value.is_null() && !BESIDE.contains(&name.as_str()));
    let (Some((kind, own)), None) = (kinds.next(), kinds.next()) else {
        bail!("exactly one kind of source is needed");
    };
    let fields = Fields { beside: entry, own };
    Ok(match kind.as_str() {
        "builtin" => SourceSpec::Mounted {
            name: String::from("builtin"),
            path: builtin.folder.to_path_buf(),
            copy_from: (!builtin.link).then(|| builtin.folder.to_path_buf()),
        },
        "pvc" => {
            let folder = PathBuf::from(fields.need("folder")?);
            SourceSpec::Mounted {
                name: format!("pvc {}", folder.display()),
                copy_from: Some(volume(&folder)),
                path: folder,
            }
        }
        "http" => SourceSpec::Http {
            url: fields.need("url")?,
            access: fields.access(),
        },
        "huggingFace" => SourceSpec::HuggingFace {
            repo: fields.need("repo")?,
            revision: fields
                .text("revision")
                .unwrap_or_else(|| String::from("main")),
            endpoint: fields.text("endpoint"),
            files: fields.files()?,
            access: fields.access(),
        },
        "s3" => SourceSpec::S3 {
            endpoint: fields.need("endpoint")?,
            bucket: fields.need("bucket")?,
            prefix: fields.text("prefix"),
            region: fields.text("region"),
            access: fields.access(),
        },
        "oci" => SourceSpec::Oci {
            reference: fields.need("reference")?,
            access: fields.access(),
        },
        other => bail!("not supported yet: source {other}"),
    })
}

/// The mount that a folder belongs to: `/sources/<index>`, else the folder itself.
fn volume(folder: &Path) -> PathBuf {
    let below = folder.strip_prefix(VOLUMES).ok();
    match below.and_then(|below| below.components().next()) {
        Some(index) => Path::new(VOLUMES).join(index),
        None => folder.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> anyhow::Result<Vec<SourceSpec>> {
        let text = format!(r#"{{"artifacts": [{{"path": "m.bin"}}], "sources": {text}}}"#);
        let builtin = Builtin {
            folder: Path::new("/builtin"),
            link: false,
        };
        read(&text, builtin, ".store").map(|spec| spec.sources)
    }

    #[test]
    fn every_kind_of_a_clusters_sources_is_understood_with_files_for_its_secrets() {
        let found = sources(
            r#"[
            {"builtin": {}},
            {"pvc": {"folder": "/sources/1/deep/er"}},
            {"http": {"url": "https://e.example/", "credentialsFile": "/credentials/2", "caFile": "/trust/2", "proxy": {"url": "http://p:3128"}}},
            {"huggingFace": {"repo": "o/n", "files": {"m.bin": "x/y.bin"}}, "credentialsFile": "/credentials/3"},
            {"s3": {"endpoint": "https://s.example", "bucket": "b-b", "prefix": "p", "region": "eu-1"}},
            {"oci": {"reference": "r.example/a:1"}}
        ]"#,
        )
        .expect("understood");
        assert_eq!(found.len(), 6);
        assert!(
            matches!(&found[0], SourceSpec::Mounted { name, copy_from: Some(root), .. } if name == "builtin" && root == Path::new("/builtin"))
        );
        assert!(
            matches!(&found[1], SourceSpec::Mounted { copy_from: Some(root), .. } if root == Path::new("/sources/1"))
        );
        let access = found[2].access().expect("a way");
        assert_eq!(
            access,
            &Access {
                credentials: Some(Credentials::File("/credentials/2".into())),
                ca_file: Some("/trust/2".into()),
                proxy: Some("http://p:3128".into()),
            }
        );
        assert!(
            matches!(&found[3], SourceSpec::HuggingFace { revision, files, access, .. }
            if revision == "main" && files["m.bin"] == "x/y.bin" && access.credentials == Some(Credentials::File("/credentials/3".into())))
        );
    }

    #[test]
    fn what_is_no_source_here_is_refused_by_name() {
        for (text, part) in [
            (r#"[{"peers": {}}]"#, "not supported yet: source peers"),
            (r#"[{"http": {}}]"#, "`url` is missing"),
            (r"[{}]", "exactly one kind"),
            (
                r#"[{"builtin": {}, "http": {"url": "https://e.example/"}}]"#,
                "exactly one kind",
            ),
            (
                r#"[{"huggingFace": {"repo": "o/n", "files": 1}}]"#,
                "`files` maps",
            ),
        ] {
            let refused = format!("{:#}", sources(text).expect_err(text));
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
