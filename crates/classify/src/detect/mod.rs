//! The rules: what is sensitive, found by form, checksum, context and term lists.
//!
//! ```text
//! bytes ─► lexicon (one automaton over all words and prefixes) ─► credential, health, finance, marking
//!       └► digits  (one pass over digits and '@')              ─► card, iban, identity, contact
//! ```
//! Every rule has a fixed level. Nothing here knows JSON, policies or the text's origin; nothing
//! keeps the text. Work is linear in the bytes.

pub(crate) mod card;
pub(crate) mod contact;
pub(crate) mod credential;
pub(crate) mod digits;
pub(crate) mod finance;
pub(crate) mod health;
pub(crate) mod iban;
pub(crate) mod identity;
pub(crate) mod lexicon;
pub(crate) mod marking;
pub(crate) mod secret;
pub(crate) mod sentence;
pub(crate) mod token;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use mesh_core::PrivacyLevel;

use lexicon::{Hit, Sense};

/// Findings of one rule that are kept; further ones add nothing to the level.
const KEPT_PER_RULE: usize = 32;
/// Distinct addresses or numbers that make a list of people.
const BULK: usize = 10;

/// One rule. Its level never depends on what it found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `family/name`.
    pub id: &'static str,
    /// Type of entity.
    pub kind: &'static str,
    /// Level that a finding asks for.
    pub level: PrivacyLevel,
}

/// A stretch of the scanned bytes that a rule found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Match {
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// Who found it.
    pub rule: &'static Rule,
}

/// What the rules found, in one or more readings of the same request.
#[derive(Default)]
pub(crate) struct Matches {
    found: Vec<Match>,
    counts: HashMap<&'static str, usize>,
    emails: HashSet<u64>,
    phones: HashSet<u64>,
}

impl Matches {
    /// Takes a finding.
    pub(crate) fn add(&mut self, rule: &'static Rule, start: usize, end: usize) {
        let count = self.counts.entry(rule.id).or_insert(0);
        *count += 1;
        if *count <= KEPT_PER_RULE {
            self.found.push(Match { start, end, rule });
        }
    }

    /// Takes an e-mail address; many different ones are more than one.
    pub(crate) fn add_email(&mut self, text: &[u8], start: usize, end: usize) {
        self.add(&contact::EMAIL, start, end);
        if bulk(&mut self.emails, text.iter().map(u8::to_ascii_lowercase)) {
            self.add(&contact::EMAIL_BULK, start, end);
        }
    }

    /// Takes a phone number; many different ones are more than one.
    pub(crate) fn add_phone(&mut self, digits: &[u8], start: usize, end: usize) {
        self.add(&contact::PHONE, start, end);
        if bulk(&mut self.phones, digits.iter().copied()) {
            self.add(&contact::PHONE_BULK, start, end);
        }
    }

    /// Gives what was found since the last call, and starts the counts of kept findings anew: the
    /// next reading has other bytes. The sets of distinct addresses go on.
    pub(crate) fn drain(&mut self) -> Vec<Match> {
        self.counts.clear();
        std::mem::take(&mut self.found)
    }
}

/// True when the set reaches the size of a list with this element or has it already.
fn bulk(seen: &mut HashSet<u64>, bytes: impl Iterator<Item = u8>) -> bool {
    if seen.len() >= BULK {
        return true;
    }
    let mut hasher = DefaultHasher::new();
    bytes.for_each(|byte| byte.hash(&mut hasher));
    seen.insert(hasher.finish()) && seen.len() >= BULK
}

/// Runs every rule over the bytes and gives the words that were seen, for the task rules.
pub(crate) fn scan(text: &[u8], out: &mut Matches) -> Vec<Hit> {
    let hits = lexicon::hits(text);
    digits::scan(text, &hits, out);
    let mut terms = health::Terms::default();
    for (index, hit) in hits.iter().enumerate() {
        match hit.sense() {
            Sense::Token(which) => token::check(text, hit, which, out),
            Sense::Pem => credential::pem(text, hit, out),
            Sense::Jwt => credential::jwt(text, hit, out),
            Sense::Authorization => credential::authorization(text, hit, out),
            Sense::Scheme => credential::address(text, hit, out),
            Sense::SecretName => secret::check(text, hit, out),
            Sense::Money => finance::check(text, &hits, index, out),
            Sense::Marking(which) => marking::check(text, hit, which, out),
            Sense::BirthWord => identity::birth(text, hit, out),
            _ => {}
        }
        terms.step(text, &hits, index, out);
    }
    hits
}

/// True for bytes that continue a word: letters, digits, underscore, anything outside ASCII.
pub(crate) const fn wordy(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The byte before a position.
pub(crate) fn before(text: &[u8], at: usize) -> Option<u8> {
    at.checked_sub(1).and_then(|at| text.get(at)).copied()
}

#[cfg(test)]
mod tests;
