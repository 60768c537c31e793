//! Weight formats: from the blocks of a GGUF file to the one block that our kernels multiply.
//!
//! Every type becomes 32 unsigned codes with a scale `d` and a minimum `m`, so that a weight is
//! `d * code + m`. This is exact for Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 and exact up to the rounding
//! of `d` and `m` to half precision for Q4_K and Q5_K; what has no such form (F32, F16, BF16,
//! Q2_K, Q3_K, Q6_K) is dequantized by candle and coded in 8 bits. Layouts follow ggml's
//! `ggml-common.h` and `ggml-quants.c` (facts, not code).
//!
//! It refuses types that candle cannot dequantize: a wrong guess would be noise that looks like a model.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "codes are clamped to their range before they are cut"
)]

use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use half::{bf16, f16};

/// Weights in one block.
pub(super) const BLOCK: usize = 32;

/// What can go wrong with the bytes of a tensor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file uses a type that we cannot read.
    #[error("not supported yet: tensor type {0}")]
    Type(u32),
    /// The number of bytes does not fit the declared shape.
    #[error("tensor of {rows} x {columns} has {bytes} bytes, which does not fit its type")]
    Size {
        /// Declared rows.
        rows: usize,
        /// Declared columns.
        columns: usize,
        /// Bytes found.
        bytes: usize,
    },
    /// candle could not dequantize it.
    #[error("could not dequantize a tensor")]
    Dequantize(#[source] Box<candle_core::Error>),
}

impl Error {
    /// Stable word for logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Type(_) => "TensorTypeNotSupported",
            Self::Size { .. } => "TensorSizeWrong",
            Self::Dequantize(_) => "DequantizeFailed",
        }
    }
}

/// Tensor types we read, by ggml's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type(GgmlDType);

impl Type {
    /// The type with ggml's number `id`.
    pub const fn new(id: u32) -> Result<Self, Error> {
        Ok(Self(match id {
            0 => GgmlDType::F32,
            1 => GgmlDType::F16,
            2 => GgmlDType::Q4_0,
            3 => GgmlDType::Q4_1,
            6 => GgmlDType::Q5_0,
            7 => GgmlDType::Q5_1,
            8 => GgmlDType::Q8_0,
            10 => GgmlDType::Q2K,
            11 => GgmlDType::Q3K,
            12 => GgmlDType::Q4K,
            13 => GgmlDType::Q5K,
            14 => GgmlDType::Q6K,
            30 => GgmlDType::BF16,
            other => return Err(Error::Type(other)),
        }))
    }

    /// The same in candle's words.
    pub const fn ggml(self) -> GgmlDType {
        self.0
    }

    /// Whether all codes fit four bits.
    pub const fn nibbles(self) -> bool {
        matches!(self.0, GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K)
    }

    /// Bytes of one row of `columns` weights.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let block = self.0.block_size();
        columns
            .is_multiple_of(block)
            .then(|| (columns / block).checked_mul(self.0.type_size()))
            .flatten()
    }
}

/// 32 weights: `d * code + m`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Block {
    /// Unsigned codes.
    pub codes: [u8; BLOCK],
    /// Scale.
    pub d: f16,
    /// Minimum.
    pub m: f16,
}

impl Block {
    /// Codes up to 32 values in 8 bits; missing ones are zero.
    fn from_values(values: &[f32]) -> Self {
        let (mut low, mut high) = (0.0f32, 0.0f32);
        for &value in values {
            low = low.min(value);
            high = high.max(value);
        }
        let m = f16::from_f32(low);
        let d = f16::from_f32((high - m.to_f32()).max(0.0) / 255.0);
        let inverse = if d.to_f32() > 0.0 {
            1.0 / d.to_f32()
        } else {
            0.0
        };
        let mut codes = [0; BLOCK];
        for (i, code) in codes.iter_mut().enumerate() {
            let value = values.get(i).copied().unwrap_or(0.0);
            *code = ((value - m.to_f32()) * inverse)
                .round_ties_even()
                .clamp(0.0, 255.0) as u8;
        }
        Self { codes, d, m }
    }
}

