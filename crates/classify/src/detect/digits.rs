//! One pass over the bytes that finds every group of digits and every `@`, and asks the rules that
//! start from them. A chain is a list of digit groups with at most three separators between two.

use super::lexicon::Hit;
use super::{Matches, card, contact, iban, identity};

/// Separator bytes between two groups of one chain, at most.
const MAX_GAP: usize = 3;

/// A group of digits without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// First digit.
    pub start: usize,
    /// First byte after the last digit.
    pub end: usize,
}

impl Group {
    /// Number of digits.
    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }
}

/// A chain with its surroundings.
pub(crate) struct Chain<'a> {
    /// The scanned bytes.
    pub text: &'a [u8],
    /// Words of the text.
    pub hits: &'a [Hit],
    /// Groups in order; never empty.
    pub groups: &'a [Group],
}

const fn separates(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'-' | b'.' | b'\t' | b'/' | b'(' | b')' | b'_' | b',' | b'\n' | b'\r'
    )
}

/// True for what separates the lines and entries of a list: a card number may be broken there, a phone
/// number is not.
const fn lists(byte: u8) -> bool {
    matches!(byte, b',' | b'\n' | b'\r')
}

/// Runs the rules for numbers and addresses.
pub(crate) fn scan(text: &[u8], hits: &[Hit], out: &mut Matches) {
    let mut groups = Vec::new();
    let mut at = 0;
    while let Some(step) = next_spot(text, at) {
        at = step;
        if text.get(at) == Some(&b'@') {
            contact::email(text, at, out);
            at += 1;
            continue;
        }
        at = collect(text, at, &mut groups);
        let chain = Chain {
            text,
            hits,
            groups: &groups,
        };
        check(&chain, out);
    }
}

fn next_spot(text: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?
        .iter()
        .position(|byte| byte.is_ascii_digit() || *byte == b'@')
        .map(|step| from + step)
}

/// Collects the chain that begins at `at`; gives the first byte after it.
fn collect(text: &[u8], mut at: usize, groups: &mut Vec<Group>) -> usize {
    groups.clear();
    loop {
        let length = text.get(at..).map_or(0, |rest| {
            rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
        });
        groups.push(Group {
            start: at,
            end: at + length,
        });
        at += length;
        let gap = text.get(at..).map_or(0, |rest| {
            rest.iter().take_while(|byte| separates(**byte)).count()
        });
        let more = text.get(at + gap).is_some_and(u8::is_ascii_digit);
        if gap == 0 || gap > MAX_GAP || !more {
            return at;
        }
        at += gap;
    }
}

fn check(chain: &Chain<'_>, out: &mut Matches) {
    for group in chain.groups {
        iban::check(chain.text, group.start, out);
    }
    let digits: usize = chain.groups.iter().map(Group::len).sum();
    if digits < 7 {
        return;
    }
    card::check(chain, out);
    let mut rest = chain.groups;
    while !rest.is_empty() {
        let together = entry(chain.text, rest);
        let (groups, others) = rest.split_at(together);
        rest = others;
        let digits: usize = groups.iter().map(Group::len).sum();
        if digits >= 7 {
            let entry = Chain { groups, ..*chain };
            identity::ssn(&entry, out);
            contact::phone(&entry, digits, out);
        }
    }
}

/// How many of the first groups belong to one entry of a list.
fn entry(text: &[u8], groups: &[Group]) -> usize {
    let ends = |pair: &[Group]| match pair {
        [one, next] => text
            .get(one.end..next.start)
            .is_some_and(|gap| gap.iter().any(|byte| lists(*byte))),
        _ => false,
    };
    groups
        .windows(2)
        .position(ends)
        .map_or(groups.len(), |last| last + 1)
}
