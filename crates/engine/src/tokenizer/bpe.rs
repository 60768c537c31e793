//! Merging of bytes into tokens by rank: the byte-pair encoding of GPT-2.
//!
//! The pair with the lowest rank is merged first, the leftmost of equals first, until no ranked pair is left. A heap of
//! candidates over a linked list makes that O(n log n): a megabyte without a space costs milliseconds, not hours.
//! Keeps no cache of words: what callers write stays in their request.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What two neighbors become, and how early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merge {
    pub(super) rank: u32,
    pub(super) id: u32,
}

/// Tokens of single bytes and the merges between tokens.
pub(super) struct Bpe {
    /// Token of each byte. Vocabularies may lack bytes that never occur in UTF-8; such bytes are dropped, as the
    /// reference implementations do.
    pub(super) bytes: [Option<u32>; 256],
    pub(super) merges: HashMap<(u32, u32), Merge>,
    /// Pieces that are a token as they stand, whatever the merges say (Llama 3).
    pub(super) whole: Option<HashMap<Box<[u8]>, u32>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: Option<usize>,
    next: Option<usize>,
    alive: bool,
}

impl Bpe {
    /// Appends the tokens of one pre-tokenized piece.
    pub(super) fn encode(&self, piece: &[u8], into: &mut Vec<u32>) {
        if let Some(&id) = self.whole.as_ref().and_then(|whole| whole.get(piece)) {
            into.push(id);
            return;
        }
        let mut symbols: Vec<Symbol> = Vec::with_capacity(piece.len());
        for id in piece
            .iter()
            .filter_map(|&byte| self.bytes.get(usize::from(byte)).copied().flatten())
        {
            let at = symbols.len();
            symbols.push(Symbol {
                id,
                previous: at.checked_sub(1),
                next: Some(at + 1),
                alive: true,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        self.merge(&mut symbols);
        into.extend(
            symbols
                .iter()
                .filter(|symbol| symbol.alive)
                .map(|symbol| symbol.id),
        );
    }

    fn merge(&self, symbols: &mut [Symbol]) {
        let mut candidates: BinaryHeap<Reverse<(Merge, usize)>> = (0..symbols.len())
            .filter_map(|at| Some(Reverse((self.candidate(symbols, at)?, at))))
            .collect();
        while let Some(Reverse((merge, at))) = candidates.pop() {
            // A candidate is stale once one of its two has been merged away.
            if self.candidate(symbols, at) != Some(merge) {
                continue;
            }
            let Some(right) = symbols[at].next else {
                continue;
            };
            let after = symbols[right].next;
            symbols[right].alive = false;
            symbols[at].id = merge.id;
            symbols[at].next = after;
            if let Some(after) = after {
                symbols[after].previous = Some(at);
            }
            for neighbor in [symbols[at].previous, Some(at)].into_iter().flatten() {
                candidates.extend(
                    self.candidate(symbols, neighbor)
                        .map(|merge| Reverse((merge, neighbor))),
                );
            }
        }
    }

    /// The merge of the living symbol `at` with its right neighbor.
    fn candidate(&self, symbols: &[Symbol], at: usize) -> Option<Merge> {
        let left = symbols.get(at).filter(|symbol| symbol.alive)?;
        let right = symbols.get(left.next?)?;
        self.merges.get(&(left.id, right.id)).copied()
    }
}
