//! Work on rows of activations: normalization, coding in 8 bits, gating, rotation.
#![expect(
    clippy::inline_always,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "kernel bodies must be inlined into each instruction set and keep plain loops, which stay in registers; numbers are small"
)]

use super::isa::vectorized;
use super::matrix::Precision;
use super::pack::BLOCK;

/// f32 activations, `[rows][width]`, in memory that is kept between steps.
#[derive(Debug, Default)]
pub struct Rows {
    data: Vec<f32>,
    width: usize,
}

impl Rows {
    /// Makes room for `rows` rows of `width`; what they hold is unspecified.
    pub fn reset(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.data.resize(rows * width, 0.0);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Values per row.
    pub const fn width(&self) -> usize {
        self.width
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }

    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.width..(i + 1) * self.width]
    }

    pub(super) fn all_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

/// How finely the inputs of a coded product are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// 8 bits per value.
    Coarse,
    /// 15 bits per value in two bytes: twice the arithmetic, next to no loss.
    Fine,
}

/// The input of a matrix product: f32, or codes per 32 values with scale and scaled sum.
#[derive(Debug)]
pub struct Inputs {
    precision: Precision,
    detail: Detail,
    rows: usize,
    width: usize,
    blocks: usize,
    pub(super) float: Vec<f32>,
    pub(super) codes: Vec<[i8; BLOCK]>,
    /// Second bytes, where the detail is fine: a value is `scale * (128 * code + low)`.
    pub(super) low: Vec<[i8; BLOCK]>,
    /// Per block: scale, and scale times sum of codes.
    pub(super) scales: Vec<[f32; 2]>,
}

impl Inputs {
    /// Empty inputs of the given precision.
    pub const fn new(precision: Precision) -> Self {
        Self {
            precision,
            detail: Detail::Coarse,
            rows: 0,
            width: 0,
            blocks: 0,
            float: Vec::new(),
            codes: Vec::new(),
            low: Vec::new(),
            scales: Vec::new(),
        }
    }

    /// Makes room for `rows` rows of `width`.
    pub fn reset(&mut self, rows: usize, width: usize, detail: Detail) {
        self.detail = detail;
        self.rows = rows;
        self.width = width;
        self.blocks = width.div_ceil(BLOCK);
        match self.precision {
            Precision::Float => self.float.resize(rows * width, 0.0),
            Precision::Coded => {
                self.codes.resize(rows * self.blocks, [0; BLOCK]);
                let low = if detail == Detail::Fine {
                    rows * self.blocks
                } else {
                    0
                };
                self.low.resize(low, [0; BLOCK]);
                self.scales.resize(rows * self.blocks, [0.0; 2]);
            }
        }
    }

    /// Number of rows.
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) const fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) const fn width(&self) -> usize {
        self.width
    }

    /// The chosen rows as f32 inputs: what a product reads of them.
    pub(super) fn choose(&self, rows: &[usize], out: &mut Self) {
        out.reset(rows.len(), self.width, self.detail);
        for (&row, out) in rows.iter().zip(out.float.chunks_exact_mut(self.width)) {
            match self.precision {
                Precision::Float => {
                    out.copy_from_slice(&self.float[row * self.width..(row + 1) * self.width]);
                }
                Precision::Coded => self.decode(row, out),
            }
        }
    }

    fn decode(&self, row: usize, out: &mut [f32]) {
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let at = row * self.blocks + block;
            let [scale, _] = self.scales[at];
            let low = self.low.get(at);
            for (i, out) in out.iter_mut().enumerate() {
                let code = i32::from(self.codes[at][i]);
                let value = low.map_or(code, |low| 128 * code + i32::from(low[i]));
                *out = scale * value as f32;
            }
        }
    }

    /// One mutable view per row.
    pub(super) fn rows_mut(&mut self) -> Vec<InputRow<'_>> {
        match self.precision {
            Precision::Float => self
                .float
                .chunks_exact_mut(self.width)
                .map(InputRow::Float)
                .collect(),
            Precision::Coded => {
                let mut low = self.low.chunks_exact_mut(self.blocks);
                self.codes
                    .chunks_exact_mut(self.blocks)
                    .zip(self.scales.chunks_exact_mut(self.blocks))
                    .map(|(codes, scales)| {
                        InputRow::Coded(codes, low.next().unwrap_or(&mut []), scales)
                    })
                    .collect()
            }
        }
    }
}

/// Where one row of inputs goes.
pub(super) enum InputRow<'a> {
    Float(&'a mut [f32]),
    Coded(
        &'a mut [[i8; BLOCK]],
        &'a mut [[i8; BLOCK]],
        &'a mut [[f32; 2]],
    ),
}

