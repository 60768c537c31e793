//! The second reading: text as a person would see it, with an offset back to the original bytes.
//!
//! Invisible characters are dropped, and spaces, dashes, dots, digits and letters that only look
//! different become ASCII. Only the surroundings of such characters are written out, so that plain
//! text costs one pass over its bytes and nothing else. The raw text is scanned as well: folding
//! may glue together what stood apart. Not folded yet: confusable letters of other scripts,
//! spelled-out digits, encodings.

use crate::corpus::{Corpus, SEAM, Segment};

/// Bytes around a folded character that are scanned again: longer than any value and its context.
const AROUND: usize = 160;

/// Folded surroundings of all folded characters.
pub(crate) struct Folded {
    /// What the detectors read.
    pub text: Vec<u8>,
    /// From (byte here) to (byte of the corpus), at every place where the distance changes.
    steps: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Keep,
    Drop,
    Into(u8),
}

/// Folds the corpus; None if there is nothing to fold.
pub(crate) fn fold(corpus: &Corpus) -> Option<Folded> {
    let mut folded = Folded {
        text: Vec::new(),
        steps: Vec::new(),
    };
    let mut windows = Vec::new();
    for segment in corpus.segments() {
        let text = corpus.read(segment);
        windows.clear();
        find(text, &mut windows);
        for &(from, to) in &windows {
            folded.write(text, segment, from, to);
        }
    }
    (!folded.text.is_empty()).then_some(folded)
}

/// Stretches of `text` around what must be folded, merged, in order.
fn find(text: &str, windows: &mut Vec<(usize, usize)>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(step) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| odd(*byte)))
    {
        at += step;
        let Some(found) = text.get(at..).and_then(|rest| rest.chars().next()) else {
            return;
        };
        let next = at + found.len_utf8();
        if matters(change(found), bytes, at, next) {
            let from = text.floor_char_boundary(at.saturating_sub(AROUND));
            let to = text.ceil_char_boundary((next + AROUND).min(text.len()));
            match windows.last_mut() {
                Some(last) if last.1 >= from => last.1 = to,
                _ => windows.push((from, to)),
            }
        }
        at = next;
    }
}

/// Dashes, blanks and points of ordinary typography join or part nothing unless digits or other
/// folded characters stand beside them.
fn matters(change: Change, bytes: &[u8], at: usize, next: usize) -> bool {
    const BESIDE: usize = 4;
    match change {
        Change::Keep => false,
        Change::Into(b'-' | b'.') => {
            let before = bytes.get(at.saturating_sub(BESIDE)..at).unwrap_or_default();
            let behind = bytes
                .get(next..bytes.len().min(next + BESIDE))
                .unwrap_or_default();
            before
                .iter()
                .chain(behind)
                .any(|byte| byte.is_ascii_digit() || *byte >= 0x80)
        }
        Change::Drop | Change::Into(_) => true,
    }
}

