//! Attention over the paged cache: grouped queries, online softmax, one pass.
//!
//! Keys of a block are kept `[dimension][token]` and values `[token][dimension]`, so that both
//! products run along registers without sums across lanes. Blocks are aligned to positions, and a
//! query walks them from the first to its own, so its result depends on nothing else in the batch.
#![expect(
    clippy::inline_always,
    clippy::needless_range_loop,
    clippy::cast_precision_loss,
    reason = "kernel bodies must be inlined into each instruction set and keep plain loops, which stay in registers; numbers are small"
)]

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::isa::{Isa, vectorized};
use super::matrix::Precision;
use super::rows::{Rows, exp};

/// Positions in one cache block.
pub const TOKENS: usize = 32;

/// Widest head we serve; a bound for what a file may ask.
pub const MAX_HEAD: usize = 512;

/// Shape of the attention of one model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
}

impl Shape {
    const fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Keys and values of all layers in blocks of [`TOKENS`] positions.
#[derive(Debug)]
pub struct KvStore {
    layers: Vec<Plane>,
    shape: Shape,
}

#[derive(Debug)]
enum Plane {
    Half(Vec<f16>),
    Float(Vec<f32>),
}

impl KvStore {
    /// Room for `blocks` blocks in each of `layers` layers.
    pub fn new(layers: usize, blocks: usize, shape: Shape, precision: Precision) -> Self {
        let size = blocks * shape.kv_heads * 2 * shape.head * TOKENS;
        let plane = || match precision {
            // Zeroed allocations of this size are pages that the system gives on first touch.
            Precision::Coded => Plane::Half(vec![f16::ZERO; size]),
            Precision::Float => Plane::Float(vec![0.0; size]),
        };
        Self {
            layers: (0..layers).map(|_| plane()).collect(),
            shape,
        }
    }

    /// Bytes of one block over all layers.
    pub const fn block_bytes(layers: usize, shape: Shape, precision: Precision) -> usize {
        let value = match precision {
            Precision::Coded => 2,
            Precision::Float => 4,
        };
        layers * shape.kv_heads * 2 * shape.head * TOKENS * value
    }

    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    fn at(&self, block: u32, head: usize) -> std::ops::Range<usize> {
        let size = 2 * self.shape.head * TOKENS;
        let start = (block as usize * self.shape.kv_heads + head) * size;
        start..start + size
    }

    /// Stores key and value of one position.
    pub(super) fn store(
        &mut self,
        layer: usize,
        block: u32,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let width = self.shape.head;
        for head in 0..self.shape.kv_heads {
            let range = self.at(block, head);
            let (key, value) = (
                &key[head * width..][..width],
                &value[head * width..][..width],
            );
            match &mut self.layers[layer] {
                Plane::Half(data) => put(&mut data[range], slot, key, value, to_half),
                Plane::Float(data) => put(&mut data[range], slot, key, value, |x| x),
            }
        }
    }

    /// Keys `[dimension][token]` and values `[token][dimension]` of one block and head as f32.
    fn load<'a>(
        &'a self,
        layer: usize,
        block: u32,
        head: usize,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], &'a [f32]) {
        let range = self.at(block, head);
        let all = match &self.layers[layer] {
            Plane::Float(data) => &data[range],
            Plane::Half(data) => {
                data[range].convert_to_f32_slice(scratch);
                &*scratch
            }
        };
        all.split_at(self.shape.head * TOKENS)
    }
}

/// Out-of-range values stay finite: an infinity would spread to rows that give it no weight.
fn to_half(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

fn put<T>(block: &mut [T], slot: usize, key: &[f32], value: &[f32], convert: impl Fn(f32) -> T) {
    let width = key.len();
    let (keys, values) = block.split_at_mut(width * TOKENS);
    for (column, key) in keys.chunks_exact_mut(TOKENS).zip(key) {
        column[slot] = convert(*key);
    }
    for (out, value) in values[slot * width..].iter_mut().zip(value) {
        *out = convert(*value);
    }
}

/// Rows of one sequence in a batch: consecutive positions.
#[derive(Debug, Clone)]
pub struct Span {
    /// Rows of the batch.
    pub rows: std::ops::Range<usize>,
    /// Position of the first row.
    pub position: usize,
    /// Cache blocks of the sequence from position 0 on.
    pub table: Vec<u32>,
}

/// Queries that share the loads of a block.
const QUERIES: usize = 4;
/// Rows per task: the conversion of a block to f32 is shared by so many rows.
const TASK_ROWS: usize = 16;

/// Consecutive rows of one sequence and the heads that one task computes.
struct Task<'a> {
    span: &'a Span,
    /// First row within the span.
    row: usize,
    /// Key-value heads.
    heads: std::ops::Range<usize>,
    /// `[row][query heads of `heads`]`.
    out: &'a mut [f32],
}

