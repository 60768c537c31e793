//! Numbers and dates that stand for one person: the social security number of the USA, and dates
//! said to be of birth. (Numbers of other countries come with the entity table of a later issue.)

use mesh_core::PrivacyLevel;

use super::digits::{Chain, Group};
use super::lexicon::{Hit, Sense, any};
use super::{Matches, Rule, before, wordy};

static SSN: Rule = Rule {
    id: "ssn/form",
    kind: "us_ssn",
    level: PrivacyLevel::Restricted,
};
static BIRTH: Rule = Rule {
    id: "birth/date",
    kind: "date_of_birth",
    level: PrivacyLevel::Confidential,
};

/// Words beside a social security number.
pub(crate) const SSN_CONTEXT: &[&str] = &[
    "ssn",
    "social security",
    "social-security",
    "socialsecurity",
];
/// Words before a date of birth.
pub(crate) const BIRTH_CONTEXT: &[&str] = &[
    "date of birth",
    "birth date",
    "birthdate",
    "birthday:",
    "dob",
    "date_of_birth",
    "geburtsdatum",
    "geburtstag:",
    "geb.",
    "geb. am",
    "geboren am",
    "date de naissance",
    "fecha de nacimiento",
];
const NEAR: usize = 48;
/// Printed on sample cards and in advertisements, never given to a person.
const SAMPLES: &[&[u8]] = &[b"078051120", b"219099999", b"457555462"];

/// Looks at a chain: `123-45-6789` alone, other forms beside a word.
pub(crate) fn ssn(chain: &Chain<'_>, out: &mut Matches) {
    for (index, group) in chain.groups.iter().enumerate() {
        let parts = chain.groups.get(index..index + 3).unwrap_or_default();
        let lengths = parts.iter().map(Group::len);
        if lengths.eq([3, 2, 4]) {
            let dashes = parts.iter().zip(parts.iter().skip(1)).all(|(left, right)| {
                chain.text.get(left.end..right.start) == Some(b"-".as_slice())
            });
            let alone = dashes && chain.groups.len() == 3 && free(chain.text, parts);
            number(chain, parts, alone, out);
        } else if group.len() == 9 {
            number(chain, std::slice::from_ref(group), false, out);
        }
    }
}

fn free(text: &[u8], parts: &[Group]) -> bool {
    let start = parts.first().map_or(0, |group| group.start);
    let end = parts.last().map_or(0, |group| group.end);
    !before(text, start).is_some_and(|byte| wordy(byte) || byte == b'-')
        && !text.get(end).copied().is_some_and(wordy)
}

fn number(chain: &Chain<'_>, parts: &[Group], alone: bool, out: &mut Matches) {
    let digits: Vec<u8> = parts
        .iter()
        .filter_map(|group| chain.text.get(group.start..group.end))
        .flatten()
        .copied()
        .collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return;
    };
    let near = || {
        any(
            chain.hits,
            Sense::SsnWord,
            first.start.saturating_sub(NEAR)..last.end + NEAR,
        )
    };
    if assigned(&digits) && (alone || near()) {
        out.add(&SSN, first.start, last.end);
    }
}

/// Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never given (rules of the US Social
/// Security Administration since June 2011).
fn assigned(digits: &[u8]) -> bool {
    let (Some(area), Some(group), Some(serial)) =
        (digits.get(..3), digits.get(3..5), digits.get(5..9))
    else {
        return false;
    };
    area != b"000"
        && area != b"666"
        && !area.starts_with(b"9")
        && group != b"00"
        && serial != b"0000"
        && !SAMPLES.contains(&digits)
}

/// Looks behind a word for a date of birth.
pub(crate) fn birth(text: &[u8], hit: &Hit, out: &mut Matches) {
    const REACH: usize = 32;
    let end = text.len().min(hit.end + REACH);
    let Some(behind) = text.get(hit.end..end) else {
        return;
    };
    if text.get(hit.end).is_some_and(u8::is_ascii_alphabetic) {
        return;
    }
    let Some(first) = behind.iter().position(u8::is_ascii_digit) else {
        return;
    };
    // "date of birth" in one sentence and a number in the next do not belong together.
    let between = behind.get(..first).unwrap_or_default();
    if between.windows(2).any(|pair| pair == b". ") || between.contains(&b'?') {
        return;
    }
    if let Some(length) = date(behind.get(first..).unwrap_or_default()) {
        out.add(&BIRTH, hit.end + first, hit.end + first + length);
    }
}

/// Length of a date in digits at the begin: `1979-02-03`, `3.2.1979`, `02/03/79`.
fn date(text: &[u8]) -> Option<usize> {
    let mut numbers = [0_u32; 3];
    let mut at = 0;
    for (index, number) in numbers.iter_mut().enumerate() {
        if index > 0 {
            let separator = text
                .get(at)
                .is_some_and(|byte| matches!(byte, b'-' | b'.' | b'/' | b' '));
            at += usize::from(separator);
            at += usize::from(text.get(at) == Some(&b' '));
            if !separator {
                return None;
            }
        }
        let digits = text
            .get(at..)?
            .iter()
            .take(4)
            .take_while(|byte| byte.is_ascii_digit());
        let mut count = 0;
        for digit in digits {
            *number = *number * 10 + u32::from(digit - b'0');
            count += 1;
        }
        if count == 0 {
            return None;
        }
        at += count;
    }
    let day = 1..=31;
    let year = |year: u32| year < 100 || (1900..2100).contains(&year);
    let [first, second, third] = numbers;
    let fits = (first > 31 && year(first) && day.contains(&second) && day.contains(&third))
        || (day.contains(&first) && day.contains(&second) && year(third));
    fits.then_some(at)
}
