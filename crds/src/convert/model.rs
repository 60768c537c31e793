//! ModelCache to plain data for whoever fetches files and runs engines.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mesh_core::{Capabilities, License};

use super::{World, value};
use crate::model_cache::ModelCache;
use crate::parse::Document;
use crate::problem::Problem;
use crate::reference::{Credentials, Proxy};
use crate::source::Source;

/// A model: its files, where they may come from, how it is sampled, what it can do.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Namespace of the ModelCache.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The files, in the order of the spec; never empty.
    pub artifacts: Vec<ArtifactSpec>,
    /// Tried in this order; never empty.
    pub sources: Vec<SourceSpec>,
    /// Sampling where the caller says nothing.
    pub sampling: SamplingSpec,
    /// License.
    pub license: Option<License>,
    /// What is declared; the file may state more.
    pub capabilities: Capabilities,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactSpec {
    /// Path inside a source, with `/`.
    pub path: String,
    /// 64 lower-case hexadecimal digits; absent = pinned by the first use.
    pub sha256: Option<String>,
}

/// One place that may have the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// A folder or file of this machine, as written: `~/` and relative paths are the caller's.
    File {
        /// The path as written.
        path: PathBuf,
    },
    /// A web server: a folder if it ends in `/`, else the file itself.
    Http {
        /// The address.
        url: String,
        /// How it is reached.
        access: AccessSpec,
    },
    /// A repository of Hugging Face or a mirror.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// Commit, branch or tag.
        revision: String,
        /// A mirror; absent = the public hub.
        endpoint: Option<String>,
        /// Artifact path to path in the repository, where they differ.
        files: BTreeMap<String, String>,
        /// How it is reached.
        access: AccessSpec,
    },
    /// A bucket of an S3-compatible store.
    S3 {
        /// Address of the store.
        endpoint: String,
        /// Name of the bucket.
        bucket: String,
        /// Put before the artifact's path.
        prefix: Option<String>,
        /// Region of the bucket.
        region: Option<String>,
        /// How it is reached.
        access: AccessSpec,
    },
    /// An OCI artifact in a registry.
    Oci {
        /// Registry, repository, and tag or digest.
        reference: String,
        /// How it is reached.
        access: AccessSpec,
    },
}

/// How a source is reached: where its key is, never the key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessSpec {
    /// Where the key is.
    pub credentials: Option<CredentialsSpec>,
    /// Address of a proxy.
    pub proxy: Option<String>,
}

/// Where a key is on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsSpec {
    /// An environment variable of this process.
    Env(String),
    /// A file, as written: `~/` and relative paths are the caller's.
    File(PathBuf),
}

/// Sampling where the caller says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SamplingSpec {
    /// 0..=2.
    pub temperature: Option<f64>,
    /// 0..=1.
    pub top_p: Option<f64>,
}

pub(super) fn convert(
    world: &World<'_>,
    document: &Document,
    object: &ModelCache,
    problems: &mut Vec<Problem>,
) -> Option<ModelSpec> {
    let spec = &object.spec;
    let sampling = spec.sampling.clone().unwrap_or_default();
    let temperature = sampling.temperature.map(|number| number.read()).transpose();
    let top_p = sampling.top_p.map(|number| number.read()).transpose();
    Some(ModelSpec {
        namespace: document
            .object
            .namespace()
            .unwrap_or(world.input.mesh_namespace)
            .to_owned(),
        name: document.object.name().to_owned(),
        artifacts: spec
            .artifacts
            .iter()
            .map(|artifact| ArtifactSpec {
                path: artifact.path.clone(),
                sha256: artifact.sha256.as_ref().map(|digest| digest.0.clone()),
            })
            .collect(),
        sources: spec.sources.iter().filter_map(source).collect(),
        sampling: SamplingSpec {
            temperature: value(document, "spec.sampling.temperature", temperature, problems)?,
            top_p: value(document, "spec.sampling.topP", top_p, problems)?,
        },
        license: spec
            .license
            .as_ref()
            .map(|license| License(license.0.clone())),
        capabilities: capabilities(document, object, problems)?,
    })
}

/// What a ModelCache declares.
pub(super) fn capabilities(
    document: &Document,
    object: &ModelCache,
    problems: &mut Vec<Problem>,
) -> Option<Capabilities> {
    match &object.spec.capabilities {
        None => Some(Capabilities::default()),
        Some(declared) => value(
            document,
            "spec.capabilities",
            Capabilities::try_from(declared),
            problems,
        ),
    }
}

/// The other sources are refused at the door.
fn source(source: &Source) -> Option<SourceSpec> {
    if let Some(file) = &source.file {
        return Some(SourceSpec::File {
            path: PathBuf::from(&file.path),
        });
    }
    if let Some(http) = &source.http {
        return Some(SourceSpec::Http {
            url: http.url.0.clone(),
            access: access(http.credentials.as_ref(), http.proxy.as_ref()),
        });
    }
    if let Some(s3) = &source.s3 {
        return Some(SourceSpec::S3 {
            endpoint: s3.endpoint.0.clone(),
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.clone(),
            region: s3.region.clone(),
            access: access(s3.credentials.as_ref(), s3.proxy.as_ref()),
        });
    }
    if let Some(oci) = &source.oci {
        return Some(SourceSpec::Oci {
            reference: oci.reference.clone(),
            access: access(oci.credentials.as_ref(), oci.proxy.as_ref()),
        });
    }
    source
        .hugging_face
        .as_ref()
        .map(|hub| SourceSpec::HuggingFace {
            repo: hub.repo.clone(),
            revision: hub.revision.clone(),
            endpoint: hub.endpoint.as_ref().map(|url| url.0.clone()),
            files: hub.files.clone(),
            access: access(hub.credentials.as_ref(), hub.proxy.as_ref()),
        })
}

/// `secretRef` and `tls` are refused at the door of one machine.
fn access(credentials: Option<&Credentials>, proxy: Option<&Proxy>) -> AccessSpec {
    let place = |credentials: &Credentials| match (&credentials.env, &credentials.file) {
        (Some(name), _) => Some(CredentialsSpec::Env(name.clone())),
        (None, Some(path)) => Some(CredentialsSpec::File(PathBuf::from(path))),
        (None, None) => None,
    };
    AccessSpec {
        credentials: credentials.and_then(place),
        proxy: proxy.map(|proxy| proxy.url.0.clone()),
    }
}
