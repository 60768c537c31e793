//! Texts with a meaning: decimals, durations, quantities, digests, dates, codes. In YAML and in the
//! cluster they are strings with a pattern; here they also know how to be read. Refuses to guess: a
//! text that the pattern admits but that means nothing (the 30th of February) is an error with words.

use std::time::Duration;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Text of the pattern is right, the meaning is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a non-negative decimal number.
    #[error("{0:?} is not a decimal number: write it in quotes with a point, for example \"0.25\"")]
    Decimal(String),
    /// Not a duration.
    #[error("{0:?} is not a duration: use numbers with ms, s, m or h, for example 30s")]
    Duration(String),
    /// Not a Kubernetes quantity.
    #[error("{0:?} is not a quantity: use for example 512Mi, 2Gi or 250m")]
    Quantity(String),
    /// Not a day of the calendar.
    #[error("{0:?} is not a day of the calendar: use year-month-day, for example \"2027-06-30\"")]
    Date(String),
}

impl Error {
    /// PascalCase reason for conditions, logs and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Decimal(_) => "InvalidDecimal",
            Self::Duration(_) => "InvalidDuration",
            Self::Quantity(_) => "InvalidQuantity",
            Self::Date(_) => "InvalidDate",
        }
    }
}

const DECIMAL_PATTERN: &str = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?$";
const FRACTION_PATTERN: &str = r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$";
const DURATION_PATTERN: &str = r"^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)){1,4}$";
const DATE_PATTERN: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
const SHA256_PATTERN: &str = "^[0-9a-f]{64}$";
const JURISDICTION_PATTERN: &str = "^([A-Z]{2}|EEA)$";
const LICENSE_PATTERN: &str = r"^[A-Za-z0-9][A-Za-z0-9.+-]*$";
const CURRENCY_PATTERN: &str = "^[A-Z]{3}$";
const URL_PATTERN: &str = r#"^https?://[^/?#@\s{}"`]+(/[^?#@\s]*)?$"#;
pub(crate) const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
const QUANTITY_PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,9})?(n|u|m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// What the patterns ask for, in words: the end of the sentence "… is not".
pub(crate) const PATTERN_HELP: [(&str, &str); 11] = [
    (
        DECIMAL_PATTERN,
        "a decimal number of 0 or more: write for example \"0.25\"",
    ),
    (
        FRACTION_PATTERN,
        "a decimal number from 0 to 1: write for example \"0.25\"",
    ),
    (
        DURATION_PATTERN,
        "a duration: use numbers with ms, s, m or h, for example 30s",
    ),
    (
        DATE_PATTERN,
        "a day: use year-month-day, for example \"2027-06-30\"",
    ),
    (
        SHA256_PATTERN,
        "a sha256 digest: 64 lower-case hexadecimal digits, as `sha256sum FILE` prints them",
    ),
    (
        JURISDICTION_PATTERN,
        "a jurisdiction: use an ISO 3166 alpha-2 code in capitals, EU or EEA",
    ),
    (
        LICENSE_PATTERN,
        "a license: use one SPDX identifier, or LicenseRef-… for a license that has none",
    ),
    (
        CURRENCY_PATTERN,
        "a currency: use an ISO 4217 code, for example EUR",
    ),
    (
        URL_PATTERN,
        "an address: use https://host/path without user, query or fragment",
    ),
    (
        NAME_PATTERN,
        "a name: use lower-case letters, digits, hyphens and dots, beginning and ending with a letter or digit",
    ),
    (
        QUANTITY_PATTERN,
        "a quantity: use for example 512Mi, 2Gi or 250m",
    ),
];

/// A non-negative decimal number as text, so that money and weights keep their digits: `"0.25"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = DECIMAL_PATTERN, "maxLength" = 22))]
pub struct Decimal(pub String);

/// A decimal number from 0 to 1 as text: `"0.20"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = FRACTION_PATTERN, "maxLength" = 11))]
pub struct Fraction(pub String);

/// A span of time: numbers with `ms`, `s`, `m` or `h`, for example `1500ms`, `30s`, `1h30m`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = DURATION_PATTERN, "maxLength" = 48))]
pub struct DurationText(pub String);

/// An amount in Kubernetes' notation: `250m`, `512Mi`, `2Gi`, or a plain number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// A plain whole number.
    Number(i64),
    /// With a suffix.
    Text(String),
}

/// A day, year-month-day: `"2027-06-30"`. It counts through its last second in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("format" = "date", "pattern" = DATE_PATTERN, "maxLength" = 10))]
pub struct Date(pub String);

/// A sha256 digest: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = SHA256_PATTERN, "maxLength" = 64))]
pub struct Sha256(pub String);

/// A place with a law of its own: ISO 3166 alpha-2 code in capitals, `EU` or `EEA`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = JURISDICTION_PATTERN, "maxLength" = 3))]
pub struct JurisdictionCode(pub String);

/// An SPDX license identifier, or `LicenseRef-…` for a license that has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = LICENSE_PATTERN, "maxLength" = 64))]
pub struct LicenseId(pub String);

