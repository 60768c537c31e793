//! Weights in the layout of the kernels: panels of 16 output rows.
//!
//! A panel interleaves 16 rows so that one 64-byte line holds four neighboring weights of each of
//! them: the shape that the integer dot products of x86 eat. A coded block of a panel is 8 lines of
//! codes (4 where codes fit four bits: low nibbles are groups 0 to 3, high nibbles groups 4 to 7),
//! then one line with 16 scales and 16 minima in half precision.
//!
//! Dimensions that are not multiples of 16 and 32 are padded with zeros.

use half::f16;

use super::pack::{self, BLOCK, Block, Type};

/// Output rows in one panel.
pub const PANEL: usize = 16;

/// 64 aligned bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

impl Line {
    const ZERO: Self = Self([0; 64]);

    /// Half `i` of the 32 that the line holds.
    pub(super) fn half(&self, i: usize) -> f32 {
        f16::from_le_bytes([self.0[2 * i], self.0[2 * i + 1]]).to_f32()
    }

    fn set_half(&mut self, i: usize, value: f16) {
        self.0[2 * i..2 * i + 2].copy_from_slice(&value.to_le_bytes());
    }
}

/// 16 output rows.
#[derive(Debug)]
pub(super) enum Panel {
    /// 8-bit codes, 9 lines per block.
    Wide(Box<[Line]>),
    /// 4-bit codes, 5 lines per block.
    Narrow(Box<[Line]>),
    /// f32 weights: `[column][row]`.
    Float(Box<[[f32; PANEL]]>),
}

/// Lines per block of a wide panel.
pub(super) const WIDE: usize = 9;
/// Lines per block of a narrow panel.
pub(super) const NARROW: usize = 5;

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Codes of 4 or 8 bits, activations in 8 bits.
    Coded,
    /// f32 weights and activations.
    Float,
}

/// One or several weight matrices that read the same input, `[outputs][inputs]` each.
#[derive(Debug)]
pub struct Matrix {
    panels: Vec<Panel>,
    parts: Vec<(usize, usize)>,
    columns: usize,
}

impl Matrix {
    /// An empty matrix that reads `columns` inputs.
    pub const fn new(columns: usize) -> Self {
        Self {
            panels: Vec::new(),
            parts: Vec::new(),
            columns,
        }
    }

    /// Appends the tensor `bytes` of `rows` outputs as the next part.
    pub fn push(
        &mut self,
        kind: Type,
        bytes: &[u8],
        rows: usize,
        precision: Precision,
    ) -> Result<(), pack::Error> {
        let wrong = || pack::Error::Size {
            rows,
            columns: self.columns,
            bytes: bytes.len(),
        };
        let row_bytes = kind.row_bytes(self.columns).ok_or_else(wrong)?;
        if row_bytes == 0 || row_bytes.checked_mul(rows) != Some(bytes.len()) {
            return Err(wrong());
        }
        self.parts.push((self.panels.len() * PANEL, rows));
        for panel in bytes.chunks(row_bytes * PANEL) {
            self.panels.push(match precision {
                Precision::Float => float_panel(kind, panel, row_bytes, self.columns)?,
                Precision::Coded => coded_panel(kind, panel, row_bytes, self.columns)?,
            });
        }
        Ok(())
    }

    /// Inputs.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Outputs with padding: the width of a row of results.
    pub fn width(&self) -> usize {
        self.panels.len() * PANEL
    }

    /// First output and number of outputs of part `i`.
    pub fn part(&self, i: usize) -> (usize, usize) {
        self.parts[i]
    }

    pub(super) fn is_float(&self) -> bool {
        matches!(self.panels.first(), Some(Panel::Float(_)))
    }

    pub(super) fn panels(&self) -> &[Panel] {
        &self.panels
    }

    /// Writes the weights of output `row` (the embedding of a token) to `out`.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        let lane = row % PANEL;
        match &self.panels[row / PANEL] {
            Panel::Float(data) => out
                .iter_mut()
                .zip(data)
                .for_each(|(out, column)| *out = column[lane]),
            Panel::Wide(lines) => read_lane(lines.as_chunks::<WIDE>().0, lane, out),
            Panel::Narrow(lines) => read_lane(lines.as_chunks::<NARROW>().0, lane, out),
        }
    }
}

fn read_lane<const SIZE: usize>(records: &[[Line; SIZE]], lane: usize, out: &mut [f32]) {
    for (out, record) in out.chunks_mut(BLOCK).zip(records) {
        let scales = &record[SIZE - 1];
        let (d, m) = (scales.half(lane), scales.half(PANEL + lane));
        for (i, out) in out.iter_mut().enumerate() {
            let code = match (SIZE == WIDE, i < 16) {
                (true, _) => record[i / 4].0[4 * lane + i % 4],
                (false, true) => record[i / 4].0[4 * lane + i % 4] & 15,
                (false, false) => record[i / 4 - 4].0[4 * lane + i % 4] >> 4,
            };
            *out = d * f32::from(code) + m;
        }
    }
}

fn float_panel(
    kind: Type,
    bytes: &[u8],
    row_bytes: usize,
    columns: usize,
) -> Result<Panel, pack::Error> {
    let rows = bytes.len() / row_bytes;
    let values = pack::dequantize(kind, bytes, rows, columns)?;
    let mut data = vec![[0.0; PANEL]; columns];
    for (row, values) in values.chunks_exact(columns).enumerate() {
        for (column, value) in data.iter_mut().zip(values) {
            column[row] = *value;
        }
    }
    Ok(Panel::Float(data.into_boxed_slice()))
}

fn coded_panel(
    kind: Type,
    bytes: &[u8],
    row_bytes: usize,
    columns: usize,
) -> Result<Panel, pack::Error> {
    let blocks = columns.div_ceil(BLOCK);
    let narrow = kind.nibbles();
    let size = if narrow { NARROW } else { WIDE };
    let mut lines = vec![Line::ZERO; blocks * size];
    let mut row_blocks: Vec<Block> = Vec::with_capacity(blocks);
    for (lane, row) in bytes.chunks_exact(row_bytes).enumerate() {
        pack::row_blocks(kind, row, columns, &mut row_blocks)?;
        for (block, record) in row_blocks.iter().zip(lines.chunks_exact_mut(size)) {
            place(block, lane, narrow, record);
        }
    }
    let lines = lines.into_boxed_slice();
    Ok(if narrow {
        Panel::Narrow(lines)
    } else {
        Panel::Wide(lines)
    })
}

fn place(block: &Block, lane: usize, narrow: bool, record: &mut [Line]) {
    for (i, &code) in block.codes.iter().enumerate() {
        let at = 4 * lane + i % 4;
        if narrow {
            record[i / 4 % 4].0[at] |= if i < 16 { code } else { code << 4 };
        } else {
            record[i / 4].0[at] = code;
        }
    }
    let last = record.len() - 1;
    record[last].set_half(lane, block.d);
    record[last].set_half(PANEL + lane, block.m);
}
