//! Coded products with the integer dot products of x86.
//!
//! Same bits as [`super::product::coded_rows`]: the integer part is exact and the f32 part fuses and
//! orders as written there. The only unsafe code besides the dispatch of `isa`: loads and stores
//! through pointers that come from references of exactly the loaded size, and calls of functions
//! whose instructions an [`Isa`] proves.
#![cfg(target_arch = "x86_64")]
#![expect(
    unsafe_code,
    reason = "vector loads and target features have no safe form for these types"
)]

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_srli_epi16,
    _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi16, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_hadd_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps,
    _mm256_permute4x64_epi64, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_add_epi32, _mm512_and_si512,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512,
    _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
};

use super::isa::Isa;
use super::matrix::{Line, NARROW, PANEL, WIDE};
use super::pack::BLOCK;
use super::product::{Coded, TILE};

/// Up to [`TILE`] rows with AVX-512 VNNI.
pub(super) fn coded_rows_avx512(
    _proof: Isa,
    lines: &[Line],
    wide: bool,
    inputs: Coded<'_>,
    out: &mut [[f32; PANEL]],
) {
    // SAFETY: the caller matched the level of an Isa, which only exists where the features do.
    unsafe {
        match (wide, inputs.low.is_empty()) {
            (true, true) => tiles_512::<WIDE, false>(lines, inputs, out),
            (true, false) => tiles_512::<WIDE, true>(lines, inputs, out),
            (false, true) => tiles_512::<NARROW, false>(lines, inputs, out),
            (false, false) => tiles_512::<NARROW, true>(lines, inputs, out),
        }
    }
}

