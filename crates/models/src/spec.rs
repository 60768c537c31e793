//! What is wanted: artifacts by path and digest, and the sources to try. Plain data that any
//! configuration can be turned into. Refuses paths that could leave the folder they are joined to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::Digest;
use crate::place::shown_text;

/// One model (or adapter): its files and where they may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// The cache's name, as it appears in messages and in the pins (`namespace/name` or `name`).
    pub name: String,
    /// The files, each with a path of its own.
    pub artifacts: Vec<ArtifactSpec>,
    /// Tried in this order for every artifact.
    pub sources: Vec<SourceSpec>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactSpec {
    /// Where the file lies inside a source.
    pub path: ArtifactPath,
    /// What its bytes must hash to. Absent: pinned by the first successful use.
    pub sha256: Option<Digest>,
}

/// A place that may have the artifacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// A folder that holds the artifacts under their paths, or the one file itself. `~/` is the home
    /// folder, a relative path starts at [`Settings::base_dir`](crate::Settings::base_dir).
    /// The file is used where it lies: it is neither copied nor ever moved or changed.
    File {
        /// The folder or file as written by the user.
        path: PathBuf,
    },
    /// A folder that is mounted for this process: the image's own files, or a volume.
    Mounted {
        /// How a person calls it: `builtin`, `pvc models/llama`.
        name: String,
        /// The folder that holds the artifacts under their paths, or the one file itself.
        path: PathBuf,
        /// Where the mount begins, if the file is to be copied into the store because the mount is gone
        /// when it is served; no link may lead out of it. Absent: the file is used where it lies.
        copy_from: Option<PathBuf>,
    },
    /// A URL. One that ends in `/` is a folder to which the artifact's path is appended; any other
    /// is the file itself. https, or http on loopback. Credentials are a bearer token.
    Http {
        /// The URL as written by the user; no user name or password in it.
        url: String,
        /// Credentials, trust and proxy.
        access: Access,
    },
    /// A Hugging Face repository: `{endpoint}/{repo}/resolve/{revision}/{path}`. Credentials are a
    /// bearer token.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// A commit, branch or tag.
        revision: String,
        /// A mirror that speaks the same paths; absent: the public hub.
        endpoint: Option<String>,
        /// Where artifacts have other names in the repository: artifact path to path there.
        files: BTreeMap<String, String>,
        /// Credentials, trust and proxy.
        access: Access,
    },
    /// A bucket of an S3-compatible store, addressed by path. Credentials are
    /// `<access key id>:<secret access key>`, optionally `:<session token>`; without any it is anonymous.
    S3 {
        /// Address of the store.
        endpoint: String,
        /// Name of the bucket.
        bucket: String,
        /// Put before the artifact's path, with a `/` between.
        prefix: Option<String>,
        /// Region for the signature; absent: `us-east-1`.
        region: Option<String>,
        /// Credentials, trust and proxy.
        access: Access,
    },
    /// An OCI artifact in a registry. Credentials are `<user>:<password>`.
    Oci {
        /// Registry, repository, and tag or digest.
        reference: String,
        /// Credentials, trust and proxy.
        access: Access,
    },
}

/// How a source is reached. Holds names of secrets, never a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Where the key is; read anew for every use, so that a rotated key counts at once.
    pub credentials: Option<Credentials>,
    /// PEM file of the certificate authorities that alone are trusted; absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// Proxy for https, by CONNECT. Nothing else reads proxy settings: not the environment.
    pub proxy: Option<String>,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// An environment variable of this process.
    Env(String),
    /// A file whose trimmed content is the key.
    File(PathBuf),
}

impl SourceSpec {
    /// How it is reached; none for what is on this machine.
    pub fn access(&self) -> Option<&Access> {
        match self {
            Self::File { .. } | Self::Mounted { .. } => None,
            Self::Http { access, .. }
            | Self::HuggingFace { access, .. }
            | Self::S3 { access, .. }
            | Self::Oci { access, .. } => Some(access),
        }
    }
}

/// A relative path with `/` between its segments; no `.`, `..`, backslash or control character.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactPath(String);

/// A path that does not stay inside the folder it is joined to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "artifact path {path:?} must be relative, without `.`, `..`, empty parts, backslashes or control characters"
)]
pub struct InvalidPath {
    path: String,
}

impl ArtifactPath {
    /// The path as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the slashes; at least one, none empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for ArtifactPath {
    type Err = InvalidPath;

    fn from_str(path: &str) -> Result<Self, InvalidPath> {
        let plain = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.len() <= 255
                && !segment.contains(|c: char| c == '\\' || c == ':' || c.is_control())
        };
        if path.len() > 1024 || !path.split('/').all(plain) {
            return Err(InvalidPath {
                path: path.chars().take(200).collect(),
            });
        }
        Ok(Self(path.to_owned()))
    }
}

impl fmt::Display for ArtifactPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(formatter, "file {}", path.display()),
            Self::Mounted { name, .. } => formatter.write_str(name),
            Self::Http { url, .. } => write!(formatter, "http {}", shown_text(url)),
            Self::HuggingFace {
                repo,
                revision,
                endpoint,
                ..
            } => {
                write!(formatter, "huggingFace {repo}@{revision}")?;
                match endpoint {
                    Some(endpoint) => write!(formatter, " at {}", shown_text(endpoint)),
                    None => Ok(()),
                }
            }
            Self::S3 {
                endpoint,
                bucket,
                prefix,
                ..
            } => {
                let prefix = prefix.as_deref().unwrap_or_default();
                let slash = if prefix.is_empty() { "" } else { "/" };
                let endpoint = shown_text(endpoint);
                write!(formatter, "s3 {bucket}{slash}{prefix} at {endpoint}")
            }
            Self::Oci { reference, .. } => write!(formatter, "oci {reference}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_its_folder_is_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../up",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "c:x",
            "a\0b",
            "a\nb",
        ] {
            assert!(path.parse::<ArtifactPath>().is_err(), "{path:?}");
        }
        let long = "x".repeat(256);
        assert!(long.parse::<ArtifactPath>().is_err());
    }

    #[test]
    fn a_path_in_a_folder_is_kept_as_written() {
        let path: ArtifactPath = "onnx/model v1.gguf".parse().unwrap();
        assert_eq!(path.as_str(), "onnx/model v1.gguf");
        assert_eq!(path.file_name(), "model v1.gguf");
        assert_eq!(
            path.segments().collect::<Vec<_>>(),
            ["onnx", "model v1.gguf"]
        );
    }

    #[test]
    fn a_signed_url_is_shown_without_its_secrets() {
        let source = SourceSpec::Http {
            url: "https://bob:hunter2@example.com/m.gguf?sig=hunter2#hunter2".to_owned(),
            access: Access::default(),
        };
        assert_eq!(source.to_string(), "http https://example.com/m.gguf");
    }
}
