//! International bank account numbers: country, length and structure of that country, and the two
//! check digits (ISO 13616-1, ISO 7064 MOD 97-10). Blanks, hyphens and lower case are accepted.

use mesh_core::PrivacyLevel;

use super::{Matches, Rule, before, wordy};

static IBAN: Rule = Rule {
    id: "iban/mod97",
    kind: "iban",
    level: PrivacyLevel::Confidential,
};

/// Country and structure of the national part: digits (n), capital letters (a), either (c).
/// Source: the public IBAN registry's country formats.
const COUNTRIES: &[(&[u8; 2], &str)] = &[
    (b"AD", "8n12c"),
    (b"AE", "19n"),
    (b"AL", "8n16c"),
    (b"AT", "16n"),
    (b"AZ", "4a20c"),
    (b"BA", "16n"),
    (b"BE", "12n"),
    (b"BG", "4a6n8c"),
    (b"BH", "4a14c"),
    (b"BI", "23n"),
    (b"BR", "23n1a1c"),
    (b"BY", "4c4n16c"),
    (b"CH", "5n12c"),
    (b"CR", "18n"),
    (b"CY", "8n16c"),
    (b"CZ", "20n"),
    (b"DE", "18n"),
    (b"DJ", "23n"),
    (b"DK", "14n"),
    (b"DO", "4c20n"),
    (b"EE", "16n"),
    (b"EG", "25n"),
    (b"ES", "20n"),
    (b"FI", "14n"),
    (b"FK", "2a12n"),
    (b"FO", "14n"),
    (b"FR", "10n11c2n"),
    (b"GB", "4a14n"),
    (b"GE", "2a16n"),
    (b"GI", "4a15c"),
    (b"GL", "14n"),
    (b"GR", "7n16c"),
    (b"GT", "24c"),
    (b"HR", "17n"),
    (b"HU", "24n"),
    (b"IE", "4a14n"),
    (b"IL", "19n"),
    (b"IQ", "4a15n"),
    (b"IS", "22n"),
    (b"IT", "1a10n12c"),
    (b"JO", "4a4n18c"),
    (b"KW", "4a22c"),
    (b"KZ", "3n13c"),
    (b"LB", "4n20c"),
    (b"LC", "4a24c"),
    (b"LI", "5n12c"),
    (b"LT", "16n"),
    (b"LU", "3n13c"),
    (b"LV", "4a13c"),
    (b"LY", "21n"),
    (b"MC", "10n11c2n"),
    (b"MD", "20c"),
    (b"ME", "18n"),
    (b"MK", "3n10c2n"),
    (b"MN", "16n"),
    (b"MR", "23n"),
    (b"MT", "4a5n18c"),
    (b"MU", "4a19n3a"),
    (b"NI", "4a20n"),
    (b"NL", "4a10n"),
    (b"NO", "11n"),
    (b"OM", "3n16c"),
    (b"PK", "4a16c"),
    (b"PL", "24n"),
    (b"PS", "4a21c"),
    (b"PT", "21n"),
    (b"QA", "4a21c"),
    (b"RO", "4a16c"),
    (b"RS", "18n"),
    (b"RU", "14n15c"),
    (b"SA", "2n18c"),
    (b"SC", "4a20n3a"),
    (b"SD", "14n"),
    (b"SE", "20n"),
    (b"SI", "15n"),
    (b"SK", "20n"),
    (b"SM", "1a10n12c"),
    (b"SO", "19n"),
    (b"ST", "21n"),
    (b"SV", "4a20n"),
    (b"TL", "19n"),
    (b"TN", "20n"),
    (b"TR", "6n16c"),
    (b"UA", "6n19c"),
    (b"VA", "18n"),
    (b"VG", "4a16n"),
    (b"XK", "16n"),
    (b"YE", "4a4n18c"),
];

/// Separator bytes inside one number that are skipped, in a row.
const MAX_GAP: usize = 2;

/// Looks at a group of digits: are they the check digits of an IBAN?
pub(crate) fn check(text: &[u8], digits: usize, out: &mut Matches) {
    let mut end = digits;
    if matches!(before(text, end), Some(b' ' | b'-')) {
        end -= 1;
    }
    let Some(start) = end.checked_sub(2) else {
        return;
    };
    let Some(&[first, second]) = text.get(start..end) else {
        return;
    };
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let Ok(at) = COUNTRIES.binary_search_by(|(code, _)| (*code).cmp(&country)) else {
        return;
    };
    let Some((_, form)) = COUNTRIES.get(at) else {
        return;
    };
    if before(text, start).is_some_and(wordy) {
        return;
    }
    if let Some(stop) = read(text, digits, country, form) {
        out.add(&IBAN, start, stop);
    }
}

/// Reads check digits and national part; gives the first byte after them if everything holds.
fn read(text: &[u8], mut at: usize, country: [u8; 2], form: &str) -> Option<usize> {
    let mut checks = [0_u8; 2];
    for check in &mut checks {
        *check = next(text, &mut at, b'n')?;
    }
    let mut rest = 0;
    let mut count = 0_usize;
    for sign in form.bytes() {
        if sign.is_ascii_digit() {
            count = count * 10 + usize::from(sign - b'0');
            continue;
        }
        for _ in 0..count {
            rest = modulo(rest, next(text, &mut at, sign)?);
        }
        count = 0;
    }
    for byte in country.into_iter().chain(checks) {
        rest = modulo(rest, byte);
    }
    let ends = !text.get(at).copied().is_some_and(wordy);
    (ends && rest == 1).then_some(at)
}

/// The next character of the number, in capitals, if it is of the kind wanted.
fn next(text: &[u8], at: &mut usize, sign: u8) -> Option<u8> {
    let gap = text
        .get(*at..)?
        .iter()
        .take(MAX_GAP)
        .take_while(|byte| matches!(byte, b' ' | b'-' | b'.'))
        .count();
    let byte = text.get(*at + gap)?.to_ascii_uppercase();
    let fits = match sign {
        b'n' => byte.is_ascii_digit(),
        b'a' => byte.is_ascii_uppercase(),
        _ => byte.is_ascii_digit() || byte.is_ascii_uppercase(),
    };
    *at += gap + 1;
    fits.then_some(byte)
}

/// One step of ISO 7064 MOD 97-10; letters count 10 to 35.
fn modulo(rest: u32, byte: u8) -> u32 {
    if byte.is_ascii_digit() {
        (rest * 10 + u32::from(byte - b'0')) % 97
    } else {
        (rest * 100 + u32::from(byte.wrapping_sub(b'A')) + 10) % 97
    }
}

#[cfg(test)]
mod tests {
    use super::COUNTRIES;

    #[test]
    fn countries_are_sorted_for_the_search() {
        assert!(COUNTRIES.is_sorted_by(|left, right| left.0 < right.0));
    }
}
