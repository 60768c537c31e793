//! Health: a condition alone is a topic, a condition of somebody is a special category of personal
//! data (GDPR, Article 9).
//!
//! - *person* (restricted): the speaker, a relative, a person with a title or a name, or a certain
//!   patient with a name or a date has the condition.
//! - *record* (confidential): a certain patient without more, a diagnosis of somebody unnamed, a
//!   diagnosis code behind `ICD`.
//! - neither: "what is diabetes?" stays where the policy put it.
//!
//! Everything is decided within one sentence or line, and from words before the condition.

pub(crate) mod words;

use mesh_core::PrivacyLevel;

use super::lexicon::{Hit, Sense};
use super::sentence::{behind, between, lead};
use super::{Matches, Rule};
use words::{ANYBODY, TOPIC, WORK};

static PERSON: Rule = Rule {
    id: "health/person",
    kind: "health",
    level: PrivacyLevel::Restricted,
};
static RECORD: Rule = Rule {
    id: "health/record",
    kind: "health",
    level: PrivacyLevel::Confidential,
};
static CODE: Rule = Rule {
    id: "health/icd",
    kind: "diagnosis_code",
    level: PrivacyLevel::Confidential,
};

/// The last words of each sense, while the hits go by.
#[derive(Default)]
pub(crate) struct Terms {
    speaker: Option<Hit>,
    kin: Option<Hit>,
    title: Option<Hit>,
    diagnosed: Option<Hit>,
    patient: Option<Hit>,
}

impl Terms {
    /// Takes the next word.
    pub(crate) fn step(&mut self, text: &[u8], hits: &[Hit], index: usize, out: &mut Matches) {
        let Some(hit) = hits.get(index) else {
            return;
        };
        let last = match hit.sense() {
            Sense::Condition => return self.condition(text, hit, out),
            Sense::IcdWord => return self.code(text, hit, out),
            Sense::Speaker => &mut self.speaker,
            Sense::Kin => &mut self.kin,
            Sense::Title => &mut self.title,
            Sense::Diagnosed => &mut self.diagnosed,
            Sense::Patient => &mut self.patient,
            _ => return,
        };
        *last = Some(*hit);
    }

    fn condition(&self, text: &[u8], hit: &Hit, out: &mut Matches) {
        if self.person(text, hit) {
            out.add(&PERSON, hit.start, hit.end);
        } else if self.record(text, hit) {
            out.add(&RECORD, hit.start, hit.end);
        }
    }

    fn person(&self, text: &[u8], hit: &Hit) -> bool {
        let speaker = self
            .speaker
            .and_then(|speaker| between(text, &speaker, hit, 40))
            .is_some_and(|gap| !TOPIC.hold(gap) && !WORK.hold(behind(text, hit.end, 24)));
        let kin = self
            .kin
            .and_then(|kin| between(text, &kin, hit, 80))
            .is_some_and(|gap| !TOPIC.hold(gap));
        let title = self
            .title
            .and_then(|title| between(text, &title, hit, 120))
            .is_some_and(titled);
        let patient = self
            .patient
            .and_then(|patient| between(text, &patient, hit, 160))
            .is_some_and(|gap| names(gap) || dated(gap));
        speaker || kin || title || patient || self.named(text, hit)
    }

    /// `John Smith was diagnosed with …`, `she suffers from …`
    fn named(&self, text: &[u8], hit: &Hit) -> bool {
        let Some(verb) = self.diagnosed else {
            return false;
        };
        if between(text, &verb, hit, 48).is_none() {
            return false;
        }
        let start = lead(text, verb.start, 64);
        let speaker = start
            .split(|byte| !byte.is_ascii_alphabetic())
            .any(|word| word == b"I" || word.eq_ignore_ascii_case(b"ich"));
        !ANYBODY.hold(start) && (speaker || full_name(start))
    }

    fn record(&self, text: &[u8], hit: &Hit) -> bool {
        let patient = self
            .patient
            .is_some_and(|patient| between(text, &patient, hit, 160).is_some());
        let diagnosed = self.diagnosed.is_some_and(|verb| {
            let start = lead(text, verb.start, 64);
            between(text, &verb, hit, 48).is_some()
                && !ANYBODY.hold(start)
                && (start.iter().any(u8::is_ascii_alphabetic)
                    || super::before(text, verb.end) == Some(b':'))
        });
        patient || diagnosed
    }

    /// A code such as `E11.9` soon behind `ICD-10`.
    fn code(&self, text: &[u8], hit: &Hit, out: &mut Matches) {
        const REACH: usize = 32;
        let end = text.len().min(hit.end + REACH);
        let window = text.get(hit.end..end).unwrap_or_default();
        let found = window.windows(3).enumerate().find(|(at, code)| {
            matches!(code, [b'A'..=b'Z', b'0'..=b'9', b'0'..=b'9' | b'A' | b'B'])
                && !at
                    .checked_sub(1)
                    .and_then(|before| window.get(before))
                    .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && !window.get(at + 4).is_some_and(u8::is_ascii_alphabetic)
        });
        let Some((at, _)) = found else {
            return;
        };
        let close =
            |word: Option<Hit>| word.is_some_and(|word| between(text, &word, hit, 160).is_some());
        let rule = if close(self.title) || close(self.kin) || close(self.speaker) {
            &PERSON
        } else {
            &CODE
        };
        let tail = window.get(at..).map_or(0, |rest| {
            rest.iter()
                .take(8)
                .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.')
                .count()
        });
        out.add(rule, hit.end + at, hit.end + at + tail);
    }
}

/// Words that begin with a capital letter.
fn capitals(bytes: &[u8]) -> usize {
    bytes
        .split(|byte| !(byte.is_ascii_alphabetic() || *byte >= 0x80 || *byte == b'\''))
        .filter(|word| {
            word.len() > 1
                && word
                    .first()
                    .is_some_and(|first| first.is_ascii_uppercase() || *first == 0xc3)
        })
        .count()
}

/// The title is followed by a name at once.
fn titled(gap: &[u8]) -> bool {
    let name = gap.iter().find(|byte| !matches!(byte, b' ' | b'.'));
    name.is_some_and(|first| first.is_ascii_uppercase() || *first == 0xc3)
}

/// Two words in a row with capitals, the first of which is no article.
fn full_name(start: &[u8]) -> bool {
    const ARTICLES: &[&[u8]] = &[
        b"The", b"A", b"An", b"Every", b"Many", b"Most", b"Ein", b"Eine", b"Der", b"Die", b"Das",
        b"Viele", b"Jeder", b"Jede", b"When", b"If", b"Since", b"Wenn",
    ];
    let words: Vec<&[u8]> = start.split(|byte| *byte == b' ').collect();
    words.windows(2).any(|pair| match pair {
        [first, second] => {
            capitals(first) == 1 && capitals(second) == 1 && !ARTICLES.contains(first)
        }
        _ => false,
    })
}

fn names(bytes: &[u8]) -> bool {
    capitals(bytes) >= 1
}

fn dated(bytes: &[u8]) -> bool {
    bytes.iter().filter(|byte| byte.is_ascii_digit()).count() >= 4
}
