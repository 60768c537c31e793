//! What a caller says in headers about a request: `mesh-privacy`, `mesh-task`, `mesh-latency`.
//! A word that is not understood, or said twice, is refused: guessing could lower a level.

use std::fmt::Display;
use std::str::FromStr;

use http::HeaderMap;
use mesh_core::{LatencyClass, PrivacyLevel, TaskType};

use crate::Error;

/// The request header that raises the privacy level.
pub const PRIVACY: &str = "mesh-privacy";
const TASK: &str = "mesh-task";
const LATENCY: &str = "mesh-latency";

/// The understood request headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// `mesh-privacy`.
    pub privacy: Option<PrivacyLevel>,
    /// `mesh-task`.
    pub task: Option<TaskType>,
    /// `mesh-latency`.
    pub latency: Option<LatencyClass>,
}

impl Hints {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if one of them is repeated or holds an unknown word.
    pub fn read(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            privacy: word(headers, PRIVACY)?,
            task: word(headers, TASK)?,
            latency: word(headers, LATENCY)?,
        })
    }
}

fn word<T>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, Error>
where
    T: FromStr,
    T::Err: Display,
{
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Error::invalid(name, format!("`{name}` is there twice")));
    }
    let text = value.to_str().unwrap_or_default();
    // The messages of these errors list the words that exist, never the one that came.
    match text.parse() {
        Ok(word) => Ok(Some(word)),
        Err(error) => Err(Error::invalid(name, format!("`{name}`: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use mesh_core::{LatencyClass, PrivacyLevel, TaskType};

    use super::Hints;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn known_words_are_read_and_silence_is_silence() {
        assert_eq!(Hints::read(&headers(&[])).ok(), Some(Hints::default()));
        let all = [
            ("mesh-privacy", "restricted"),
            ("mesh-task", "code"),
            ("mesh-latency", "batch"),
        ];
        let hints = Hints::read(&headers(&all)).expect("hints");
        assert_eq!(hints.privacy, Some(PrivacyLevel::Restricted));
        assert_eq!(hints.task, Some(TaskType::Code));
        assert_eq!(hints.latency, Some(LatencyClass::Batch));
    }

    #[test]
    fn unknown_or_repeated_words_are_refused_without_being_repeated_back() {
        for pairs in [
            vec![("mesh-privacy", "canary")],
            vec![("mesh-privacy", "Public")],
            vec![("mesh-privacy", "")],
            vec![("mesh-privacy", "public"), ("mesh-privacy", "public")],
            vec![("mesh-task", "canary")],
            vec![("mesh-latency", "canary")],
        ] {
            let error = Hints::read(&headers(&pairs)).expect_err("refused");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
