//! What `mesh-worker fetch` and `quantize` say of their work: their last words in a pod's status, or over
//! HTTP. The digests in it become pins, so a report that says something else than was asked is refused.

use std::fmt;

use mesh_crds::model_cache::{ArtifactStatus, Progress};
use mesh_crds::value::Sha256;
use serde::Deserialize;

/// Longest part of a message that is kept.
const LONGEST: usize = 300;

/// The result of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Report {
    /// Files that are there and proven.
    pub(crate) artifacts: Vec<ArtifactStatus>,
    /// Sources that were tried in vain, also where a later one had the file.
    pub(crate) failures: Vec<Failure>,
    /// Why it ended without all files.
    pub(crate) error: Option<String>,
}

/// One source that did not have one file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Failure {
    pub(crate) artifact: String,
    pub(crate) source: String,
    /// One PascalCase word.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The bytes were put aside.
    #[serde(deserialize_with = "truth")]
    pub(crate) quarantined: bool,
}

/// The result of a quantization.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    pub(crate) sha256: Sha256,
    pub(crate) size_bytes: i64,
    pub(crate) parent_sha256: Sha256,
}

/// A place where bytes were put says the same as `true`.
fn truth<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_bool().unwrap_or_else(|| !value.is_null()))
}

impl Report {
    /// None if these are other words, as of a program that crashed.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut report: Self = serde_json::from_str(text.trim()).ok()?;
        report
            .artifacts
            .retain(|artifact| digest(&artifact.sha256) && artifact.size_bytes >= 0);
        Some(report)
    }
}

impl Made {
    /// None if these are other words.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let made: Self = serde_json::from_str(text.trim()).ok()?;
        (digest(&made.sha256) && digest(&made.parent_sha256)).then_some(made)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let put_aside = if self.quarantined {
            ", quarantined"
        } else {
            ""
        };
        write!(
            f,
            "{} from {}: {}{put_aside}: {}",
            self.artifact,
            self.source,
            self.word(),
            short(&self.message)
        )
    }
}

impl Failure {
    /// The reason as the API server takes it.
    pub(crate) fn word(&self) -> String {
        word(&self.reason, "SourceFailed")
    }
}

/// A reason is one word; whatever somebody says becomes one.
pub(crate) fn word(reason: &str, otherwise: &str) -> String {
    let word: String = reason
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(64)
        .collect();
    if word.starts_with(|c: char| c.is_ascii_uppercase()) {
        word
    } else {
        otherwise.to_owned()
    }
}

/// What `/progress` says. None if these are other words.
pub(crate) fn progress(text: &str) -> Option<Progress> {
    let progress: Progress = serde_json::from_str(text.trim()).ok()?;
    (progress.bytes_done >= 0 && progress.source.len() <= 512).then_some(progress)
}

/// True if it is a digest as the kinds write it.
pub(crate) fn digest(text: &Sha256) -> bool {
    text.0.len() == 64
        && text
            .0
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The beginning of a message, in one line.
pub(crate) fn short(message: &str) -> String {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Made, Report, progress};

    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    #[test]
    fn a_report_names_what_is_there_and_what_was_tried_in_vain() {
        let text = format!(
            r#"{{"artifacts": [{{"path": "m.gguf", "sha256": "{DIGEST}", "sizeBytes": 7, "source": "https://b", "verifiedAt": "2026-01-01T00:00:00Z"}}],
                "failures": [{{"artifact": "m.gguf", "source": "https://a", "reason": "DigestMismatch", "message": "other\nbytes", "quarantined": true}}]}}"#
        );
        let report = Report::read(&text).expect("a report");
        assert_eq!(report.artifacts[0].size_bytes, 7);
        assert_eq!(
            report.failures[0].to_string(),
            "m.gguf from https://a: DigestMismatch, quarantined: other bytes"
        );
    }

    #[test]
    fn what_is_no_digest_is_never_pinned() {
        let text = r#"{"artifacts": [{"path": "m", "sha256": "abc", "sizeBytes": 7, "source": "s", "verifiedAt": "t"}]}"#;
        assert!(Report::read(text).expect("a report").artifacts.is_empty());
        let made = r#"{"sha256": "x", "sizeBytes": 1, "parentSha256": "y"}"#;
        assert!(Made::read(made).is_none());
    }

    #[test]
    fn words_of_a_crash_are_no_report() {
        assert!(Report::read("thread panicked").is_none());
        assert!(Report::read("").is_none());
        assert!(progress("<html>").is_none());
        assert!(progress(r#"{"source": "s", "bytesDone": -1}"#).is_none());
    }
}
