//! Keys and values in blocks on a device, and attention over them.
//!
//! A step holds rows of two sorts: one row of each sequence that generates, which are attended to
//! together, padded to the longest, and stretches of prompts, each by itself.

use candle_core::{DType, Device, Result, Tensor};

use crate::family::Batch;
use crate::kernel::{Shape, Span, TOKENS};

/// Keys and values of one layer, a row per position of a block.
#[derive(Debug)]
pub(super) struct Store {
    keys: Tensor,
    values: Tensor,
}

impl Store {
    pub(super) fn new(size: (usize, usize), dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            keys: Tensor::zeros(size, dtype, device)?,
            values: Tensor::zeros(size, dtype, device)?,
        })
    }
}

/// Sequences that generate one token each.
struct Decode {
    /// Rows of the batch.
    rows: Tensor,
    count: usize,
    longest: usize,
    /// Places of all positions, `longest` for each sequence.
    places: Tensor,
    /// Minus infinity where a sequence is shorter.
    mask: Tensor,
}

/// A stretch of one prompt.
struct Stretch {
    first: usize,
    rows: usize,
    length: usize,
    places: Tensor,
    /// Minus infinity where a position would look ahead.
    mask: Tensor,
}

/// What all layers of a step need to know.
pub(super) struct Plan {
    dtype: DType,
    cos: Tensor,
    sin: Tensor,
    /// Place of each row in the cache, once for every column.
    targets: Tensor,
    decode: Option<Decode>,
    stretches: Vec<Stretch>,
    /// From the order of computation to that of the batch; `None` if they are the same.
    order: Option<Tensor>,
}

/// A number of rows or places for a device.
pub(super) fn index(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(candle_core::Error::wrap)
}

fn place(span: &Span, position: usize) -> Result<u32> {
    index(span.table[position / TOKENS] as usize * TOKENS + position % TOKENS)
}

impl Plan {
    pub(super) fn new(
        batch: &Batch,
        frequencies: &[f64],
        width: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let rows = batch.tokens.len();
        let mut targets = Vec::with_capacity(rows);
        for span in &batch.spans {
            for position in span.position..span.position + span.rows.len() {
                targets.push(place(span, position)?);
            }
        }
        let (cos, sin) = angles(batch, frequencies, device)?;
        let (single, several): (Vec<&Span>, Vec<&Span>) =
            batch.spans.iter().partition(|span| span.rows.len() == 1);
        let decode = (!single.is_empty())
            .then(|| Decode::new(&single, device))
            .transpose()?;
        let stretches = several
            .iter()
            .map(|span| Stretch::new(span, device))
            .collect::<Result<_>>()?;
        let computed: Vec<usize> = single
            .iter()
            .chain(&several)
            .flat_map(|span| span.rows.clone())
            .collect();
        Ok(Self {
            dtype,
            cos,
            sin,
            targets: Tensor::from_vec(targets, (rows, 1), device)?
                .broadcast_as((rows, width))?
                .contiguous()?,
            decode,
            stretches,
            order: order(&computed, device)?,
        })
    }

    /// Turns neighboring pairs of every head by the angles of its position.
    pub(super) fn rotate(&self, rows: &Tensor, heads: usize) -> Result<Tensor> {
        let (count, width) = rows.dims2()?;
        let head = width / heads;
        let rotated = 2 * self.cos.dim(1)?;
        let by_head = rows.reshape((1, count, heads, head))?.transpose(1, 2)?;
        let turned = if rotated == head {
            candle_nn::rotary_emb::rope_i(&by_head.contiguous()?, &self.cos, &self.sin)?
        } else {
            let turning = by_head.narrow(3, 0, rotated)?.contiguous()?;
            let turned = candle_nn::rotary_emb::rope_i(&turning, &self.cos, &self.sin)?;
            Tensor::cat(&[&turned, &by_head.narrow(3, rotated, head - rotated)?], 3)?
        };
        turned
            .transpose(1, 2)?
            .contiguous()?
            .reshape((count, width))
    }

    /// Stores keys and values of all rows.
    pub(super) fn remember(&self, store: &Store, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (into, rows) in [(&store.keys, keys), (&store.values, values)] {
            let rows = rows.to_dtype(self.dtype)?.contiguous()?;
            into.scatter_set(&self.targets, &rows, 0)?;
        }
        Ok(())
    }

    /// Attention of `queries`, `[row][heads * head]`.
    pub(super) fn attend(&self, store: &Store, queries: &Tensor, shape: Shape) -> Result<Tensor> {
        let scale = 1.0 / f64::sqrt(f64::from(index(shape.head)?));
        let queries = (queries * scale)?.to_dtype(self.dtype)?;
        let mut parts = Vec::with_capacity(self.stretches.len() + 1);
        if let Some(decode) = &self.decode {
            parts.push(decode.attend(store, &queries, shape, self.dtype)?);
        }
        for stretch in &self.stretches {
            parts.push(stretch.attend(store, &queries, shape, self.dtype)?);
        }
        let all = Tensor::cat(&parts, 0)?;
        let all = match &self.order {
            Some(order) => all.index_select(order, 0)?,
            None => all,
        };
        all.to_dtype(DType::F32)
    }
}

