//! Credentials with structure: private keys, JSON web tokens, authorization headers, addresses with
//! a password. Public keys, certificates and placeholders are none.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mesh_core::PrivacyLevel;
use serde_json::Value;

use super::lexicon::Hit;
use super::secret::placeholder;
use super::token::distinct;
use super::{Matches, Rule};

const fn rule(id: &'static str) -> Rule {
    Rule {
        id,
        kind: "credential",
        level: PrivacyLevel::Restricted,
    }
}

static PRIVATE_KEY: Rule = rule("credential/private-key");
static WEB_TOKEN: Rule = rule("credential/jwt");
static HEADER: Rule = rule("credential/authorization");
static ADDRESS: Rule = rule("credential/url");

/// Words that the lexicon listens to.
pub(crate) const PEM: &[&str] = &["-----BEGIN "];
pub(crate) const JWT: &[&str] = &["eyJ"];
pub(crate) const AUTHORIZATION: &[&str] = &["bearer ", "basic "];
pub(crate) const SCHEME: &[&str] = &["://"];

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// A private key: the header and at least the begin of a body.
pub(crate) fn pem(text: &[u8], hit: &Hit, out: &mut Matches) {
    const LABEL: usize = 48;
    const BODY: usize = 20;
    const DASHES: usize = 5;
    let Some(rest) = text.get(hit.end..) else {
        return;
    };
    let Some(dashes) = rest.iter().take(LABEL).position(|byte| *byte == b'-') else {
        return;
    };
    let label = rest.get(..dashes).unwrap_or_default();
    if !label.windows(11).any(|word| word == b"PRIVATE KEY") {
        return;
    }
    let body = rest.get(dashes..).unwrap_or_default();
    let (mut run, mut end, mut border) = (0, 0, 0);
    // Headers such as `Proc-Type:` may stand before the body: its first long line decides.
    for (at, byte) in body.iter().enumerate().skip(DASHES).take(256) {
        let encoded = byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        run = if encoded { run + 1 } else { 0 };
        border = if *byte == b'-' { border + 1 } else { 0 };
        if run >= BODY {
            end = at + 1;
        }
        if end > 0 || border >= DASHES {
            break;
        }
    }
    if end > 0 {
        // The next five dashes are the end, or the begin of another key.
        let close = body
            .get(end..)
            .and_then(|rest| {
                rest.windows(DASHES)
                    .take(8192)
                    .position(|word| word == b"-----")
            })
            .map_or(end, |step| end + step);
        out.add(&PRIVATE_KEY, hit.start, hit.end + dashes + close);
    }
}

fn url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Three parts of base64url, the first of which is a JSON object that names an algorithm.
pub(crate) fn jwt(text: &[u8], hit: &Hit, out: &mut Matches) {
    const HEAD: usize = 1024;
    const LONGEST: usize = 16_384;
    if super::before(text, hit.start).is_some_and(url_safe)
        || text.get(hit.start..hit.end) != Some(b"eyJ")
    {
        return;
    }
    let rest = text.get(hit.start..).unwrap_or_default();
    let head = rest
        .iter()
        .take(HEAD)
        .take_while(|byte| url_safe(**byte))
        .count();
    let payload = part(rest, head, LONGEST);
    let Some(payload) = payload.filter(|payload| payload - head > 8) else {
        return;
    };
    let Some(end) = part(rest, payload, LONGEST) else {
        return;
    };
    let header = rest
        .get(..head)
        .and_then(|head| URL_SAFE.decode(head).ok())
        .and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    if header.is_some_and(|header| header.get("alg").is_some()) {
        out.add(&WEB_TOKEN, hit.start, hit.start + end);
    }
}

/// End of the part behind the point at `at`.
fn part(rest: &[u8], at: usize, longest: usize) -> Option<usize> {
    let body = rest.get(at..)?.strip_prefix(b".")?;
    Some(
        at + 1
            + body
                .iter()
                .take(longest)
                .take_while(|byte| url_safe(**byte))
                .count(),
    )
}

/// `Bearer` with a token, `Basic` with encoded `user:password`.
pub(crate) fn authorization(text: &[u8], hit: &Hit, out: &mut Matches) {
    const LONGEST: usize = 4096;
    let rest = text.get(hit.end..).unwrap_or_default();
    let value = rest
        .iter()
        .take(LONGEST)
        .take_while(|byte| url_safe(**byte) || matches!(byte, b'.' | b'+' | b'/' | b'=' | b'~'))
        .count();
    let value = rest.get(..value).unwrap_or_default();
    let basic = text
        .get(hit.start)
        .is_some_and(|first| first.eq_ignore_ascii_case(&b'b'))
        && text
            .get(hit.start + 1)
            .is_some_and(|second| second.eq_ignore_ascii_case(&b'a'));
    let secret = if basic {
        value.len() >= 8
            && STANDARD.decode(value).is_ok_and(|pair| {
                let colon = pair.iter().position(|byte| *byte == b':');
                let shown = pair.iter().all(|byte| !byte.is_ascii_control());
                shown
                    && colon.is_some_and(|at| {
                        at + 1 < pair.len() && !placeholder(pair.get(at + 1..).unwrap_or_default())
                    })
            })
    } else {
        let digit = value.iter().any(u8::is_ascii_digit);
        value.len() >= 16 && digit && distinct(value) >= 8 && !placeholder(value)
    };
    if secret {
        out.add(&HEADER, hit.start, hit.end + value.len());
    }
}

/// `scheme://user:password@host`.
pub(crate) fn address(text: &[u8], hit: &Hit, out: &mut Matches) {
    const LONGEST: usize = 512;
    if !super::before(text, hit.start).is_some_and(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    let rest = text.get(hit.end..).unwrap_or_default();
    let authority = rest
        .iter()
        .take(LONGEST)
        .take_while(|byte| {
            byte.is_ascii_graphic()
                && !matches!(
                    byte,
                    b'/' | b'"' | b'\'' | b'<' | b'>' | b'`' | b'?' | b'\\'
                )
        })
        .count();
    let authority = rest.get(..authority).unwrap_or_default();
    let Some(sign) = authority.iter().rposition(|byte| *byte == b'@') else {
        return;
    };
    let user = authority.get(..sign).unwrap_or_default();
    let Some(colon) = user.iter().position(|byte| *byte == b':') else {
        return;
    };
    let password = user.get(colon + 1..).unwrap_or_default();
    if password.len() >= 3 && !placeholder(password) {
        let scheme = text
            .get(..hit.start)
            .unwrap_or_default()
            .iter()
            .rev()
            .take(16)
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            .count();
        out.add(&ADDRESS, hit.start - scheme, hit.end + sign);
    }
}