/// Attention of all rows: `queries` holds `[heads * head]` in the first columns of its rows, `out` is
/// `[row][heads * head]`; keys and values of the rows are already stored.
pub(super) fn attend(
    (isa, parallel): (Isa, bool),
    layer: usize,
    kv: &KvStore,
    spans: &[Span],
    queries: &Rows,
    out: &mut Rows,
) {
    let shape = kv.shape;
    let width = shape.heads * shape.head;
    let mut tasks = Vec::new();
    let mut rest = out.all_mut();
    for span in spans {
        let (mine, after) = rest.split_at_mut(span.rows.len() * width);
        rest = after;
        if span.rows.len() == 1 {
            let groups = mine.chunks_mut(shape.group() * shape.head).enumerate();
            tasks.extend(groups.map(|(head, out)| Task {
                span,
                row: 0,
                heads: head..head + 1,
                out,
            }));
        } else {
            let chunks = mine.chunks_mut(TASK_ROWS * width).enumerate();
            tasks.extend(chunks.map(|(i, out)| Task {
                span,
                row: i * TASK_ROWS,
                heads: 0..shape.kv_heads,
                out,
            }));
        }
    }
    let work = |mut task: Task<'_>| run(isa, layer, kv, queries, &mut task);
    if parallel && tasks.len() > 1 {
        tasks.into_par_iter().for_each(work);
    } else {
        tasks.into_iter().for_each(work);
    }
}

/// The queries of one task and key-value head, with what they carry from block to block.
#[derive(Default)]
struct Queries {
    /// `[query][head]`, scaled.
    values: Vec<f32>,
    /// Position of each query.
    positions: Vec<usize>,
    /// Per query: largest score and sum of weights so far.
    running: Vec<[f32; 2]>,
    /// `[query][head]`: weighted sum of values so far.
    sums: Vec<f32>,
}

fn run(isa: Isa, layer: usize, kv: &KvStore, queries: &Rows, task: &mut Task<'_>) {
    let (shape, group) = (kv.shape, kv.shape.group());
    let width = task.heads.len() * group * shape.head;
    let rows = task.out.len() / width;
    let scale = 1.0 / (shape.head as f32).sqrt();
    let first = task.span.position + task.row;
    let mut scratch = vec![0.0; 2 * shape.head * TOKENS];
    let mut state = Queries::default();
    for (i, head) in task.heads.clone().enumerate() {
        state.values.clear();
        state.positions.clear();
        for row in 0..rows {
            let query =
                &queries.row(task.span.rows.start + task.row + row)[head * group * shape.head..];
            state
                .values
                .extend(query[..group * shape.head].iter().map(|x| x * scale));
            state
                .positions
                .extend(std::iter::repeat_n(first + row, group));
        }
        state.running.clear();
        state.running.resize(rows * group, [f32::NEG_INFINITY, 0.0]);
        state.sums.clear();
        state.sums.resize(rows * group * shape.head, 0.0);
        let blocks = (first + rows).div_ceil(TOKENS);
        for (block, &id) in task.span.table.iter().enumerate().take(blocks) {
            let (keys, values) = kv.load(layer, id, head, &mut scratch);
            step(isa, block * TOKENS, keys, values, &mut state);
        }
        for row in 0..rows {
            let out = &mut task.out[row * width + i * group * shape.head..][..group * shape.head];
            let sums = &state.sums[row * group * shape.head..];
            for (query, (out, sums)) in out
                .chunks_mut(shape.head)
                .zip(sums.chunks(shape.head))
                .enumerate()
            {
                let inverse = 1.0 / state.running[row * group + query][1];
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, sum)| *out = sum * inverse);
            }
        }
    }
}

vectorized! {
    /// Takes one block, whose first position is `start`, into the running sums of all queries.
    fn step(start: usize, keys: &[f32], values: &[f32], state: &mut Queries) = step_body
}