/// For each row of the batch, where it was computed.
fn order(computed: &[usize], device: &Device) -> Result<Option<Tensor>> {
    if computed.is_sorted() {
        return Ok(None);
    }
    let mut inverse = vec![0; computed.len()];
    for (at, &row) in computed.iter().enumerate() {
        inverse[row] = index(at)?;
    }
    Tensor::from_vec(inverse, computed.len(), device).map(Some)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "positions are below 2^24, sine and cosine are wanted in f32"
)]
fn angles(batch: &Batch, frequencies: &[f64], device: &Device) -> Result<(Tensor, Tensor)> {
    let size = (batch.tokens.len(), frequencies.len());
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for span in &batch.spans {
        for position in span.position..span.position + span.rows.len() {
            for frequency in frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
    }
    Ok((
        Tensor::from_vec(cos, size, device)?,
        Tensor::from_vec(sin, size, device)?,
    ))
}

impl Decode {
    fn new(spans: &[&Span], device: &Device) -> Result<Self> {
        let count = spans.len();
        let longest = spans
            .iter()
            .map(|span| span.position + 1)
            .max()
            .unwrap_or(1);
        let mut places = Vec::with_capacity(count * longest);
        let mut mask = Vec::with_capacity(count * longest);
        for span in spans {
            for position in 0..longest {
                let there = position <= span.position;
                places.push(place(span, if there { position } else { 0 })?);
                mask.push(if there { 0_f32 } else { f32::NEG_INFINITY });
            }
        }
        let rows: Vec<u32> = spans
            .iter()
            .map(|span| index(span.rows.start))
            .collect::<Result<_>>()?;
        Ok(Self {
            rows: Tensor::from_vec(rows, count, device)?,
            count,
            longest,
            places: Tensor::from_vec(places, count * longest, device)?,
            mask: Tensor::from_vec(mask, (count, 1, 1, longest), device)?,
        })
    }

    fn attend(
        &self,
        store: &Store,
        queries: &Tensor,
        shape: Shape,
        dtype: DType,
    ) -> Result<Tensor> {
        let (kv, head) = (shape.kv_heads, shape.head);
        let group = shape.heads / kv;
        let queries = queries
            .index_select(&self.rows, 0)?
            .reshape((self.count, kv, group, head))?;
        let gather = |all: &Tensor| {
            all.index_select(&self.places, 0)?
                .reshape((self.count, self.longest, kv, head))
        };
        // [sequence][kv head][head][position] and [sequence][kv head][position][head]
        let keys = gather(&store.keys)?.permute((0, 2, 3, 1))?.contiguous()?;
        let values = gather(&store.values)?.transpose(1, 2)?.contiguous()?;
        let scores = queries.matmul(&keys)?.to_dtype(DType::F32)?;
        let shares = super::softmax(&scores.broadcast_add(&self.mask)?)?;
        shares
            .to_dtype(dtype)?
            .matmul(&values)?
            .reshape((self.count, shape.heads * head))
    }
}

impl Stretch {
    fn new(span: &Span, device: &Device) -> Result<Self> {
        let rows = span.rows.len();
        let length = span.position + rows;
        let places: Vec<u32> = (0..length)
            .map(|position| place(span, position))
            .collect::<Result<_>>()?;
        let ahead = |row: usize, position: usize| position > span.position + row;
        let mask: Vec<f32> = (0..rows)
            .flat_map(|row| (0..length).map(move |position| (row, position)))
            .map(|(row, position)| {
                if ahead(row, position) {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        Ok(Self {
            first: span.rows.start,
            rows,
            length,
            places: Tensor::from_vec(places, length, device)?,
            mask: Tensor::from_vec(mask, (1, 1, rows, length), device)?,
        })
    }

    fn attend(
        &self,
        store: &Store,
        queries: &Tensor,
        shape: Shape,
        dtype: DType,
    ) -> Result<Tensor> {
        let (kv, head) = (shape.kv_heads, shape.head);
        let group = shape.heads / kv;
        let queries = queries
            .narrow(0, self.first, self.rows)?
            .reshape((self.rows, kv, group, head))?
            .permute((1, 2, 0, 3))?
            .contiguous()?
            .reshape((kv, group * self.rows, head))?;
        let gather = |all: &Tensor| {
            all.index_select(&self.places, 0)?
                .reshape((self.length, kv, head))
        };
        let keys = gather(&store.keys)?.permute((1, 2, 0))?.contiguous()?;
        let values = gather(&store.values)?.transpose(0, 1)?.contiguous()?;
        let scores = queries.matmul(&keys)?.to_dtype(DType::F32)?.reshape((
            kv,
            group,
            self.rows,
            self.length,
        ))?;
        let shares = super::softmax(&scores.broadcast_add(&self.mask)?)?.reshape((
            kv,
            group * self.rows,
            self.length,
        ))?;
        shares
            .to_dtype(dtype)?
            .matmul(&values)?
            .reshape((kv, group, self.rows, head))?
            .permute((2, 0, 1, 3))?
            .contiguous()?
            .reshape((self.rows, shape.heads * head))
    }
}