/// An ISO 4217 currency code: `EUR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = CURRENCY_PATTERN, "maxLength" = 3))]
pub struct Currency(pub String);

/// An absolute http or https address without user, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = URL_PATTERN, "maxLength" = 512))]
pub struct HttpUrl(pub String);

/// Name of a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = NAME_PATTERN, "maxLength" = 253))]
pub struct ObjectName(pub String);

/// Labels that something must have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with exactly these values, all of them. Empty = everything.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: std::collections::BTreeMap<String, String>,
    /// Further requirements, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelRequirement {
    /// Key of the label.
    #[schemars(length(max = 317))]
    pub key: String,
    /// How the label is compared.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum LabelOperator {
    /// The value is one of `values`.
    In,
    /// The value is none of `values`, or the label is absent.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Decimal {
    /// The number. Precise enough for scores and prices; sums of money are not made from it.
    pub fn read(&self) -> Result<f64, Error> {
        number(&self.0)
    }
}

impl Fraction {
    /// The number, 0..=1.
    pub fn read(&self) -> Result<f64, Error> {
        number(&self.0).and_then(|value| {
            if value <= 1.0 {
                Ok(value)
            } else {
                Err(Error::Decimal(self.0.clone()))
            }
        })
    }
}

fn number(text: &str) -> Result<f64, Error> {
    text.parse::<f64>()
        .ok()
        .filter(|value| value.is_finite() && *value >= 0.0)
        .ok_or_else(|| Error::Decimal(text.to_owned()))
}

impl DurationText {
    /// The span.
    pub fn read(&self) -> Result<Duration, Error> {
        let wrong = || Error::Duration(self.0.clone());
        let mut rest = self.0.as_str();
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(wrong)?;
            let amount: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let end = rest
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(rest.len());
            let seconds = match &rest[..end] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
            rest = &rest[end..];
            total += Duration::try_from_secs_f64(amount * seconds).map_err(|_| wrong())?;
        }
        if self.0.is_empty() {
            Err(wrong())
        } else {
            Ok(total)
        }
    }
}

/// Suffixes of Kubernetes quantities with what they multiply by.
const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("u", 1e-6),
    ("n", 1e-9),
];

impl Quantity {
    /// The amount in whole units (bytes for memory), rounded up as Kubernetes does.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the value is checked to lie in 0..2^53, where the conversion is exact"
    )]
    pub fn read(&self) -> Result<u64, Error> {
        let text = match self {
            Self::Number(number) => {
                return u64::try_from(*number).map_err(|_| Error::Quantity(number.to_string()));
            }
            Self::Text(text) => text,
        };
        let wrong = || Error::Quantity(text.clone());
        let (digits, factor) = SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|digits| (digits, *factor)))
            .unwrap_or((text.as_str(), 1.0));
        let amount = number(digits).map_err(|_| wrong())? * factor;
        if amount <= (1_u64 << 53) as f64 {
            Ok(amount.ceil() as u64)
        } else {
            Err(wrong())
        }
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": QUANTITY_PATTERN,
        })
    }
}

impl Date {
    /// The first instant after that day, in UTC.
    pub fn end(&self) -> Result<jiff::Timestamp, Error> {
        let wrong = |_| Error::Date(self.0.clone());
        let day: jiff::civil::Date = self.0.parse().map_err(wrong)?;
        let next = day.tomorrow().map_err(wrong)?;
        let start = next.to_zoned(jiff::tz::TimeZone::UTC).map_err(wrong)?;
        Ok(start.timestamp())
    }
}

/// Schema of a JSON object whose content is somebody else's business.
pub(crate) fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = schemars::json_schema!({ "type": "object" });
    schema.insert(
        String::from("x-kubernetes-preserve-unknown-fields"),
        Value::Bool(true),
    );
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit_and_nonsense_is_refused() {
        let read = |text: &str| DurationText(text.to_owned()).read();
        assert_eq!(read("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(read("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(read("0.5s"), Ok(Duration::from_millis(500)));
        for text in ["", "5", "s", "5d", "1..5s", "-1s"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_are_read_in_bytes() {
        let read = |text: &str| Quantity::Text(text.to_owned()).read();
        assert_eq!(read("512Mi"), Ok(512 << 20));
        assert_eq!(read("2Gi"), Ok(2 << 30));
        assert_eq!(read("1.5k"), Ok(1500));
        assert_eq!(read("250m"), Ok(1));
        assert_eq!(Quantity::Number(7).read(), Ok(7));
        assert!(Quantity::Number(-7).read().is_err());
        for text in ["", "Mi", "1Zi", "-5", "1e400", "999999999999P"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_claim_counts_through_the_whole_day() {
        let end = Date(String::from("2027-06-30")).end().expect("a day");
        assert_eq!(end.to_string(), "2027-07-01T00:00:00Z");
        assert!(Date(String::from("2027-02-30")).end().is_err());
        assert!(Date(String::from("9999-12-31")).end().is_err());
    }
}