const LANES: usize = 16;

/// Sum in 16 lanes and then pairwise: the same order on every machine.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

vectorized! {
    /// Root-mean-square normalization of `row` times `weight` into `out`.
    pub(super) fn rms_norm(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = chunk[i].mul_add(chunk[i], lanes[i]);
        }
    }
    for i in 0..rest.len() {
        lanes[i] = rest[i].mul_add(rest[i], lanes[i]);
    }
    let scale = 1.0 / (reduce(lanes) / row.len() as f32 + epsilon).sqrt();
    let width = row.len();
    let (weight, out) = (&weight[..width], &mut out[..width]);
    for i in 0..width {
        out[i] = row[i] * scale * weight[i];
    }
}

vectorized! {
    /// Codes `row` per 32 values, in 8 bits or, where `low` is not empty, in 15; a last short block is
    /// filled with zeros.
    pub(super) fn code(row: &[f32], codes: &mut [[i8; BLOCK]], low: &mut [[i8; BLOCK]], scales: &mut [[f32; 2]]) = code_body
}

#[inline(always)]
fn code_body(
    row: &[f32],
    codes: &mut [[i8; BLOCK]],
    low: &mut [[i8; BLOCK]],
    scales: &mut [[f32; 2]],
) {
    let (full, rest) = row.as_chunks::<BLOCK>();
    for block in 0..full.len() {
        scales[block] = match low.get_mut(block) {
            Some(low) => code_fine(&full[block], &mut codes[block], low),
            None => code_coarse(&full[block], &mut codes[block]),
        };
    }
    if !rest.is_empty() {
        let mut values = [0.0; BLOCK];
        values[..rest.len()].copy_from_slice(rest);
        let block = full.len();
        scales[block] = match low.get_mut(block) {
            Some(low) => code_fine(&values, &mut codes[block], low),
            None => code_coarse(&values, &mut codes[block]),
        };
    }
}

/// The scale that gives the largest of `values` the code `top`, and its inverse.
#[inline(always)]
fn scale(values: &[f32; BLOCK], top: f32) -> (f32, f32) {
    let mut largest = [0.0f32; LANES];
    for i in 0..LANES {
        largest[i] = values[i].abs().max(values[i + LANES].abs());
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            largest[i] = largest[i].max(largest[i + width]);
        }
        width /= 2;
    }
    let scale = largest[0] / top;
    (scale, if scale > 0.0 { 1.0 / scale } else { 0.0 })
}

#[inline(always)]
fn code_coarse(values: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> [f32; 2] {
    let (scale, inverse) = scale(values, 127.0);
    let mut sum = 0i32;
    for i in 0..BLOCK {
        let rounded = (values[i] * inverse).round_ties_even() as i32;
        sum += rounded;
        codes[i] = rounded as i8;
    }
    [scale, scale * sum as f32]
}

#[inline(always)]
fn code_fine(values: &[f32; BLOCK], codes: &mut [i8; BLOCK], low: &mut [i8; BLOCK]) -> [f32; 2] {
    let (scale, inverse) = scale(values, 16_256.0);
    let mut sum = 0i32;
    for i in 0..BLOCK {
        let rounded = (values[i] * inverse).round_ties_even() as i32;
        let high = (rounded + 64) >> 7;
        sum += rounded;
        codes[i] = high as i8;
        low[i] = (rounded - (high << 7)) as i8;
    }
    [scale, scale * sum as f32]
}

/// e to the power of `x` within 2 units in the last place, for vector registers: 2^n times a
/// polynomial (the Taylor terms to degree 6 on |r| <= ln 2 / 2, n and r by Cody and Waite's split).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it rounds to a whole number and leaves that number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.0f32 / 720.0;
    p = p.mul_add(r, 1.0 / 120.0);
    p = p.mul_add(r, 1.0 / 24.0);
    p = p.mul_add(r, 1.0 / 6.0);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    p * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

vectorized! {
    /// `out = silu(gate) * up`.
    pub(super) fn silu_gate(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_gate_body
}

#[inline(always)]
fn silu_gate_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let width = out.len();
    let (gate, up) = (&gate[..width], &up[..width]);
    for i in 0..width {
        out[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
    }
}

/// Rotates the leading pairs of each head of `row` by the angles whose cosine and sine are given.
pub(super) fn rotate(row: &mut [f32], head: usize, angles: &[[f32; 2]]) {
    for head in row.chunks_exact_mut(head) {
        for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
            *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
        }
    }
}
