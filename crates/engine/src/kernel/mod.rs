//! The device layer: buffers and the operations of a forward pass.
//!
//! Above this module nobody sees a CPU slice: a family is written against [`Device`], [`Matrix`],
//! [`Rows`], [`Inputs`] and [`KvStore`], so that another device is another variant here. What is
//! `unsafe` in this crate is in `isa` and `x86`, each block with its proof.
//!
//! Every operation computes a row from that row alone, in one fixed order: results do not depend on
//! the batch, on the number of threads, or on the instruction set.

mod attention;
mod isa;
mod low_rank;
mod matrix;
mod pack;
mod product;
mod rows;
mod x86;

#[cfg(test)]
mod tests;

use rayon::prelude::*;

pub use attention::{KvStore, MAX_HEAD, Shape, Span, TOKENS};
pub use isa::Isa;
pub use low_rank::{Between, LowRank};
pub use matrix::{Matrix, PANEL, Precision};
pub use pack::{Error, Type, dequantize};
pub use rows::{Detail, Inputs, Rows};

/// Where a model computes.
#[derive(Debug)]
pub enum Device {
    /// The processor.
    Cpu(Cpu),
}

/// The processor: its instructions and a pool of threads that sleep when idle.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    pool: Option<rayon::ThreadPool>,
}

/// One row per position: cosine and sine of each pair of a head.
#[derive(Debug, Default)]
pub struct Angles {
    values: Vec<[f32; 2]>,
    pairs: usize,
}

impl Angles {
    /// Angles of `positions` for the frequencies of the pairs.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "positions are below 2^24, sine and cosine are wanted in f32"
    )]
    pub fn set(&mut self, positions: impl Iterator<Item = usize>, frequencies: &[f64]) {
        self.pairs = frequencies.len();
        self.values.clear();
        for position in positions {
            self.values.extend(frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                [cos as f32, sin as f32]
            }));
        }
    }

    fn row(&self, i: usize) -> &[[f32; 2]] {
        &self.values[i * self.pairs..(i + 1) * self.pairs]
    }
}

/// What happens to a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Replaces the destination.
    Set,
    /// Is added to the destination.
    Add,
}

/// Columns of the fused query, key and value product.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// First column of the keys.
    pub key: usize,
    /// First column of the values.
    pub value: usize,
}

