//! Keeps control tokens out of what callers write, through any template.
//!
//! A template is code that mixes its own text with the messages, so afterwards nobody can tell whose `<|im_start|>` stands
//! in the result. Before rendering, every control token's letters inside a message are therefore broken by a marker, a
//! private-use character that occurs in no message; after the search for control tokens the markers are taken out again,
//! and what was broken is encoded as ordinary letters. Trimming, splitting and comparing still work in the template.
//!
//! A message that begins with the tail of a control token, or ends with the head of one, gets a marker there too, so that
//! it cannot complete a token together with the template's text. Templates that could join what was apart (they mention
//! `replace`, `join` and the like) get a marker after every letter that begins a control token. Where the template's own
//! text ends in the head of a control token (`<` before a message), every letter that would go on with it is marked: the
//! middle of a token is then never a message's.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};

/// Private-use planes 15 and 16, without their last two code points, which are no characters.
const MARKERS: [std::ops::RangeInclusive<char>; 2] =
    ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// Knows the control tokens of a vocabulary.
pub(crate) struct Guard {
    /// Sorted.
    tokens: Vec<String>,
    search: AhoCorasick,
    first_letters: HashSet<char>,
    /// Bytes of the longest token.
    longest: usize,
}

impl Guard {
    /// From the texts of all control tokens; `None` if there are too many for one search.
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = &'t str>) -> Option<Self> {
        let mut tokens: Vec<String> = tokens
            .filter(|token| !token.is_empty())
            .map(str::to_owned)
            .collect();
        tokens.sort_unstable();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&tokens)
            .ok()?;
        let first_letters = tokens
            .iter()
            .filter_map(|token| token.chars().next())
            .collect();
        let longest = tokens.iter().map(String::len).max().unwrap_or_default();
        Some(Self {
            tokens,
            search,
            first_letters,
            longest,
        })
    }

    /// Letters that go on with a control token whose head ends a stretch of a template's own text.
    pub(super) fn continuations(&self, source: &str) -> HashSet<char> {
        let edges = ["{{", "{%", "{#", "'", "\""];
        let mut letters = HashSet::new();
        for (at, _) in edges.iter().flat_map(|edge| source.match_indices(edge)) {
            // `{{-` takes the white space before it away.
            for end in [at, source[..at].trim_end().len()] {
                let text = &source[..end];
                let heads = text
                    .char_indices()
                    .rev()
                    .take_while(|(from, _)| end - from < self.longest)
                    .filter(|(_, letter)| self.first_letters.contains(letter))
                    .map(|(from, _)| &text[from..]);
                letters.extend(heads.flat_map(|head| self.after(head)));
            }
        }
        letters
    }

    /// What follows `head` in the tokens that begin with it and go on.
    fn after(&self, head: &str) -> impl Iterator<Item = char> {
        let from = self.tokens.partition_point(|token| token.as_str() < head);
        let begins = self.tokens[from..]
            .iter()
            .take_while(move |token| token.starts_with(head));
        begins.filter_map(move |token| token[head.len()..].chars().next())
    }

    /// Marks one message. With `everywhere` every possible beginning of a control token is broken; every
    /// letter in `continuations` is.
    pub(super) fn mark(
        &self,
        content: &str,
        marker: char,
        everywhere: bool,
        continuations: &HashSet<char>,
    ) -> String {
        let broken = |letter: &char| {
            continuations.contains(letter) || everywhere && self.first_letters.contains(letter)
        };
        let mut places: BTreeSet<usize> = content
            .char_indices()
            .filter(|(_, letter)| broken(letter))
            .map(|(at, letter)| at + letter.len_utf8())
            .collect();
        for found in self.search.find_overlapping_iter(content) {
            let first = content[found.start()..]
                .chars()
                .next()
                .map_or(0, char::len_utf8);
            places.insert(found.start() + first);
        }
        let inner = content.trim_start();
        if self
            .tokens
            .iter()
            .any(|token| inner_boundaries(token).any(|at| inner.starts_with(&token[at..])))
        {
            places.insert(content.len() - inner.len());
        }
        let inner = content.trim_end();
        if self
            .tokens
            .iter()
            .any(|token| inner_boundaries(token).any(|at| inner.ends_with(&token[..at])))
        {
            places.insert(inner.len());
        }
        insert(content, &places, marker)
    }
}

/// A character that none of the texts has, so that taking it out afterwards takes nothing of theirs.
pub(super) fn free_marker<'t>(texts: impl Iterator<Item = &'t str>) -> Option<char> {
    let private = |letter: &char| MARKERS.iter().any(|range| range.contains(letter));
    let used: HashSet<char> = texts.flat_map(str::chars).filter(private).collect();
    MARKERS
        .into_iter()
        .flatten()
        .find(|letter| !used.contains(letter))
}

/// Takes the markers out again.
pub(super) fn unmark(text: &str, marker: char) -> Cow<'_, str> {
    if text.contains(marker) {
        Cow::Owned(text.replace(marker, ""))
    } else {
        Cow::Borrowed(text)
    }
}

/// Places between two characters of a token.
fn inner_boundaries(token: &str) -> impl Iterator<Item = usize> {
    token.char_indices().map(|(at, _)| at).skip(1)
}

fn insert(content: &str, places: &BTreeSet<usize>, marker: char) -> String {
    let mut result = String::with_capacity(content.len() + places.len() * marker.len_utf8());
    let mut start = 0;
    for &place in places {
        result.push_str(&content[start..place]);
        result.push(marker);
        start = place;
    }
    result.push_str(&content[start..]);
    result
}
