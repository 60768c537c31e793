//! Payment cards: issuer range, length of that issuer, check digit (Luhn, ISO/IEC 7812-1), and a
//! grouping that people use. Never inside a longer run of digits.
//!
//! Limits, on purpose: thirteen digits that are a valid EAN-13 (a bar code) or look like a phone
//! number, unusual groupings, and the broad Maestro ranges need a word like "card" nearby; digits
//! after `0.` or `0x` are no card numbers unless such a word is near. Test card numbers are valid numbers and are found.

use mesh_core::PrivacyLevel;

use super::digits::{Chain, Group};
use super::lexicon::{Sense, any};
use super::{Matches, Rule, before, wordy};

static CARD: Rule = Rule {
    id: "card/luhn",
    kind: "payment_card",
    level: PrivacyLevel::Restricted,
};

/// Words beside a card number.
pub(crate) const CONTEXT: &[&str] = &[
    "card",
    "credit",
    "debit",
    "visa",
    "mastercard",
    "amex",
    "american express",
    "maestro",
    "pan:",
    "karte",
    "kreditkart",
    "kartennummer",
    "cvv",
    "cvc",
    "carte",
    "tarjeta",
    "payment",
    "charge",
];
/// Bytes around a number in which a word counts.
const NEAR: usize = 64;
const LONGEST: usize = 19;
const SHORTEST: usize = 12;
/// More groups than any usual way to write a card has.
const FEW_GROUPS: usize = 6;

/// Looks for cards in a chain of digit groups.
pub(crate) fn check(chain: &Chain<'_>, out: &mut Matches) {
    let mut first = 0;
    while first < chain.groups.len() {
        if let Some(card) = starting_at(chain, first) {
            let start = card.first().map_or(0, |group| group.start);
            let end = card.last().map_or(start, |group| group.end);
            out.add(&CARD, start, end);
            first += card.len();
        } else {
            first += 1;
        }
    }
}

/// The groups of the card that begins with group `first`. At most 19 digits are looked at.
fn starting_at<'a>(chain: &Chain<'a>, first: usize) -> Option<&'a [Group]> {
    let mut digits = [0_u8; LONGEST];
    let mut length = 0;
    let groups = chain.groups.get(first..)?;
    for (index, group) in groups.iter().enumerate() {
        // Long rows of small numbers are looked at only where a card is likely.
        if index == FEW_GROUPS
            && first > 0
            && !near_word(chain, groups.get(..LONGEST).unwrap_or(groups))
        {
            return None;
        }
        let room = digits.get_mut(length..length + group.len())?;
        room.copy_from_slice(chain.text.get(group.start..group.end)?);
        length += group.len();
        let number = digits.get(..length)?;
        if length < SHORTEST || !luhn(number) {
            continue;
        }
        let (Some(trust), Some(card)) = (issuer(number), groups.get(..=index)) else {
            continue;
        };
        if before(chain.text, group_start(card)) == Some(b'+') && length <= 15 {
            continue; // an international phone number
        }
        let whole = first == 0 && index + 1 == groups.len();
        let alone = trust == Trust::Alone
            && grouped_as_usual(card, whole, number)
            && !fraction(chain.text, card)
            && !constant(chain.text, card);
        if alone || near_word(chain, card) {
            return Some(card);
        }
    }
    None
}

fn group_start(card: &[Group]) -> usize {
    card.first().map_or(0, |group| group.start)
}

fn near_word(chain: &Chain<'_>, card: &[Group]) -> bool {
    let start = group_start(card);
    let end = card.last().map_or(start, |group| group.end);
    any(
        chain.hits,
        Sense::CardWord,
        start.saturating_sub(NEAR)..end + NEAR,
    )
}

/// Whether cards are written like this. `whole`: there are no other groups in the chain.
fn grouped_as_usual(card: &[Group], whole: bool, number: &[u8]) -> bool {
    if number.len() == 13 && (ean13(number) || card.len() > 1) {
        return false;
    }
    let lengths: Vec<usize> = card.iter().map(Group::len).collect();
    match lengths.as_slice() {
        [_]
        | [8, 8 | 11]
        | [4, 4, 4]
        | [4, 4, 4, 4]
        | [4, 4, 4, 4, 1..=3]
        | [4, 6, 4 | 5]
        | [4, 5, 6]
        | [6, 10 | 13] => true,
        [first, rest @ ..] => whole && rest.iter().all(|length| length == first),
        [] => false,
    }
}

/// True for the digits behind the point of `0.4111…`.
fn fraction(text: &[u8], card: &[Group]) -> bool {
    let start = group_start(card);
    let point = before(text, start) == Some(b'.');
    let whole_part = start.checked_sub(1).and_then(|point| before(text, point));
    card.len() == 1 && point && whole_part.is_some_and(|byte| byte.is_ascii_digit())
}