fn after(inputs: Coded<'_>, rows: usize) -> Coded<'_> {
    let skip = rows * inputs.blocks;
    Coded {
        codes: &inputs.codes[skip..],
        low: inputs.low.get(skip..).unwrap_or(&[]),
        scales: &inputs.scales[skip..],
        blocks: inputs.blocks,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn tiles_512<const SIZE: usize, const FINE: bool>(
    lines: &[Line],
    inputs: Coded<'_>,
    out: &mut [[f32; PANEL]],
) {
    if out.len() == TILE {
        return rows_512::<TILE, SIZE, FINE>(lines, inputs, out);
    }
    let mut row = 0;
    if out.len() >= 4 {
        rows_512::<4, SIZE, FINE>(lines, inputs, &mut out[..4]);
        row = 4;
    }
    while row < out.len() {
        rows_512::<1, SIZE, FINE>(lines, after(inputs, row), &mut out[row..=row]);
        row += 1;
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn line(line: &Line) -> __m512i {
    // SAFETY: a Line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512((&raw const line.0).cast()) }
}

/// 16 halves from the lower (`at` 0) or upper (`at` 1) half of a line.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(line: &Line, at: usize) -> __m512 {
    let (parts, _) = line.0.as_chunks::<32>();
    // SAFETY: a chunk is 32 bytes and the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256((&raw const parts[at]).cast()) })
}

/// Codes of a block as eight registers of unsigned bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn weights<const SIZE: usize>(record: &[Line; SIZE]) -> [__m512i; 8] {
    let mask = _mm512_set1_epi8(15);
    let mut out = [_mm512_setzero_si512(); 8];
    for i in 0..8 {
        out[i] = if SIZE == WIDE {
            line(&record[i])
        } else if i < 4 {
            _mm512_and_si512(line(&record[i]), mask)
        } else {
            _mm512_and_si512(_mm512_srli_epi16::<4>(line(&record[i - 4])), mask)
        };
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_512(weights: &[__m512i; 8], codes: &[i8; BLOCK]) -> __m512i {
    let mut dot = _mm512_setzero_si512();
    for i in 0..8 {
        let four = [
            codes[4 * i].cast_unsigned(),
            codes[4 * i + 1].cast_unsigned(),
            codes[4 * i + 2].cast_unsigned(),
            codes[4 * i + 3].cast_unsigned(),
        ];
        dot = _mm512_dpbusd_epi32(dot, weights[i], _mm512_set1_epi32(i32::from_le_bytes(four)));
    }
    dot
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn rows_512<const ROWS: usize, const SIZE: usize, const FINE: bool>(
    lines: &[Line],
    inputs: Coded<'_>,
    out: &mut [[f32; PANEL]],
) {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    let (records, _) = lines.as_chunks::<SIZE>();
    // Checked once, so that the loop below needs no bounds checks.
    let (blocks, count) = (inputs.blocks, records.len());
    let codes = &inputs.codes[..ROWS * blocks];
    let scales = &inputs.scales[..ROWS * blocks];
    let low = if FINE {
        &inputs.low[..ROWS * blocks]
    } else {
        codes
    };
    if count > blocks || out.len() < ROWS {
        return;
    }
    for block in 0..count {
        let record = &records[block];
        let weights = weights(record);
        let (d, m) = (halves(&record[SIZE - 1], 0), halves(&record[SIZE - 1], 1));
        for row in 0..ROWS {
            let [scale, total] = scales[row * blocks + block];
            let mut dot = dot_512(&weights, &codes[row * blocks + block]);
            if FINE {
                let low = dot_512(&weights, &low[row * blocks + block]);
                dot = _mm512_add_epi32(_mm512_slli_epi32::<7>(dot), low);
            }
            let factor = _mm512_mul_ps(d, _mm512_set1_ps(scale));
            sums[row] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dot), sums[row]);
            sums[row] = _mm512_fmadd_ps(m, _mm512_set1_ps(total), sums[row]);
        }
    }
    for row in 0..ROWS {
        // SAFETY: out[row] is 16 f32 behind a mutable reference; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out[row].as_mut_ptr(), sums[row]) };
    }
}

/// Up to [`TILE`] rows with AVX2: products of 16-bit numbers, since the 8-bit ones saturate.
pub(super) fn coded_rows_avx2(
    _proof: Isa,
    lines: &[Line],
    wide: bool,
    inputs: Coded<'_>,
    out: &mut [[f32; PANEL]],
) {
    for (row, out) in out.iter_mut().enumerate() {
        let inputs = after(inputs, row);
        // SAFETY: the caller matched the level of an Isa, which only exists where the features do.
        unsafe {
            if wide {
                row_avx2::<WIDE>(lines, inputs, out);
            } else {
                row_avx2::<NARROW>(lines, inputs, out);
            }
        }
    }
}

/// 16 bytes of a line (four rows of four codes) as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn words(line: &Line, quarter: usize, high: bool, narrow: bool) -> __m256i {
    let (parts, _) = line.0.as_chunks::<16>();
    // SAFETY: a chunk is 16 bytes and the load needs no alignment.
    let bytes = unsafe { _mm_loadu_si128((&raw const parts[quarter]).cast()) };
    let bytes = match (narrow, high) {
        (false, _) => bytes,
        (true, false) => _mm_and_si128(bytes, _mm_set1_epi8(15)),
        (true, true) => _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(15)),
    };
    _mm256_cvtepu8_epi16(bytes)
}

/// Products of a block: per row two partial sums, of the first and second two of each four codes.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_avx2<const SIZE: usize>(record: &[Line; SIZE], codes: &[i8; BLOCK]) -> [__m256i; 4] {
    let narrow = SIZE == NARROW;
    let mut pairs = [_mm256_setzero_si256(); 4];
    for i in 0..8 {
        let mut four = 0;
        for at in 0..4 {
            four |= (i64::from(codes[4 * i + at]) & 0xffff) << (16 * at);
        }
        let code = _mm256_set1_epi64x(four);
        let line = &record[if narrow { i % 4 } else { i }];
        for (quarter, pair) in pairs.iter_mut().enumerate() {
            let weight = words(line, quarter, i >= 4, narrow);
            *pair = _mm256_add_epi32(*pair, _mm256_madd_epi16(weight, code));
        }
    }
    pairs
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row_avx2<const SIZE: usize>(lines: &[Line], inputs: Coded<'_>, out: &mut [f32; PANEL]) {
    let mut sums = [_mm256_setzero_ps(); 2];
    let (records, _) = lines.as_chunks::<SIZE>();
    for (block, record) in records.iter().enumerate() {
        let [scale, total] = &inputs.scales[block];
        let mut pairs = pairs_avx2(record, &inputs.codes[block]);
        if let Some(low) = inputs.low.get(block) {
            let low = pairs_avx2(record, low);
            for i in 0..4 {
                pairs[i] = _mm256_add_epi32(_mm256_slli_epi32::<7>(pairs[i]), low[i]);
            }
        }
        let (scales, _) = record[SIZE - 1].0.as_chunks::<16>();
        for half in 0..2 {
            let both = _mm256_hadd_epi32(pairs[2 * half], pairs[2 * half + 1]);
            let dot = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
            // SAFETY: chunks of 16 bytes; the loads need no alignment.
            let (d, m) = unsafe {
                (
                    _mm256_cvtph_ps(_mm_loadu_si128((&raw const scales[half]).cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128((&raw const scales[2 + half]).cast())),
                )
            };
            let factor = _mm256_mul_ps(d, _mm256_set1_ps(*scale));
            sums[half] = _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(dot), sums[half]);
            sums[half] = _mm256_fmadd_ps(m, _mm256_set1_ps(*total), sums[half]);
        }
    }
    let (halves, _) = out.as_chunks_mut::<8>();
    for (out, sum) in halves.iter_mut().zip(sums) {
        // SAFETY: out is 8 f32 behind a mutable reference; the store needs no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
