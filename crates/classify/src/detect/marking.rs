//! Markings that a document carries: traffic light protocol, "confidential", "streng vertraulich".
//!
//! The bare word "confidential" in a sentence is no marking: it counts in capitals, alone in its
//! line, or before a colon at the begin of a line.

use mesh_core::PrivacyLevel;

use super::lexicon::{Edge, Hit, Sense};
use super::{Matches, Rule, before};
use crate::corpus::SEAM;

struct Marking {
    rule: Rule,
    words: &'static [&'static str],
    /// Counts wherever it stands.
    anywhere: bool,
}

const fn rule(id: &'static str, level: PrivacyLevel) -> Rule {
    Rule {
        id,
        kind: "marking",
        level,
    }
}

static MARKINGS: [Marking; 5] = [
    Marking {
        rule: rule("marking/restricted", PrivacyLevel::Restricted),
        words: &[
            "tlp:red",
            "tlp: red",
            "tlp red",
            "strictly confidential",
            "streng vertraulich",
            "streng geheim",
            "highly confidential",
            "strictement confidentiel",
            "estrictamente confidencial",
            "strettamente confidenziale",
        ],
        anywhere: true,
    },
    Marking {
        rule: rule("marking/confidential", PrivacyLevel::Confidential),
        words: &[
            "tlp:amber",
            "tlp: amber",
            "tlp amber",
            "company confidential",
            "confidential information of",
            "nur für den dienstgebrauch",
            "vs-nfd",
            "attorney-client privileged",
            "privileged and confidential",
            "do not distribute",
        ],
        anywhere: true,
    },
    Marking {
        rule: rule("marking/confidential", PrivacyLevel::Confidential),
        words: &[
            "confidential",
            "vertraulich",
            "confidentiel",
            "confidencial",
            "riservato",
        ],
        anywhere: false,
    },
    Marking {
        rule: rule("marking/restricted", PrivacyLevel::Restricted),
        words: &["top secret"],
        anywhere: false,
    },
    Marking {
        rule: rule("marking/internal", PrivacyLevel::Internal),
        words: &[
            "tlp:green",
            "tlp: green",
            "internal use only",
            "nur für den internen gebrauch",
            "nur zur internen verwendung",
            "usage interne",
        ],
        anywhere: true,
    },
];

/// The words with their index.
pub(crate) fn lists() -> Vec<(&'static [&'static str], Sense, Edge)> {
    MARKINGS
        .iter()
        .enumerate()
        .map(|(index, marking)| (marking.words, Sense::Marking(index), Edge::Whole))
        .collect()
}

/// Looks at a word of a marking.
pub(crate) fn check(text: &[u8], hit: &Hit, which: usize, out: &mut Matches) {
    let Some(marking) = MARKINGS.get(which) else {
        return;
    };
    if marking.anywhere || stands_out(text, hit) {
        out.add(&marking.rule, hit.start, hit.end);
    }
}

fn stands_out(text: &[u8], hit: &Hit) -> bool {
    let word = text.get(hit.start..hit.end).unwrap_or_default();
    if word.iter().all(|byte| !byte.is_ascii_lowercase()) {
        return true;
    }
    let mark = |byte: u8| {
        matches!(
            byte,
            b' ' | b'\t' | b'*' | b'#' | b'-' | b'[' | b'(' | b'<' | b'_' | b'='
        )
    };
    let close = |byte: u8| mark(byte) || matches!(byte, b']' | b')' | b'>' | b'!' | b'.');
    let mut left = hit.start;
    while before(text, left).is_some_and(mark) {
        left -= 1;
    }
    let mut right = hit.end;
    while text.get(right).copied().is_some_and(close) {
        right += 1;
    }
    let line = |byte: Option<u8>| byte.is_none_or(|byte| matches!(byte, b'\n' | b'\r' | SEAM));
    line(before(text, left)) && (line(text.get(right).copied()) || text.get(right) == Some(&b':'))
}