/// True for digits inside `0x3d39880000000000`.
fn constant(text: &[u8], card: &[Group]) -> bool {
    const LONGEST_CONSTANT: usize = 32;
    let lead = text.get(..group_start(card)).unwrap_or_default();
    let word = lead
        .iter()
        .rev()
        .take(LONGEST_CONSTANT)
        .take_while(|byte| wordy(**byte))
        .count();
    let word = lead.get(lead.len() - word..).unwrap_or_default();
    word.starts_with(b"0x") || word.starts_with(b"0X")
}

/// The check digit of ISO/IEC 7812-1, Annex B.
fn luhn(digits: &[u8]) -> bool {
    let mut sum = 0_u32;
    for (index, byte) in digits.iter().rev().enumerate() {
        let digit = u32::from(byte.wrapping_sub(b'0'));
        let doubled = digit * 2;
        sum += match index % 2 {
            0 => digit,
            _ if doubled > 9 => doubled - 9,
            _ => doubled,
        };
    }
    sum.is_multiple_of(10)
}

/// The check digit of a bar code (GS1 General Specifications, section 7.9).
fn ean13(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .enumerate()
        .map(|(index, byte)| {
            let weight = if index % 2 == 0 { 1 } else { 3 };
            weight * u32::from(byte.wrapping_sub(b'0'))
        })
        .sum();
    digits.len() == 13 && sum.is_multiple_of(10)
}

/// Whether an issuer's range is narrow enough to count without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Alone,
    WithWord,
}

/// Ranges of first six digits with the lengths of that issuer (published issuer lists).
const ISSUERS: &[(u32, u32, &[u8], Trust)] = &[
    (400_000, 499_999, &[13, 16, 19], Trust::Alone), // Visa
    (510_000, 559_999, &[16], Trust::Alone),         // Mastercard
    (222_100, 272_099, &[16], Trust::Alone),         // Mastercard, 2-series
    (340_000, 349_999, &[15], Trust::Alone),         // American Express
    (370_000, 379_999, &[15], Trust::Alone),         // American Express
    (300_000, 305_999, &[14, 16, 17, 18, 19], Trust::Alone), // Diners Club
    (309_500, 309_599, &[14, 16, 17, 18, 19], Trust::Alone), // Diners Club
    (360_000, 369_999, &[14, 15, 16, 17, 18, 19], Trust::Alone), // Diners Club
    (380_000, 399_999, &[14, 16, 17, 18, 19], Trust::Alone), // Diners Club
    (352_800, 358_999, &[16, 17, 18, 19], Trust::Alone), // JCB
    (213_100, 213_199, &[15], Trust::Alone),         // JCB
    (180_000, 180_099, &[15], Trust::Alone),         // JCB
    (601_100, 601_199, &[16, 17, 18, 19], Trust::Alone), // Discover
    (644_000, 659_999, &[16, 17, 18, 19], Trust::Alone), // Discover, RuPay, Troy, Elo
    (620_000, 629_999, &[16, 17, 18, 19], Trust::Alone), // UnionPay
    (810_000, 817_199, &[16, 17, 18, 19], Trust::Alone), // UnionPay
    (817_200, 829_999, &[16], Trust::Alone),         // RuPay
    (600_000, 609_999, &[16], Trust::Alone),         // RuPay, Cabal, Hipercard
    (220_000, 220_599, &[16, 17, 18, 19], Trust::Alone), // Mir, Borica
    (
        501_800,
        501_899,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::Alone,
    ), // Maestro
    (501_900, 501_999, &[16], Trust::Alone),         // Dankort
    (
        502_000,
        502_099,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::Alone,
    ), // Maestro
    (
        503_800,
        503_899,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::Alone,
    ), // Maestro
    (506_000, 508_999, &[16, 18, 19], Trust::Alone), // Verve, Elo, RuPay
    (
        589_300,
        589_399,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::Alone,
    ), // Maestro
    (
        630_400,
        630_499,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::Alone,
    ), // Maestro
    (636_000, 639_999, &[16], Trust::Alone),         // Elo, InstaPayment
    (
        675_900,
        676_399,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::Alone,
    ), // Maestro
    (357_111, 357_111, &[16], Trust::Alone),         // LankaPay
    (860_000, 860_099, &[16], Trust::Alone),         // Uzcard
    (986_000, 986_099, &[16], Trust::Alone),         // Humo
    (979_200, 979_299, &[16], Trust::Alone),         // Troy
    (
        500_000,
        509_999,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::WithWord,
    ), // Maestro
    (
        560_000,
        589_999,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::WithWord,
    ), // Maestro
    (
        600_000,
        699_999,
        &[12, 13, 14, 15, 16, 17, 18, 19],
        Trust::WithWord,
    ), // Maestro
    (100_000, 199_999, &[15], Trust::WithWord),      // UATP
];

fn issuer(digits: &[u8]) -> Option<Trust> {
    let first = digits.get(..6)?;
    let prefix = first.iter().fold(0, |number, byte| {
        number * 10 + u32::from(byte.wrapping_sub(b'0'))
    });
    let length = u8::try_from(digits.len()).ok()?;
    ISSUERS
        .iter()
        .find(|(low, high, lengths, _)| {
            (*low..=*high).contains(&prefix) && lengths.contains(&length)
        })
        .map(|(_, _, _, trust)| *trust)
}