/// All values of a tensor as f32.
pub fn dequantize(
    kind: Type,
    bytes: &[u8],
    rows: usize,
    columns: usize,
) -> Result<Vec<f32>, Error> {
    let wrong = || Error::Size {
        rows,
        columns,
        bytes: bytes.len(),
    };
    let expected = kind
        .row_bytes(columns)
        .and_then(|row| row.checked_mul(rows))
        .ok_or_else(wrong)?;
    if expected != bytes.len() {
        return Err(wrong());
    }
    Ok(match kind.0 {
        GgmlDType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        GgmlDType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f32())
            .collect(),
        GgmlDType::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f32())
            .collect(),
        other => {
            let device = candle_core::Device::Cpu;
            qtensor_from_ggml(other, bytes, vec![rows, columns], &device)
                .and_then(|tensor| tensor.dequantize(&device))
                .and_then(|tensor| tensor.flatten_all())
                .and_then(|tensor| tensor.to_vec1::<f32>())
                .map_err(|error| Error::Dequantize(Box::new(error)))?
        }
    })
}

/// The blocks of one row.
pub(super) fn row_blocks(
    kind: Type,
    row: &[u8],
    columns: usize,
    out: &mut Vec<Block>,
) -> Result<(), Error> {
    out.clear();
    match kind.0 {
        GgmlDType::Q4_0 => out.extend(row.as_chunks().0.iter().map(q4_0)),
        GgmlDType::Q4_1 => out.extend(row.as_chunks().0.iter().map(q4_1)),
        GgmlDType::Q5_0 => out.extend(row.as_chunks().0.iter().map(q5_0)),
        GgmlDType::Q5_1 => out.extend(row.as_chunks().0.iter().map(q5_1)),
        GgmlDType::Q8_0 => out.extend(row.as_chunks().0.iter().map(q8_0)),
        GgmlDType::Q4K => row.as_chunks().0.iter().for_each(|block| q4_k(block, out)),
        GgmlDType::Q5K => row.as_chunks().0.iter().for_each(|block| q5_k(block, out)),
        _ => {
            let values = dequantize(kind, row, 1, columns)?;
            out.extend(values.chunks(BLOCK).map(Block::from_values));
        }
    }
    Ok(())
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn split_nibbles(packed: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|i| {
        if i < 16 {
            packed[i] & 15
        } else {
            packed[i - 16] >> 4
        }
    })
}

fn fifth_bits(codes: [u8; BLOCK], high: &[u8]) -> [u8; BLOCK] {
    let bits = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    std::array::from_fn(|i| codes[i] | (((bits >> i) & 1) as u8) << 4)
}

fn q4_0(b: &[u8; 18]) -> Block {
    let d = half_at(b, 0);
    Block {
        codes: split_nibbles(&b[2..]),
        d,
        m: f16::from_f32(-8.0 * d.to_f32()),
    }
}

fn q4_1(b: &[u8; 20]) -> Block {
    Block {
        codes: split_nibbles(&b[4..]),
        d: half_at(b, 0),
        m: half_at(b, 2),
    }
}

fn q5_0(b: &[u8; 22]) -> Block {
    let d = half_at(b, 0);
    Block {
        codes: fifth_bits(split_nibbles(&b[6..]), &b[2..]),
        d,
        m: f16::from_f32(-16.0 * d.to_f32()),
    }
}

fn q5_1(b: &[u8; 24]) -> Block {
    Block {
        codes: fifth_bits(split_nibbles(&b[8..]), &b[4..]),
        d: half_at(b, 0),
        m: half_at(b, 2),
    }
}

fn q8_0(b: &[u8; 34]) -> Block {
    let d = half_at(b, 0);
    Block {
        codes: std::array::from_fn(|i| b[2 + i] ^ 0x80),
        d,
        m: f16::from_f32(-128.0 * d.to_f32()),
    }
}

/// Scale and minimum number `i` of the eight that a K block packs in six bits each.
fn k_scale(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, minimum) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (
            (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4,
            (packed[i + 4] >> 4) | (packed[i] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

fn k_block(b: &[u8], i: usize, codes: [u8; BLOCK]) -> Block {
    let (scale, minimum) = k_scale(&b[4..16], i);
    Block {
        codes,
        d: f16::from_f32(half_at(b, 0).to_f32() * scale),
        m: f16::from_f32(-half_at(b, 2).to_f32() * minimum),
    }
}

fn q4_k(b: &[u8; 144], out: &mut Vec<Block>) {
    for i in 0..8 {
        let packed = &b[16 + 32 * (i / 2)..];
        let codes = std::array::from_fn(|j| (packed[j] >> (4 * (i % 2))) & 15);
        out.push(k_block(b, i, codes));
    }
}

fn q5_k(b: &[u8; 176], out: &mut Vec<Block>) {
    for i in 0..8 {
        let packed = &b[48 + 32 * (i / 2)..];
        let high = &b[16..48];
        let codes =
            std::array::from_fn(|j| (packed[j] >> (4 * (i % 2))) & 15 | ((high[j] >> i) & 1) << 4);
        out.push(k_block(b, i, codes));
    }
}
