//! What is wanted: artifacts by path and digest, and the sources to try. Plain data that any
//! configuration can be turned into. Refuses paths that could leave the folder they are joined to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::Digest;

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
    /// A URL. One that ends in `/` is a folder to which the artifact's path is appended; any other
    /// is the file itself. https, or http on loopback.
    Http {
        /// The URL as written by the user; no user name or password in it.
        url: String,
    },
    /// A Hugging Face repository: `{endpoint}/{repo}/resolve/{revision}/{path}`.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// A commit, branch or tag.
        revision: String,
        /// A mirror that speaks the same paths; absent: the public hub.
        endpoint: Option<String>,
    },
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
            Self::Http { url } => write!(formatter, "http {}", crate::place::shown_text(url)),
            Self::HuggingFace {
                repo,
                revision,
                endpoint: None,
            } => write!(formatter, "huggingFace {repo}@{revision}"),
            Self::HuggingFace {
                repo,
                revision,
                endpoint: Some(endpoint),
            } => {
                write!(
                    formatter,
                    "huggingFace {repo}@{revision} at {}",
                    crate::place::shown_text(endpoint)
                )
            }
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
        };
        assert_eq!(source.to_string(), "http https://example.com/m.gguf");
    }
}
