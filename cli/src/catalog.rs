//! The declared models as what the model store understands.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use mesh_crds::convert::{AccessSpec, CredentialsSpec, ModelSpec, SourceSpec as Declared};
use mesh_dataplane::source::FileSource;
use mesh_models::{
    Access, ArtifactSpec, CacheSpec, Credentials, Resolver, Settings, SourceSpec, Store,
};

use crate::args::{AuditDir, StoreDir};

/// Namespace of the mesh on one machine.
pub(crate) const NAMESPACE: &str = "default";

/// The models that a directory declares. Whether policies pass their tests does not matter here.
pub(crate) fn caches(dir: &Path) -> anyhow::Result<Vec<CacheSpec>> {
    let (_, loaded) = FileSource::new(dir, NAMESPACE).translate(Timestamp::now())?;
    loaded.models.iter().map(cache).collect()
}

/// One ModelCache as the store understands it.
pub(crate) fn cache(model: &ModelSpec) -> anyhow::Result<CacheSpec> {
    let artifact = |declared: &mesh_crds::convert::ArtifactSpec| -> anyhow::Result<ArtifactSpec> {
        let sha256 = declared.sha256.as_deref().map(str::parse).transpose()?;
        Ok(ArtifactSpec {
            path: declared.path.parse()?,
            sha256,
        })
    };
    let artifacts: anyhow::Result<Vec<ArtifactSpec>> =
        model.artifacts.iter().map(artifact).collect();
    Ok(CacheSpec {
        name: name(model),
        artifacts: artifacts.with_context(|| format!("ModelCache {}", model.name))?,
        sources: model.sources.iter().map(source).collect(),
    })
}

fn source(declared: &Declared) -> SourceSpec {
    match declared {
        Declared::File { path } => SourceSpec::File { path: path.clone() },
        Declared::Http {
            url,
            access: declared,
        } => SourceSpec::Http {
            url: url.clone(),
            access: access(declared),
        },
        Declared::HuggingFace {
            repo,
            revision,
            endpoint,
            files,
            access: declared,
        } => SourceSpec::HuggingFace {
            repo: repo.clone(),
            revision: revision.clone(),
            endpoint: endpoint.clone(),
            files: files.clone(),
            access: access(declared),
        },
        Declared::S3 {
            endpoint,
            bucket,
            prefix,
            region,
            access: declared,
        } => SourceSpec::S3 {
            endpoint: endpoint.clone(),
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            region: region.clone(),
            access: access(declared),
        },
        Declared::Oci {
            reference,
            access: declared,
        } => SourceSpec::Oci {
            reference: reference.clone(),
            access: access(declared),
        },
    }
}

fn access(declared: &AccessSpec) -> Access {
    let credentials = declared.credentials.as_ref().map(|place| match place {
        CredentialsSpec::Env(name) => Credentials::Env(name.clone()),
        CredentialsSpec::File(path) => Credentials::File(path.clone()),
    });
    Access {
        credentials,
        ca_file: None,
        proxy: declared.proxy.clone(),
    }
}

fn name(model: &ModelSpec) -> String {
    if model.namespace == NAMESPACE {
        model.name.clone()
    } else {
        format!("{}/{}", model.namespace, model.name)
    }
}

/// The model store, and who fills it. Relative `file` sources start at the directory of the YAML.
pub(crate) fn resolver(store: &StoreDir, dir: &Path) -> anyhow::Result<Resolver> {
    let home = std::env::home_dir();
    let root = match &store.models_dir {
        Some(root) => root.clone(),
        None => data_dir(home.as_deref(), "models")
            .context("no home directory: name a model folder with --models-dir")?,
    };
    let store = Store::open(&root)
        .with_context(|| format!("could not use the model folder {}", root.display()))?;
    let base_dir = FileSource::new(dir, NAMESPACE).base_dir().to_path_buf();
    let base_dir = std::path::absolute(&base_dir).unwrap_or(base_dir);
    Ok(Resolver::new(
        store,
        Settings {
            base_dir,
            home,
            ..Settings::default()
        },
    ))
}

/// The folder of the durable audit; none where nobody has a home directory and none is named.
pub(crate) fn audit_dir(audit: &AuditDir) -> Option<PathBuf> {
    let named = audit.audit_dir.clone();
    named.or_else(|| data_dir(std::env::home_dir().as_deref(), "audit"))
}

/// A folder in the user's data directory (XDG Base Directory Specification).
fn data_dir(home: Option<&Path>, name: &str) -> Option<PathBuf> {
    let stated = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = stated.or_else(|| home.map(|home| home.join(".local/share")))?;
    Some(base.join("inference-mesh").join(name))
}