#[inline(always)]
fn step_body(start: usize, keys: &[f32], values: &[f32], state: &mut Queries) {
    let head = keys.len() / TOKENS;
    let mut at = 0;
    while at + QUERIES <= state.positions.len() {
        tile::<QUERIES>(start, keys, values, state, at, head);
        at += QUERIES;
    }
    while at < state.positions.len() {
        tile::<1>(start, keys, values, state, at, head);
        at += 1;
    }
}

#[inline(always)]
fn tile<const N: usize>(
    start: usize,
    keys: &[f32],
    values: &[f32],
    state: &mut Queries,
    at: usize,
    head: usize,
) {
    // Positions that each query may see in this block.
    let valid: [usize; N] = std::array::from_fn(|n| {
        (state.positions[at + n] + 1)
            .saturating_sub(start)
            .min(TOKENS)
    });
    let last = valid.iter().copied().fold(0, usize::max);
    if last == 0 {
        return;
    }
    let mut weights = [[0.0f32; TOKENS]; N];
    scores(
        keys,
        &state.values[at * head..(at + N) * head],
        &mut weights,
    );
    let mut shrink = [1.0f32; N];
    for n in 0..N {
        shrink[n] = soften(&mut weights[n], valid[n], &mut state.running[at + n]);
    }
    let sums = &mut state.sums[at * head..(at + N) * head];
    let values = &values[..last * head];
    let mut column = 0;
    while column + 32 <= head {
        gather::<N, 32>(values, &weights, shrink, sums, column, head);
        column += 32;
    }
    while column + 8 <= head {
        gather::<N, 8>(values, &weights, shrink, sums, column, head);
        column += 8;
    }
    while column < head {
        gather::<N, 1>(values, &weights, shrink, sums, column, head);
        column += 1;
    }
}

#[inline(always)]
fn scores<const N: usize>(keys: &[f32], queries: &[f32], out: &mut [[f32; TOKENS]; N]) {
    let mut scores = [[0.0f32; TOKENS]; N];
    let columns = keys.as_chunks::<TOKENS>().0;
    let head = columns.len();
    let queries = &queries[..N * head];
    for i in 0..head {
        for n in 0..N {
            let x = queries[n * head + i];
            for token in 0..TOKENS {
                scores[n][token] = columns[i][token].mul_add(x, scores[n][token]);
            }
        }
    }
    *out = scores;
}

/// Turns the scores of one query into weights, updates its largest score and sum, and returns by how
/// much earlier sums shrink.
#[inline(always)]
fn soften(scores: &mut [f32; TOKENS], valid: usize, running: &mut [f32; 2]) -> f32 {
    if valid == 0 {
        *scores = [0.0; TOKENS];
        return 1.0;
    }
    for token in 0..TOKENS {
        scores[token] = if token < valid {
            scores[token]
        } else {
            f32::NEG_INFINITY
        };
    }
    let [largest, sum] = *running;
    let mut lanes = *scores;
    let mut width = TOKENS / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    let top = larger(largest, lanes[0]);
    let shrink = if sum > 0.0 { exp(largest - top) } else { 0.0 };
    for token in 0..TOKENS {
        scores[token] = exp(scores[token] - top);
    }
    for token in 0..TOKENS {
        scores[token] = if token < valid { scores[token] } else { 0.0 };
    }
    let mut lanes = *scores;
    let mut width = TOKENS / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    *running = [top, sum.mul_add(shrink, lanes[0])];
    shrink
}

/// One vector instruction, unlike `f32::max`, which must also handle what is not a number.
#[inline(always)]
const fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn gather<const N: usize, const W: usize>(
    values: &[f32],
    weights: &[[f32; TOKENS]; N],
    shrink: [f32; N],
    sums: &mut [f32],
    column: usize,
    head: usize,
) {
    // Starts from zero and joins the earlier sums at the end: so the compiler keeps it in registers.
    let mut out = [[0.0f32; W]; N];
    let tokens = (values.len() / head).min(TOKENS);
    for token in 0..tokens {
        let Some(row) = values[token * head + column..].first_chunk::<W>() else {
            return;
        };
        for n in 0..N {
            let weight = weights[n][token];
            for i in 0..W {
                out[n][i] = row[i].mul_add(weight, out[n][i]);
            }
        }
    }
    for n in 0..N {
        let sums = &mut sums[n * head + column..][..W];
        for i in 0..W {
            sums[i] = sums[i].mul_add(shrink[n], out[n][i]);
        }
    }
}
