//! `password = …`: something whose name says that it is secret. A name, a sign, a value that is
//! neither a placeholder nor code nor a common word. Weak evidence, hence confidential only; the
//! one exception is an AWS secret key behind its name.

use mesh_core::PrivacyLevel;

use super::lexicon::Hit;
use super::token::distinct;
use super::{Matches, Rule};
use crate::corpus::SEAM;

static ASSIGNED: Rule = Rule {
    id: "secret/assigned",
    kind: "secret",
    level: PrivacyLevel::Confidential,
};
static AWS_SECRET: Rule = Rule {
    id: "credential/aws-secret",
    kind: "credential",
    level: PrivacyLevel::Restricted,
};

/// Names of secrets.
pub(crate) const NAMES: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "api key",
    "access_key",
    "access-key",
    "private_key",
    "auth_key",
    "credential",
    "passwort",
    "kennwort",
    "geheimnis",
    "mot de passe",
    "contraseña",
    "clave",
    "pin code",
];

/// Parts of values that only stand for a secret, in lower case.
const HOLLOW: &[&[u8]] = &[
    b"example",
    b"xxxx",
    b"****",
    b"....",
    b"your",
    b"placeholder",
    b"changeme",
    b"change_me",
    b"change-me",
    b"redacted",
    b"dummy",
    b"insert",
    b"todo",
    b"<",
    b">",
    b"${",
    b"$(",
    b"{{",
    b"%(",
    b"process.env",
    b"os.environ",
    b"getenv",
    b"secrets.",
    b"undefined",
    b"foobar",
];
/// Whole values that say nothing, apart from digits and marks around them.
const EMPTY: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"pass",
    b"pwd",
    b"secret",
    b"token",
    b"key",
    b"user",
    b"none",
    b"null",
    b"string",
    b"str",
    b"hidden",
    b"required",
    b"optional",
    b"value",
    b"passwort",
];

/// True for values that only stand for a secret.
pub(crate) fn placeholder(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let hollow = HOLLOW
        .iter()
        .any(|part| lower.windows(part.len()).any(|window| window == *part));
    let mut core = lower.as_slice();
    while let [rest @ .., last] = core
        && !last.is_ascii_alphabetic()
    {
        core = rest;
    }
    hollow || EMPTY.contains(&core) || lower.starts_with(b"$") || distinct(value) < 4
}

/// Bytes of a value that decide.
const LOOKED_AT: usize = 64;
/// Bytes of a value that a finding covers at most.
const LONGEST: usize = 1024;

/// Looks behind the name of a secret.
pub(crate) fn check(text: &[u8], hit: &Hit, out: &mut Matches) {
    let Some((start, said)) = value_start(text, hit.end) else {
        return;
    };
    let quote = super::before(text, start).filter(|byte| matches!(byte, b'"' | b'\'' | b'`'));
    let inside = |byte: &u8| match quote {
        Some(quote) => *byte != quote && byte.is_ascii_graphic(),
        None => {
            byte.is_ascii_graphic()
                && !matches!(byte, b'"' | b'\'' | b'`' | b',' | b';' | b'&' | b'\\')
        }
    };
    let rest = text.get(start..).unwrap_or_default();
    let length = rest
        .iter()
        .take(LOOKED_AT)
        .take_while(|byte| inside(byte))
        .count();
    let value = rest.get(..length).unwrap_or_default();
    let value = if quote.is_none() {
        trimmed(value)
    } else {
        value
    };
    let name = text.get(hit.start..hit.end).unwrap_or_default();
    let password = name
        .first()
        .is_some_and(|first| matches!(first.to_ascii_lowercase(), b'p' | b'k' | b'm' | b'c'));
    let code = || quote.is_none() && looks_like_code(value);
    if !convincing(value, password, said) || code() || placeholder(value) {
        return;
    }
    let rule = if aws(text, hit, value) {
        &AWS_SECRET
    } else {
        &ASSIGNED
    };
    let longer = if length == LOOKED_AT {
        rest.iter()
            .take(LONGEST)
            .take_while(|byte| inside(byte))
            .count()
    } else {
        value.len()
    };
    out.add(rule, start, start + longer);
}

/// A sentence may end behind the value.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [rest @ .., b'.' | b')' | b'!' | b'?' | b':' | b']' | b'}'] = value {
        value = rest;
    }
    value
}

