//! All words that any rule listens to, in one automaton, found in one pass.
//!
//! A word has a sense and says where it must end: at word borders or inside compounds too. ASCII
//! letters match in either case. The lists live with the rules that use them.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};

use mesh_core::TaskType;

use super::health::words;
use super::{before, card, contact, credential, finance, identity, marking, secret, token, wordy};
use crate::{cue, latency};

/// What a word means to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    /// Begin of a credential with a known form; index into the token table.
    Token(usize),
    /// `-----BEGIN `.
    Pem,
    /// Begin of a JSON object in base64url.
    Jwt,
    /// `Basic ` or `Bearer `.
    Authorization,
    /// `://`.
    Scheme,
    /// Name of something secret: `password`.
    SecretName,
    /// A disease, a medicine, a diagnosis.
    Condition,
    /// Says that somebody has a condition: `diagnosed with`.
    Diagnosed,
    /// A certain patient: `the patient`.
    Patient,
    /// The speaker has or is: `I have`, `my`.
    Speaker,
    /// Somebody close: `my mother`.
    Kin,
    /// A title before a name: `Mr.`.
    Title,
    /// `ICD-10`.
    IcdWord,
    /// Somebody's money: `salary`.
    Money,
    /// Marking of a document; index into the table of markings.
    Marking(usize),
    /// Context of a card number.
    CardWord,
    /// Context of a social security number.
    SsnWord,
    /// Context of a phone number.
    PhoneWord,
    /// Context of a date of birth.
    BirthWord,
    /// Asks for a kind of work.
    Cue(TaskType),
    /// A condition on the answer: `at least`.
    Limit,
    /// A piece of program code.
    CodeMark,
    /// Nobody is waiting for the answer.
    BatchWord,
}

/// Where a word must begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Anywhere.
    Free,
    /// At the begin of a word.
    Begin,
    /// A whole word.
    Whole,
}

/// One word of the lexicon.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    text: String,
    sense: Sense,
    edge: Edge,
}

/// A word seen in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    sense: Sense,
}

impl Hit {
    /// What it means.
    pub(crate) const fn sense(&self) -> Sense {
        self.sense
    }
}

struct Lexicon {
    automaton: Option<AhoCorasick>,
    words: Vec<Word>,
}

static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| {
    let mut words = Vec::new();
    for (list, sense, edge) in lists() {
        for text in list {
            words.push(word(text, sense, edge));
            if let Some(text) = capitalized(text) {
                words.push(word(&text, sense, edge));
            }
        }
    }
    let automaton = AhoCorasickBuilder::new()
        .kind(Some(AhoCorasickKind::DFA))
        .match_kind(MatchKind::Standard)
        .ascii_case_insensitive(true)
        .build(words.iter().map(|word| &word.text))
        .ok();
    Lexicon { automaton, words }
});

fn word(text: &str, sense: Sense, edge: Edge) -> Word {
    Word {
        text: text.to_owned(),
        sense,
        edge,
    }
}

/// The automaton folds case in ASCII only: `über` needs `Über` beside it.
fn capitalized(text: &str) -> Option<String> {
    let first = text.chars().next().filter(|first| !first.is_ascii())?;
    let upper: String = first.to_uppercase().collect();
    Some(upper + text.get(first.len_utf8()..)?)
}

type List = (&'static [&'static str], Sense, Edge);

fn lists() -> Vec<List> {
    use Edge::{Begin, Free, Whole};
    let mut lists = vec![
        (credential::PEM, Sense::Pem, Free),
        (credential::JWT, Sense::Jwt, Free),
        (credential::AUTHORIZATION, Sense::Authorization, Begin),
        (credential::SCHEME, Sense::Scheme, Free),
        (secret::NAMES, Sense::SecretName, Free),
        (words::CONDITIONS, Sense::Condition, Begin),
        (words::SHORT_CONDITIONS, Sense::Condition, Whole),
        (words::DIAGNOSED, Sense::Diagnosed, Begin),
        (words::PATIENT, Sense::Patient, Whole),
        (words::SPEAKER, Sense::Speaker, Whole),
        (words::KIN, Sense::Kin, Whole),
        (words::TITLES, Sense::Title, Whole),
        (words::ICD, Sense::IcdWord, Begin),
        (finance::TERMS, Sense::Money, Begin),
        (finance::SHORT_TERMS, Sense::Money, Whole),
        (card::CONTEXT, Sense::CardWord, Begin),
        (identity::SSN_CONTEXT, Sense::SsnWord, Begin),
        (identity::BIRTH_CONTEXT, Sense::BirthWord, Begin),
        (contact::PHONE_CONTEXT, Sense::PhoneWord, Begin),
        (cue::LIMITS, Sense::Limit, Whole),
        (cue::CODE_MARKS, Sense::CodeMark, Free),
        (latency::BATCH, Sense::BatchWord, Whole),
    ];
    lists.extend(token::lists());
    lists.extend(marking::lists());
    lists.extend(cue::lists());
    lists
}

/// All words of the text, by begin. Linear in the bytes.
///
/// If the automaton could not be built (it can: a test says so) nothing is found here; `ready`
/// tells, and the scan then counts as incomplete.
pub(crate) fn hits(text: &[u8]) -> Vec<Hit> {
    let lexicon = &*LEXICON;
    let Some(automaton) = &lexicon.automaton else {
        return Vec::new();
    };
    let mut hits = Vec::with_capacity(text.len() / 64);
    for found in automaton.find_overlapping_iter(text) {
        let Some(word) = lexicon.words.get(found.pattern().as_usize()) else {
            continue;
        };
        let (start, end) = (found.start(), found.end());
        let begins = word.edge == Edge::Free || !before(text, start).is_some_and(wordy);
        let ends = word.edge != Edge::Whole || !text.get(end).copied().is_some_and(wordy);
        if begins && ends {
            hits.push(Hit {
                start,
                end,
                sense: word.sense,
            });
        }
    }
    hits.sort_by_key(|hit| hit.start);
    hits
}

/// True if the automaton works.
pub(crate) fn ready() -> bool {
    LEXICON.automaton.is_some()
}

/// Whether a word of this sense begins within the range.
pub(crate) fn any(hits: &[Hit], sense: Sense, range: Range<usize>) -> bool {
    let from = hits.partition_point(|hit| hit.start < range.start);
    hits.iter()
        .skip(from)
        .take_while(|hit| hit.start < range.end)
        .any(|hit| hit.sense == sense)
}
