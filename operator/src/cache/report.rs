//! What `mesh-worker fetch` and `quantize` say of their work: their last words in a pod's status, or over
//! HTTP. The digests in it become pins, so a report that says something else than was asked is refused. Who
//! writes it read bytes of strangers, so only so much of it is kept as a cache can have to say.

use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use mesh_crds::model_cache::{ArtifactStatus, Progress};
use mesh_crds::value::Sha256;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::status::cut;

/// Longest part of a message that is kept.
const LONGEST: usize = 300;
/// As many files as a ModelCache may have.
const ARTIFACTS: usize = 128;
/// Sources tried in vain that are kept of one report.
pub(crate) const FAILURES: usize = 32;
/// Longest text that is kept, as long as a path may be.
const TEXT: usize = 512;
/// Things that a message lists.
pub(crate) const LISTED: usize = 8;

/// The result of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Report {
    /// Files that are there and proven.
    #[serde(deserialize_with = "first::<_, _, ARTIFACTS>")]
    pub(crate) artifacts: Vec<ArtifactStatus>,
    /// Sources that were tried in vain, also where a later one had the file.
    #[serde(deserialize_with = "first::<_, _, FAILURES>")]
    pub(crate) failures: Vec<Failure>,
    /// Why it ended without all files.
    pub(crate) error: Option<String>,
    /// The same as one PascalCase word, of a quantization.
    pub(crate) reason: Option<String>,
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
fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = <&RawValue>::deserialize(deserializer)?;
    Ok(!matches!(value.get(), "false" | "null"))
}

/// The first of a list; the others are read over.
fn first<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct First<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for First<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut kept = Vec::new();
            while kept.len() < MOST {
                let Some(one) = list.next_element()? else {
                    return Ok(kept);
                };
                kept.push(one);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
    }

    deserializer.deserialize_seq(First::<T, MOST>(PhantomData))
}

/// What is longer gives its memory back.
fn shorten(text: &mut String) {
    if text.len() > TEXT {
        *text = cut(text, TEXT).to_owned();
    }
}

impl Report {
    /// None if these are other words, as of a program that crashed.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut report: Self = serde_json::from_str(text.trim()).ok()?;
        report.artifacts.retain(|artifact| {
            digest(&artifact.sha256)
                && artifact.size_bytes >= 0
                && artifact.verified_at.len() <= TEXT
                && artifact.verified_at.parse::<Timestamp>().is_ok()
        });
        for artifact in &mut report.artifacts {
            shorten(&mut artifact.path);
            shorten(&mut artifact.source);
        }
        for failure in &mut report.failures {
            for text in [
                &mut failure.artifact,
                &mut failure.source,
                &mut failure.reason,
                &mut failure.message,
            ] {
                shorten(text);
            }
        }
        report.error.iter_mut().for_each(shorten);
        report.reason.iter_mut().for_each(shorten);
        Some(report)
    }

    /// Reason and message of why it ended without all files.
    pub(crate) fn told(&self) -> Option<(String, String)> {
        let reason = self.reason.as_deref().unwrap_or_default();
        let error = self.error.as_deref()?;
        Some((word(reason, "FetchFailed"), short(error)))
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

    /// What a message says of it.
    pub(crate) fn said(&self) -> String {
        cut(&self.to_string(), TEXT).to_owned()
    }
}

/// Several things as one message that fits into a condition, however many they are.
pub(crate) fn listed<T: fmt::Display>(all: impl IntoIterator<Item = T>, between: &str) -> String {
    let mut all = all.into_iter();
    let first = all.by_ref().take(LISTED);
    let first: Vec<String> = first
        .map(|one| cut(&one.to_string(), TEXT).to_owned())
        .collect();
    let said = first.join(between);
    match all.count() {
        0 => said,
        more => format!("{said} and {more} more"),
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
    use serde_json::json;

    use super::{ARTIFACTS, FAILURES, Failure, LISTED, Made, Report, TEXT, listed, progress};

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

    #[test]
    fn no_more_is_kept_of_a_report_than_a_cache_can_have_to_say() {
        let empty = format!(r#"{{"failures": [{}{{}}]}}"#, "{},".repeat(80_000));
        assert_eq!(
            Report::read(&empty).map(|one| one.failures.len()),
            Some(FAILURES)
        );

        let long = "ä".repeat(10_000);
        let artifact = json!({"path": long, "sha256": DIGEST, "sizeBytes": 7, "source": long, "verifiedAt": "2026-01-01T00:00:00Z"});
        let failure = json!({"artifact": long, "source": long, "reason": long, "message": long, "quarantined": [long]});
        let text = json!({"artifacts": vec![artifact; 200], "failures": [failure], "error": long});
        let report = Report::read(&text.to_string()).expect("a report");
        assert_eq!(report.artifacts.len(), ARTIFACTS);
        let failure = &report.failures[0];
        assert!(failure.quarantined, "a place says that it was put aside");
        for kept in [
            &report.artifacts[0].path,
            &report.artifacts[0].source,
            &failure.artifact,
            &failure.source,
            &failure.reason,
            &failure.message,
            report.error.as_ref().expect("an error"),
        ] {
            assert!(kept.len() <= TEXT && kept.capacity() <= TEXT);
        }
    }

    #[test]
    fn a_file_that_was_proven_at_no_time_is_not_there() {
        let text = format!(
            r#"{{"artifacts": [{{"path": "m", "sha256": "{DIGEST}", "sizeBytes": 7, "source": "s", "verifiedAt": "soon"}}]}}"#
        );
        assert!(Report::read(&text).expect("a report").artifacts.is_empty());
    }

    #[test]
    fn a_list_of_failures_fits_into_a_condition_and_says_how_many_it_leaves_out() {
        let failure = Failure {
            artifact: "a".repeat(TEXT),
            source: "s".repeat(TEXT),
            message: "m".repeat(TEXT),
            ..Failure::default()
        };
        let all = vec![failure; 100];
        let said = listed(&all, "; ");
        assert!(
            said.len() < 5000 && said.ends_with(" and 92 more"),
            "{said}"
        );
        assert!(said.contains(&all[0].said()), "or it would be told again");
        assert_eq!(listed(["a", "b"], "; "), "a; b");
        assert_eq!(listed(vec!["a"; LISTED], ", ").matches('a').count(), LISTED);
    }
}
