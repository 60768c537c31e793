//! How far words belong together: within one sentence or line, not further than a reach.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};

use super::lexicon::Hit;
use crate::corpus::SEAM;

/// The bytes between two words if the second follows the first within `reach` in one sentence.
/// Overlapping words ("my" in "my diabetes") have nothing between them.
pub(crate) fn between<'a>(
    text: &'a [u8],
    first: &Hit,
    second: &Hit,
    reach: usize,
) -> Option<&'a [u8]> {
    if second.start < first.end || second.start - first.end > reach {
        return None;
    }
    let gap = text.get(first.end..second.start)?;
    let ends = |pair: &[u8]| matches!(pair, [b'.' | b'!' | b'?', b' ' | b'\n']);
    let broken = gap.contains(&SEAM)
        || gap
            .windows(2)
            .enumerate()
            .any(|(at, pair)| ends(pair) && !abbreviated(gap, at));
    (!broken).then_some(gap)
}

/// `Dr. `, `J. `, `geb. `: a point behind up to three letters ends no sentence.
fn abbreviated(gap: &[u8], point: usize) -> bool {
    let word = gap
        .get(..point)
        .unwrap_or_default()
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .count();
    word <= 3 && gap.get(point) == Some(&b'.')
}

/// Up to `reach` bytes of the sentence or line before a position.
pub(crate) fn lead(text: &[u8], at: usize, reach: usize) -> &[u8] {
    let before = text.get(at.saturating_sub(reach)..at).unwrap_or_default();
    let start = before
        .iter()
        .rposition(|byte| matches!(byte, b'.' | b'!' | b'?' | b'\n' | &SEAM))
        .map_or(0, |end| end + 1);
    before.get(start..).unwrap_or_default()
}

/// Up to `reach` bytes of the sentence or line behind a position.
pub(crate) fn behind(text: &[u8], at: usize, reach: usize) -> &[u8] {
    let tail = text.get(at..text.len().min(at + reach)).unwrap_or_default();
    tail.split(|byte| matches!(byte, b'.' | b'!' | b'?' | b'\n' | &SEAM))
        .next()
        .unwrap_or_default()
}

/// Words that change what the words around them mean.
pub(crate) struct Stops(LazyLock<Option<AhoCorasick>, fn() -> Option<AhoCorasick>>);

impl Stops {
    /// An automaton over the words, in any case; built at first use.
    pub(crate) const fn new(build: fn() -> Option<AhoCorasick>) -> Self {
        Self(LazyLock::new(build))
    }

    /// Whether one of the words stands in the bytes.
    pub(crate) fn hold(&self, bytes: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|words| words.is_match(bytes))
    }
}

/// Builds the automaton of [`Stops`].
pub(crate) fn stops(words: &[&[u8]]) -> Option<AhoCorasick> {
    AhoCorasickBuilder::new()
        .ascii_case_insensitive(true)
        .build(words)
        .ok()
}