/// Bytes of characters that may need folding.
const fn odd(byte: u8) -> bool {
    byte >= 0x7f || (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r'))
}

impl Folded {
    fn write(&mut self, text: &str, segment: &Segment, from: usize, to: usize) {
        let Some(window) = text.get(from..to) else {
            return;
        };
        self.steps.push((self.text.len(), segment.start + from));
        for (at, found) in window.char_indices() {
            let origin = segment.start + from + at;
            match change(found) {
                Change::Keep => {
                    let mut buffer = [0; 4];
                    self.text
                        .extend_from_slice(found.encode_utf8(&mut buffer).as_bytes());
                }
                Change::Drop => {
                    self.steps
                        .push((self.text.len(), origin + found.len_utf8()));
                }
                Change::Into(byte) => {
                    self.steps.push((self.text.len(), origin));
                    self.text.push(byte);
                    self.steps
                        .push((self.text.len(), origin + found.len_utf8()));
                }
            }
        }
        self.text.push(SEAM);
    }

    /// The bytes of the corpus that stand behind a stretch of the folded text.
    pub(crate) fn origin(&self, corpus: &Corpus, start: usize, end: usize) -> (usize, usize) {
        let last = self.back(end.saturating_sub(1).max(start));
        let end = corpus.text().ceil_char_boundary(last + 1);
        (self.back(start), end)
    }

    fn back(&self, at: usize) -> usize {
        let next = self.steps.partition_point(|(here, _)| *here <= at);
        next.checked_sub(1)
            .and_then(|last| self.steps.get(last))
            .map_or(at, |(here, there)| there + (at - here))
    }
}

/// What becomes of one character. Sources: the Unicode character database (general categories Cf,
/// Zs, Pd, Nd; compatibility mappings of the half- and full-width block; default ignorables).
fn change(found: char) -> Change {
    let code = found as u32;
    match code {
        0x09 | 0x0a | 0x0d | 0x20..=0x7e => Change::Keep,
        0x00..=0x1f
        | 0x7f..=0x9f
        | 0xad
        | 0x300..=0x36f
        | 0x61c
        | 0x115f..=0x1160
        | 0x17b4..=0x17b5
        | 0x180b..=0x180f
        | 0x200b..=0x200f
        | 0x202a..=0x202e
        | 0x2060..=0x206f
        | 0x20d0..=0x20ff
        | 0x3164
        | 0xfe00..=0xfe0f
        | 0xfeff
        | 0xffa0
        | 0xfff9..=0xfffb
        | 0xe_0000..=0xe_0fff => Change::Drop,
        0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000 => {
            Change::Into(b' ')
        }
        0x2010..=0x2015 | 0x2043 | 0x2212 | 0xfe58 | 0xfe63 => Change::Into(b'-'),
        0xb7 | 0x2022 | 0x2024 | 0x2027 | 0x22c5 | 0x3002 | 0xfe52 => Change::Into(b'.'),
        0xff01..=0xff5e => ascii(code - 0xff01 + 0x21),
        0x1_d400..=0x1_d7cb => math_letter(code),
        0x1_d7ce..=0x1_d7ff => ascii((code - 0x1_d7ce) % 10 + 0x30),
        _ => digit(code).map_or(Change::Keep, |value| ascii(value + 0x30)),
    }
}

fn ascii(code: u32) -> Change {
    u8::try_from(code).map_or(Change::Keep, Change::Into)
}

/// Mathematical alphabets: thirteen runs of 52 letters. (Greek and dotless letters follow later.)
fn math_letter(code: u32) -> Change {
    if code > 0x1_d6a3 {
        return Change::Keep;
    }
    let letter = (code - 0x1_d400) % 52;
    ascii(if letter < 26 {
        letter + 0x41
    } else {
        letter - 26 + 0x61
    })
}

/// First digits of the decimal digit runs outside ASCII in the Basic Multilingual Plane.
const ZEROS: [u32; 36] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

fn digit(code: u32) -> Option<u32> {
    let next = ZEROS.partition_point(|zero| *zero <= code);
    let zero = ZEROS.get(next.checked_sub(1)?)?;
    (code - zero < 10).then_some(code - zero)
}

#[cfg(test)]
mod tests {
    use super::fold;
    use crate::corpus::{Corpus, Voice};

    fn folded(text: &str) -> Option<(Corpus, String)> {
        let mut corpus = Corpus::new(1 << 20);
        corpus.push("/x", text, Voice::User, None);
        let folded = fold(&corpus)?;
        let read = String::from_utf8(folded.text).expect("text");
        Some((corpus, read.trim_end_matches('\u{1}').to_owned()))
    }

    #[test]
    fn plain_and_accented_text_is_not_written_again() {
        assert!(folded("Grüße aus Łódź, 東京 und Paris.\n\tTab").is_none());
    }

    #[test]
    fn what_looks_like_ascii_becomes_ascii() {
        for (text, seen) in [
            ("4\u{200b}1\u{ad}1\u{2060}1", "4111"),
            ("４１１１", "4111"),
            ("\u{661}\u{6f2}\u{967}", "121"),
            ("𝟒𝟏", "41"),
            ("a\u{a0}b\u{2009}c", "a b c"),
            ("1\u{2013}2\u{2212}3", "1-2-3"),
            ("ｐａｓｓ", "pass"),
            ("𝐩𝐚𝐬𝐬", "pass"),
            ("4\u{1}1", "41"),
            ("x\u{e0041}y", "xy"),
        ] {
            assert_eq!(folded(text).expect("folded").1, seen, "{text:?}");
        }
    }

    #[test]
    fn a_stretch_maps_back_to_whole_original_characters() {
        let text = format!("{}ü４\u{200b}１x", "é".repeat(200));
        let mut corpus = Corpus::new(1 << 20);
        corpus.push("/x", &text, Voice::User, None);
        let folded = fold(&corpus).expect("folded");
        let read = String::from_utf8_lossy(&folded.text).into_owned();
        let at = read.find("41").expect("digits");
        let (start, end) = folded.origin(&corpus, at, at + 2);
        assert_eq!(&corpus.text()[start..end], "４\u{200b}１");
    }
}
