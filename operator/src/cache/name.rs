//! Names of what is made for a ModelCache: they fit, they differ, and they change exactly when the work
//! that they stand for does.

use mesh_core::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Longest name of a Job whose pods still get names, and longest value of a label.
const LONGEST: usize = 63;

/// Eight digits that stand for a value.
pub(crate) fn key(value: &Value) -> String {
    hex(&Sha256::digest(value.to_string().as_bytes())[..4])
}

/// `name` with an ending; a long name is cut and told apart by a digest.
pub(crate) fn child(name: &str, ending: &str) -> String {
    let whole = format!("{name}-{ending}");
    if whole.len() <= LONGEST {
        return whole;
    }
    let digest = hex(&Sha256::digest(name.as_bytes())[..4]);
    let kept: String = name
        .chars()
        .take(LONGEST.saturating_sub(ending.len() + digest.len() + 2))
        .collect();
    format!("{}-{digest}-{ending}", kept.trim_end_matches(['-', '.']))
}

/// The claim of a cache that keeps its files in a volume.
pub(crate) fn claim(cache: &str) -> String {
    child(cache, "models")
}

/// A name as the value of a label.
pub(crate) fn label(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    child(name, "cache")
}

#[cfg(test)]
mod tests {
    use super::{child, claim, label};

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(claim("small"), "small-models");
        let (a, b) = (
            child(&format!("{}a", "x".repeat(200)), "fetch-01234567"),
            child(&format!("{}b", "x".repeat(200)), "fetch-01234567"),
        );
        assert!(a.len() <= 63 && b.len() <= 63 && a != b, "{a} {b}");
        assert!(label(&"y".repeat(253)).len() <= 63);
        assert_eq!(label("small"), "small");
    }
}
