//! Matrix products: inputs times the panels of a [`Matrix`].
//!
//! A row's result never depends on the other rows of the batch: every kernel walks the blocks of
//! one row in the same order, whatever the number of rows, and integer sums are exact. So one
//! request gives the same bits alone, in a batch, in one chunk or in many.
#![expect(
    clippy::inline_always,
    clippy::cast_precision_loss,
    reason = "kernel bodies must be inlined into each instruction set and keep plain loops, which stay in registers; numbers are small"
)]

use rayon::prelude::*;

use super::isa::{Isa, Level, vectorized};
use super::matrix::{Line, NARROW, PANEL, Panel, WIDE};
use super::pack::BLOCK;
use super::rows::Inputs;

/// Rows that one kernel call carries in registers.
pub(super) const TILE: usize = 8;

/// The coded inputs of up to [`TILE`] rows.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    pub codes: &'a [[i8; BLOCK]],
    /// Second bytes; empty where the inputs are coarse.
    pub low: &'a [[i8; BLOCK]],
    pub scales: &'a [[f32; 2]],
    pub blocks: usize,
}

/// Results of one panel for all rows.
pub(super) fn panel(isa: Isa, panel: &Panel, inputs: &Inputs, out: &mut [[f32; PANEL]]) {
    match panel {
        Panel::Float(weights) => {
            for (rows, out) in inputs
                .float
                .chunks(TILE * inputs.width())
                .zip(out.chunks_mut(TILE))
            {
                float_rows(isa, weights, rows, out);
            }
        }
        Panel::Wide(lines) => coded_panel(isa, lines, true, inputs, out),
        Panel::Narrow(lines) => coded_panel(isa, lines, false, inputs, out),
    }
}

fn coded_panel(isa: Isa, lines: &[Line], wide: bool, inputs: &Inputs, out: &mut [[f32; PANEL]]) {
    let blocks = inputs.blocks();
    let codes = inputs.codes.chunks(TILE * blocks);
    let scales = inputs.scales.chunks(TILE * blocks);
    let mut low = inputs.low.chunks(TILE * blocks);
    for ((codes, scales), out) in codes.zip(scales).zip(out.chunks_mut(TILE)) {
        let inputs = Coded {
            codes,
            low: low.next().unwrap_or(&[]),
            scales,
            blocks,
        };
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => super::x86::coded_rows_avx512(isa, lines, wide, inputs, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => super::x86::coded_rows_avx2(isa, lines, wide, inputs, out),
            Level::Portable => coded_rows(lines, wide, inputs, out),
        }
    }
}

/// The definition of the coded product; the vector kernels must give the same bits.
pub(super) fn coded_rows(lines: &[Line], wide: bool, inputs: Coded<'_>, out: &mut [[f32; PANEL]]) {
    let size = if wide { WIDE } else { NARROW };
    for (row, out) in out.iter_mut().enumerate() {
        let blocks = row * inputs.blocks..(row + 1) * inputs.blocks;
        let mut sums = [0.0f32; PANEL];
        for (record, block) in lines.chunks_exact(size).zip(blocks) {
            let [scale, total] = inputs.scales[block];
            for (lane, sum) in sums.iter_mut().enumerate() {
                let mut dot = dot(record, wide, lane, &inputs.codes[block]);
                if let Some(low) = inputs.low.get(block) {
                    dot = (dot << 7) + self::dot(record, wide, lane, low);
                }
                let (d, m) = (
                    record[size - 1].half(lane),
                    record[size - 1].half(PANEL + lane),
                );
                *sum = (d * scale).mul_add(dot as f32, *sum);
                *sum = m.mul_add(total, *sum);
            }
        }
        *out = sums;
    }
}

fn dot(record: &[Line], wide: bool, lane: usize, codes: &[i8; BLOCK]) -> i32 {
    let weight = |i: usize| {
        let at = 4 * lane + i % 4;
        match (wide, i < 16) {
            (true, _) => record[i / 4].0[at],
            (false, true) => record[i / 4].0[at] & 15,
            (false, false) => record[i / 4 - 4].0[at] >> 4,
        }
    };
    codes
        .iter()
        .enumerate()
        .map(|(i, code)| i32::from(weight(i)) * i32::from(*code))
        .sum()
}

vectorized! {
    /// f32 products of up to [`TILE`] rows with one panel.
    fn float_rows(weights: &[[f32; PANEL]], rows: &[f32], out: &mut [[f32; PANEL]]) = float_rows_body
}

#[inline(always)]
fn float_rows_body(weights: &[[f32; PANEL]], rows: &[f32], out: &mut [[f32; PANEL]]) {
    let (width, mut row) = (weights.len(), 0);
    while row + 4 <= out.len() {
        float_tile::<4>(
            weights,
            &rows[row * width..(row + 4) * width],
            &mut out[row..row + 4],
        );
        row += 4;
    }
    while row < out.len() {
        float_tile::<1>(
            weights,
            &rows[row * width..(row + 1) * width],
            &mut out[row..=row],
        );
        row += 1;
    }
}

#[inline(always)]
fn float_tile<const N: usize>(weights: &[[f32; PANEL]], rows: &[f32], out: &mut [[f32; PANEL]]) {
    let mut sums = [[0.0f32; PANEL]; N];
    for i in 0..weights.len() {
        for n in 0..N {
            let x = rows[n * weights.len() + i];
            for lane in 0..PANEL {
                sums[n][lane] = weights[i][lane].mul_add(x, sums[n][lane]);
            }
        }
    }
    out[..N].copy_from_slice(&sums);
}

/// All panels, in parallel where the calling thread belongs to a pool; `out` is `[panel][row]`.
pub(super) fn panels(
    isa: Isa,
    parallel: bool,
    list: &[Panel],
    inputs: &Inputs,
    out: &mut [[f32; PANEL]],
) {
    let rows = inputs.len();
    let work = |(weights, out): (&Panel, &mut [[f32; PANEL]])| panel(isa, weights, inputs, out);
    if parallel {
        // A few panels per task: fine enough for uneven cores, coarse enough to cost nothing.
        let least = (list.len() / 32).clamp(1, 64);
        list.par_iter()
            .zip(out.par_chunks_exact_mut(rows))
            .with_min_len(least)
            .for_each(work);
    } else {
        list.iter().zip(out.chunks_exact_mut(rows)).for_each(work);
    }
}
