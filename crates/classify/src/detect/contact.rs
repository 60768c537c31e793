//! E-mail addresses and phone numbers. Alone they are internal; ten different ones are a list of
//! people and confidential.
//!
//! A number counts as a phone number in international form (`+` and 8 to 15 digits, ITU-T E.164),
//! in the North American form `(415) 555-0123`, or beside a word like "phone".

use mesh_core::PrivacyLevel;

use super::digits::Chain;
use super::lexicon::{Sense, any};
use super::{Matches, Rule, before, wordy};

/// One address.
pub(crate) static EMAIL: Rule = Rule {
    id: "email/form",
    kind: "email",
    level: PrivacyLevel::Internal,
};
/// Many addresses.
pub(crate) static EMAIL_BULK: Rule = Rule {
    id: "email/bulk",
    kind: "email",
    level: PrivacyLevel::Confidential,
};
/// One number.
pub(crate) static PHONE: Rule = Rule {
    id: "phone/form",
    kind: "phone",
    level: PrivacyLevel::Internal,
};
/// Many numbers.
pub(crate) static PHONE_BULK: Rule = Rule {
    id: "phone/bulk",
    kind: "phone",
    level: PrivacyLevel::Confidential,
};

/// Words beside a phone number.
pub(crate) const PHONE_CONTEXT: &[&str] = &[
    "phone",
    "telephone",
    "tel.",
    "tel:",
    "mobile",
    "cell:",
    "cell number",
    "call me",
    "call us",
    "telefon",
    "handy",
    "mobil",
    "rufnummer",
    "fax",
    "whatsapp",
    "téléphone",
    "móvil",
    "teléfono",
    "rufen sie",
    "ruf mich",
];
/// Bytes before a number in which a word counts.
const NEAR: usize = 40;
/// Longest local part and longest domain (RFC 5321 section 4.5.3.1).
const LOCAL: usize = 64;
const DOMAIN: usize = 255;

const fn local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(
            byte,
            b'.' | b'_' | b'%' | b'+' | b'-' | b'\'' | b'&' | b'#' | b'=' | b'~'
        )
}

/// Looks at an `@`: a local part before it, a domain with a top level after it?
pub(crate) fn email(text: &[u8], at: usize, out: &mut Matches) {
    let (Some(left), Some(right)) = (text.get(..at), text.get(at + 1..)) else {
        return;
    };
    let name = left
        .iter()
        .rev()
        .take(LOCAL)
        .take_while(|byte| local(**byte))
        .count();
    let mut domain = right
        .iter()
        .take(DOMAIN)
        .take_while(|byte| {
            byte.is_ascii_alphanumeric() || **byte >= 0x80 || matches!(byte, b'.' | b'-')
        })
        .count();
    // A sentence may end here.
    while domain > 0 && matches!(right.get(domain - 1), Some(b'.' | b'-')) {
        domain -= 1;
    }
    let Some(host) = right.get(..domain) else {
        return;
    };
    let mut labels = host.rsplit(|byte| *byte == b'.');
    let top = labels.next().unwrap_or_default();
    let second = labels.next().unwrap_or_default();
    let named = top.len() >= 2 && top.first().is_some_and(|byte| !byte.is_ascii_digit());
    if name == 0 || !named || second.is_empty() {
        return;
    }
    let (start, end) = (at - name, at + 1 + domain);
    if let Some(address) = text.get(start..end) {
        out.add_email(address, start, end);
    }
}

/// Looks at a chain of digit groups.
pub(crate) fn phone(chain: &Chain<'_>, digits: usize, out: &mut Matches) {
    if digits > 15 {
        return;
    }
    let (Some(first), Some(last)) = (chain.groups.first(), chain.groups.last()) else {
        return;
    };
    let text = chain.text;
    let plus = before(text, first.start) == Some(b'+')
        && !first
            .start
            .checked_sub(1)
            .and_then(|sign| before(text, sign))
            .is_some_and(wordy);
    let international = plus && digits >= 8 && text.get(first.start) != Some(&b'0');
    let lengths = (
        chain.groups.len(),
        first.len(),
        chain.groups.get(1).map_or(0, super::digits::Group::len),
        last.len(),
    );
    let bracketed = before(text, first.start) == Some(b'(') && text.get(first.end) == Some(&b')');
    let american = bracketed && lengths == (3, 3, 3, 4);
    let near = || {
        any(
            chain.hits,
            Sense::PhoneWord,
            first.start.saturating_sub(NEAR)..first.start,
        )
    };
    if !(international || american || digits <= 13 && near()) {
        return;
    }
    let numbers: Vec<u8> = chain
        .groups
        .iter()
        .filter_map(|group| text.get(group.start..group.end))
        .flatten()
        .copied()
        .collect();
    let start = first.start - usize::from(plus || american);
    out.add_phone(&numbers, start, last.end);
}
