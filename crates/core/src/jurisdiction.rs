//! Places with a law of their own: ISO 3166-1 alpha-2 codes, and the unions `EU` and `EEA`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Members of the European Union (27, since 2020-02-01; Treaty on European Union, article 52).
const EU: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT",
    "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
];
/// Members of the European Economic Area that are not in the European Union.
const EEA_ONLY: [&str; 3] = ["IS", "LI", "NO"];

/// A jurisdiction: an alpha-2 country code, `EU` or `EEA`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Jurisdiction(String);

impl Jurisdiction {
    /// The code, upper-case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if every place of `self` lies inside `other`: `DE` is within `EU`, `EU` within `EEA`.
    pub fn within(&self, other: &Self) -> bool {
        self == other
            || self
                .members()
                .all(|member| other.members().any(|place| place == member))
    }

    /// True if some place lies in both: `EU` overlaps `DE`.
    pub fn overlaps(&self, other: &Self) -> bool {
        self == other
            || self
                .members()
                .any(|member| other.members().any(|place| place == member))
    }

    fn members(&self) -> impl Iterator<Item = &str> {
        let (union, rest, own): (&[&str], &[&str], Option<&str>) = match self.0.as_str() {
            "EU" => (&EU, &[], None),
            "EEA" => (&EU, &EEA_ONLY, None),
            code => (&[], &[], Some(code)),
        };
        union.iter().chain(rest).copied().chain(own)
    }
}

/// The text is not a jurisdiction code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a jurisdiction: use an ISO 3166 alpha-2 code in capitals, EU or EEA")]
pub struct NotAJurisdiction;

impl FromStr for Jurisdiction {
    type Err = NotAJurisdiction;

    fn from_str(text: &str) -> Result<Self, NotAJurisdiction> {
        let alpha2 = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if alpha2 || text == "EEA" {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAJurisdiction)
        }
    }
}

impl fmt::Display for Jurisdiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Jurisdiction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Jurisdiction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Several jurisdictions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JurisdictionSet(pub Vec<Jurisdiction>);

impl JurisdictionSet {
    /// True if `place` lies wholly inside one of these.
    pub fn covers(&self, place: &Jurisdiction) -> bool {
        self.0.iter().any(|own| place.within(own))
    }

    /// True if `place` touches one of these.
    pub fn touches(&self, place: &Jurisdiction) -> bool {
        self.0.iter().any(|own| place.overlaps(own))
    }
}

#[cfg(test)]
mod tests {
    use super::{Jurisdiction, JurisdictionSet};

    fn code(text: &str) -> Jurisdiction {
        text.parse().expect("a code")
    }

    #[test]
    fn unions_contain_their_members_and_not_the_other_way() {
        assert!(code("DE").within(&code("EU")));
        assert!(code("EU").within(&code("EEA")));
        assert!(code("NO").within(&code("EEA")) && !code("NO").within(&code("EU")));
        assert!(!code("EU").within(&code("DE")) && code("EU").overlaps(&code("DE")));
        assert!(!code("US").overlaps(&code("EEA")));
        assert!(JurisdictionSet(vec![code("FR"), code("EU")]).covers(&code("NL")));
    }

    #[test]
    fn lower_case_and_words_are_refused() {
        for text in ["de", "DEU", "E", "Germany", ""] {
            assert!(text.parse::<Jurisdiction>().is_err(), "{text}");
        }
    }
}
