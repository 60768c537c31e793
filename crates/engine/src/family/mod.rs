//! Model families: a forward pass each, written against the device layer.

pub mod llama;

use crate::kernel::Span;

/// One step over rows of several sequences.
#[derive(Debug, Default)]
pub struct Batch {
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// Rows of each sequence, in order, without gaps.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, ascending.
    pub sample: Vec<usize>,
}

impl Batch {
    /// Adds consecutive `tokens` of one sequence from `position` on; returns the first row.
    pub fn push(&mut self, tokens: &[u32], position: usize, table: &[u32]) -> usize {
        let first = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.spans.push(Span {
            rows: first..self.tokens.len(),
            position,
            table: table.to_vec(),
        });
        first
    }
}
