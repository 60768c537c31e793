//! Keeps control tokens out of what callers write, through any template.
//!
//! A template is code that mixes its own text with the messages, so afterwards nobody can tell whose `<|im_start|>` stands
//! in the result. Before rendering, every control token's letters inside a message are therefore broken by a marker, a
//! private-use character that occurs in no message; after the search for control tokens the markers are taken out again,
//! and what was broken is encoded as ordinary letters. Trimming, splitting and comparing still work in the template.
//!
//! A message that begins with the tail of a control token, or ends with the head of one, gets a marker there too, so that
//! it cannot complete a token together with the template's text. Templates that could join what was apart (they mention
//! `replace`, `join` and the like) get a marker after every letter that begins a control token.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};

/// Private-use planes 15 and 16, without their last two code points, which are no characters.
const MARKERS: [std::ops::RangeInclusive<char>; 2] =
    ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// Knows the control tokens of a vocabulary.
pub(crate) struct Guard {
    tokens: Vec<String>,
    search: AhoCorasick,
    first_letters: HashSet<char>,
}

impl Guard {
    /// From the texts of all control tokens; `None` if there are too many for one search.
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = &'t str>) -> Option<Self> {
        let tokens: Vec<String> = tokens
            .filter(|token| !token.is_empty())
            .map(str::to_owned)
            .collect();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&tokens)
            .ok()?;
        let first_letters = tokens
            .iter()
            .filter_map(|token| token.chars().next())
            .collect();
        Some(Self {
            tokens,
            search,
            first_letters,
        })
    }

    /// Marks one message. With `everywhere` every possible beginning of a control token is broken.
    pub(super) fn mark(&self, content: &str, marker: char, everywhere: bool) -> String {
        let mut places = BTreeSet::new();
        if everywhere {
            let beginnings = content
                .char_indices()
                .filter(|(_, letter)| self.first_letters.contains(letter));
            places.extend(beginnings.map(|(at, letter)| at + letter.len_utf8()));
        }
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
