//! How sensitive a request is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Privacy level of a request, ordered from the least to the most sensitive.
///
/// In YAML `Public`, in headers and metrics `public` (see [`as_str`](PrivacyLevel::as_str)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivacyLevel {
    /// May go anywhere.
    Public,
    /// Stays with those who keep nothing.
    Internal,
    /// Stays on hardware the organization owns or rents, unless policy says otherwise.
    Confidential,
    /// Never leaves hardware the organization owns, unless policy says otherwise.
    Restricted,
}

impl PrivacyLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [
        Self::Public,
        Self::Internal,
        Self::Confidential,
        Self::Restricted,
    ];

    /// Position in the order, 0 to 3.
    pub const fn rank(self) -> u8 {
        self as u8
    }

    /// The word used in headers, metrics and JSON answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
}

impl fmt::Display for PrivacyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not one of the four levels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown privacy level: use public, internal, confidential or restricted")]
pub struct UnknownLevel;

impl FromStr for PrivacyLevel {
    type Err = UnknownLevel;

    /// Reads the header form: lower-case only.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or(UnknownLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::PrivacyLevel;

    #[test]
    fn levels_are_ordered_and_read_back_what_they_print() {
        assert!(PrivacyLevel::ALL.is_sorted());
        for level in PrivacyLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("Public".parse::<PrivacyLevel>().is_err());
        assert!("secret".parse::<PrivacyLevel>().is_err());
    }
}