impl Device {
    /// The processor with `threads` threads.
    pub fn cpu(threads: usize, isa: Isa) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = (threads > 1)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|i| format!("engine-{i}"))
                    .build()
            })
            .transpose()?;
        Ok(Self::Cpu(Cpu { isa, pool }))
    }

    /// Name for start-up messages.
    pub const fn name(&self) -> &'static str {
        let Self::Cpu(cpu) = self;
        cpu.isa.name()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        let Self::Cpu(cpu) = self;
        cpu.pool
            .as_ref()
            .map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Runs `work` where the operations find their threads: one entry for a whole forward pass.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let Self::Cpu(cpu) = self;
        match &cpu.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    const fn parts(&self) -> (Isa, bool) {
        let Self::Cpu(cpu) = self;
        (cpu.isa, cpu.pool.is_some())
    }

    /// Writes the embedding of each token to its row.
    #[expect(clippy::unused_self, reason = "another device will need itself here")]
    pub fn embed(&self, table: &Matrix, tokens: &[u32], out: &mut Rows) {
        out.reset(tokens.len(), table.columns());
        for (i, &token) in tokens.iter().enumerate() {
            table.row(token as usize, out.row_mut(i));
        }
    }

    /// Normalizes the rows `select` of `rows` (all where `None`) into inputs of a product.
    pub fn norm(
        &self,
        rows: &Rows,
        select: Option<&[usize]>,
        (weight, epsilon): (&[f32], f32),
        detail: Detail,
        out: &mut Inputs,
    ) {
        out.reset(
            select.map_or(rows.len(), <[usize]>::len),
            rows.width(),
            detail,
        );
        let (isa, _) = self.parts();
        self.fill(out, |i, scratch| {
            let row = select.map_or(i, |select| select[i]);
            rows::rms_norm(isa, rows.row(row), weight, epsilon, scratch);
        });
    }

    /// `silu(gate) * up` of a fused product into inputs; `up` is the first column of the second half.
    pub fn gate(&self, fused: &Rows, up: usize, width: usize, detail: Detail, out: &mut Inputs) {
        out.reset(fused.len(), width, detail);
        let (isa, _) = self.parts();
        self.fill(out, |i, scratch| {
            let row = fused.row(i);
            rows::silu_gate(isa, &row[..width], &row[up..up + width], scratch);
        });
    }

    /// Rows as they are into inputs of a product.
    pub fn inputs(&self, rows: &Rows, detail: Detail, out: &mut Inputs) {
        out.reset(rows.len(), rows.width(), detail);
        self.fill(out, |i, scratch| scratch.copy_from_slice(rows.row(i)));
    }

    fn fill(&self, out: &mut Inputs, make: impl Fn(usize, &mut [f32]) + Sync) {
        let (isa, parallel) = self.parts();
        let width = out.width();
        let one = |scratch: &mut Vec<f32>, i: usize, row: rows::InputRow<'_>| match row {
            rows::InputRow::Float(out) => make(i, out),
            rows::InputRow::Coded(codes, low, scales) => {
                scratch.resize(width, 0.0);
                make(i, scratch);
                rows::code(isa, scratch, codes, low, scales);
            }
        };
        let rows = out.rows_mut();
        if parallel && rows.len() >= 16 {
            rows.into_par_iter()
                .enumerate()
                .with_min_len(8)
                .for_each_init(Vec::new, |s, (i, row)| one(s, i, row));
        } else {
            let mut scratch = Vec::new();
            rows.into_iter()
                .enumerate()
                .for_each(|(i, row)| one(&mut scratch, i, row));
        }
    }

    /// `out = inputs * matrix` or `out += inputs * matrix`, `[row][matrix.width()]`.
    ///
    /// `scratch` holds the results panel by panel; with `Add`, `out` may be narrower than the padded
    /// width of the matrix.
    pub fn product(
        &self,
        inputs: &Inputs,
        matrix: &Matrix,
        write: Write,
        scratch: &mut Panels,
        out: &mut Rows,
    ) {
        let (isa, parallel) = self.parts();
        debug_assert_eq!(inputs.precision() == Precision::Float, matrix.is_float());
        let rows = inputs.len();
        scratch.0.resize(rows * matrix.panels().len(), [0.0; PANEL]);
        product::panels(isa, parallel, matrix.panels(), inputs, &mut scratch.0);
        if write == Write::Set {
            out.reset(rows, matrix.width());
        }
        let width = out.width();
        let scratch = &scratch.0;
        let collect = |(i, out): (usize, &mut [f32])| {
            for (panel, out) in out.chunks_mut(PANEL).enumerate() {
                let from = &scratch[panel * rows + i];
                match write {
                    Write::Set => out.copy_from_slice(&from[..out.len()]),
                    Write::Add => out.iter_mut().zip(from).for_each(|(out, x)| *out += x),
                }
            }
        };
        if parallel && rows >= 16 {
            out.all_mut()
                .par_chunks_mut(width)
                .enumerate()
                .with_min_len(8)
                .for_each(collect);
        } else {
            out.all_mut()
                .chunks_mut(width)
                .enumerate()
                .for_each(collect);
        }
    }

    /// Adds a bias to every row.
    #[expect(clippy::unused_self, reason = "another device will need itself here")]
    pub fn bias(&self, bias: &[f32], out: &mut Rows) {
        for i in 0..out.len() {
            out.row_mut(i)
                .iter_mut()
                .zip(bias)
                .for_each(|(x, bias)| *x += bias);
        }
    }

    /// Rotates queries and keys of the fused rows and stores keys and values in the cache.
    #[expect(clippy::unused_self, reason = "another device will need itself here")]
    pub fn remember(
        &self,
        layer: usize,
        angles: &Angles,
        columns: Columns,
        spans: &[Span],
        fused: &mut Rows,
        kv: &mut KvStore,
    ) {
        let shape = kv.shape();
        for span in spans {
            for (i, row) in span.rows.clone().enumerate() {
                let position = span.position + i;
                let values = fused.row_mut(row);
                rows::rotate(
                    &mut values[..shape.heads * shape.head],
                    shape.head,
                    angles.row(row),
                );
                let keys = columns.key..columns.key + shape.kv_heads * shape.head;
                rows::rotate(&mut values[keys.clone()], shape.head, angles.row(row));
                let block = span.table[position / TOKENS];
                kv.store(
                    layer,
                    block,
                    position % TOKENS,
                    &values[keys],
                    &values[columns.value..],
                );
            }
        }
    }

    /// Attention of the rows of `fused` over the cache into `out`, `[row][heads * head]`.
    pub fn attend(&self, layer: usize, kv: &KvStore, spans: &[Span], fused: &Rows, out: &mut Rows) {
        let shape = kv.shape();
        out.reset(fused.len(), shape.heads * shape.head);
        attention::attend(self.parts(), layer, kv, spans, fused, out);
    }

    /// Row `i` as values of the host.
    #[expect(clippy::unused_self, reason = "another device will need itself here")]
    pub fn read<'a>(&self, rows: &'a Rows, i: usize) -> &'a [f32] {
        rows.row(i)
    }
}

/// Results of a product before they are put in rows; kept between steps.
#[derive(Debug, Default)]
pub struct Panels(Vec<[f32; PANEL]>);