fn aws(text: &[u8], hit: &Hit, value: &[u8]) -> bool {
    let near = text
        .get(hit.start.saturating_sub(24)..hit.end + 16)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    value.len() == 40 && value.iter().all(base64) && near.windows(3).any(|word| word == b"aws")
}

fn looks_like_code(value: &[u8]) -> bool {
    value.iter().any(|byte| matches!(byte, b'(' | b'[' | b'{'))
        || value.starts_with(b"/")
        || value.starts_with(b"http")
        || value.starts_with(b"--")
}

/// What a value is made of.
#[derive(Default)]
struct Make {
    digits: usize,
    upper: usize,
    lower: usize,
    marks: usize,
    points: usize,
}

impl Make {
    fn of(value: &[u8]) -> Self {
        let mut make = Self::default();
        for byte in value {
            match byte {
                b'0'..=b'9' => make.digits += 1,
                b'A'..=b'Z' => make.upper += 1,
                b'a'..=b'z' => make.lower += 1,
                b'.' => make.points += 1,
                _ => make.marks += 1,
            }
        }
        make
    }
}

/// Enough different characters of more than one kind.
fn convincing(value: &[u8], password: bool, said: bool) -> bool {
    let make = Make::of(value);
    let letters = make.upper + make.lower > 0;
    let marks = make.marks + make.points > 0;
    // A capital at the begin only is a word.
    let begins = value.first().is_some_and(u8::is_ascii_uppercase);
    let upper = make.upper > usize::from(begins);
    let mixed =
        (make.digits > 0 && letters) || (marks && letters && !said) || (upper && make.lower > 0);
    let path = make.points > 1 && make.digits == 0;
    if path || !mixed {
        return false;
    }
    if password {
        let strong = make.digits > 0 || (marks && upper);
        return strong && value.len() >= 6 && distinct(value) >= 5;
    }
    // Keys and tokens are long and random; a long identifier in code is not.
    make.digits >= 2 && value.len() >= 16 && distinct(value) >= 10
}

/// Words between a name and a value in a sentence.
const SAID: &[&[u8]] = &[
    b"is ",
    b"is: ",
    b"ist ",
    b"ist: ",
    b"lautet ",
    b"lautet: ",
    b"est ",
    b"es ",
];

/// Position of the value behind a name, and whether words ("is") stand between instead of a sign.
fn value_start(text: &[u8], name_end: usize) -> Option<(usize, bool)> {
    let mut at = name_end;
    let skip = |at: &mut usize, allowed: fn(u8) -> bool, most: usize| {
        let start = *at;
        while *at - start < most && text.get(*at).copied().is_some_and(allowed) {
            *at += 1;
        }
    };
    // The rest of a longer name: `password_hash`, `secretKey`, `tokens`.
    skip(
        &mut at,
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
        24,
    );
    skip(
        &mut at,
        |byte| matches!(byte, b'"' | b'\'' | b'`' | b']' | b')' | b'*'),
        3,
    );
    skip(&mut at, |byte| matches!(byte, b' ' | b'\t'), 4);
    let rest = text.get(at..)?;
    let said = SAID.iter().find(|word| {
        rest.get(..word.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(word))
    });
    if let Some(word) = said {
        at += word.len();
    } else {
        let seam = rest.first() == Some(&SEAM) && alone(text, name_end);
        let sign = rest
            .iter()
            .take(3)
            .take_while(|byte| matches!(byte, b'=' | b':' | b'>' | b'|'))
            .count();
        if sign == 0 && !seam {
            return None;
        }
        at += sign + usize::from(seam);
    }
    skip(&mut at, |byte| matches!(byte, b' ' | b'\t' | b'*'), 4);
    skip(&mut at, |byte| matches!(byte, b'"' | b'\'' | b'`'), 1);
    Some((at, said.is_some()))
}

/// Whether the name is a whole segment: a member name, with its value in the next segment.
fn alone(text: &[u8], name_end: usize) -> bool {
    let name = text
        .get(name_end.saturating_sub(32)..name_end)
        .unwrap_or_default();
    let start = name
        .iter()
        .rposition(|byte| *byte == SEAM)
        .map_or(0, |seam| seam + 1);
    let whole = start > 0 || name.len() < 32;
    whole && !name.get(start..).unwrap_or_default().contains(&b' ')
}
