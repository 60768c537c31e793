//! Kernels against their definitions, on seeded random numbers.
#![expect(clippy::cast_precision_loss, reason = "small numbers")]

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device as Candle, Tensor};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::rows::{self, InputRow};
use super::*;

fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..count)
        .map(|_| random.random_range(-1.0f32..1.0))
        .collect()
}

/// A tensor of the given candle type: bytes and what they mean.
fn tensor(kind: GgmlDType, rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
    let data = Tensor::from_vec(values(7, rows * columns), (rows, columns), &Candle::Cpu).unwrap();
    let quantized = QTensor::quantize(&data, kind).unwrap();
    let meaning = quantized
        .dequantize(&Candle::Cpu)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    (quantized.data().unwrap().into_owned(), meaning)
}

fn matrix(
    id: u32,
    kind: GgmlDType,
    rows: usize,
    columns: usize,
    precision: Precision,
) -> (Matrix, Vec<f32>) {
    let (bytes, meaning) = tensor(kind, rows, columns);
    let mut matrix = Matrix::new(columns);
    matrix
        .push(Type::new(id).unwrap(), &bytes, rows, precision)
        .unwrap();
    (matrix, meaning)
}

fn inputs(isa: Isa, precision: Precision, detail: Detail, data: &[f32], width: usize) -> Inputs {
    let mut inputs = Inputs::new(precision);
    inputs.reset(data.len() / width, width, detail);
    for (row, data) in inputs.rows_mut().into_iter().zip(data.chunks(width)) {
        match row {
            InputRow::Float(out) => out.copy_from_slice(data),
            InputRow::Coded(codes, low, scales) => rows::code(isa, data, codes, low, scales),
        }
    }
    inputs
}

fn product(isa: Isa, matrix: &Matrix, inputs: &Inputs) -> Vec<f32> {
    let device = Device::cpu(1, isa).unwrap();
    let mut out = Rows::default();
    device.product(inputs, matrix, Write::Set, &mut Panels::default(), &mut out);
    out.all_mut().to_vec()
}

const TYPES: [(u32, GgmlDType, f32); 13] = [
    (0, GgmlDType::F32, 0.005),
    (1, GgmlDType::F16, 0.005),
    (30, GgmlDType::BF16, 0.005),
    (2, GgmlDType::Q4_0, 0.0),
    (3, GgmlDType::Q4_1, 0.0),
    (6, GgmlDType::Q5_0, 0.0),
    (7, GgmlDType::Q5_1, 0.0),
    (8, GgmlDType::Q8_0, 0.0),
    (10, GgmlDType::Q2K, 0.005),
    (11, GgmlDType::Q3K, 0.005),
    (12, GgmlDType::Q4K, 0.002),
    (13, GgmlDType::Q5K, 0.002),
    (14, GgmlDType::Q6K, 0.005),
];

#[test]
fn every_type_keeps_its_weights_and_the_simple_ones_exactly() {
    for (id, kind, tolerance) in TYPES {
        for precision in [Precision::Coded, Precision::Float] {
            let (matrix, meaning) = matrix(id, kind, 20, 256, precision);
            let allowed = if precision == Precision::Float {
                0.0
            } else {
                tolerance
            };
            let mut row = vec![0.0; 256];
            for (i, meaning) in meaning.chunks(256).enumerate() {
                matrix.row(i, &mut row);
                let worst = row
                    .iter()
                    .zip(meaning)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                // One rounding of the f32 sum where ggml multiplies (q - 8) * d and we add q * d + m.
                assert!(worst <= allowed + 1e-6, "{kind:?} {precision:?}: {worst}");
            }
        }
    }
}

#[test]
fn products_are_the_same_bits_on_every_instruction_set() {
    let data = values(1, 13 * 288);
    for (id, kind) in [
        (3, GgmlDType::Q4_1),
        (8, GgmlDType::Q8_0),
        (0, GgmlDType::F32),
    ] {
        let precision = if id == 0 {
            Precision::Float
        } else {
            Precision::Coded
        };
        let (matrix, _) = matrix(id, kind, 40, 288, precision);
        for detail in [Detail::Coarse, Detail::Fine] {
            let reference = product(
                Isa::PORTABLE,
                &matrix,
                &inputs(Isa::PORTABLE, precision, detail, &data, 288),
            );
            for isa in Isa::available() {
                let inputs = inputs(isa, precision, detail, &data, 288);
                assert_eq!(
                    product(isa, &matrix, &inputs),
                    reference,
                    "{kind:?} {detail:?} {}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn products_agree_with_plain_arithmetic() {
    let (columns, data) = (256, values(2, 3 * 256));
    for (detail, allowed) in [(Detail::Coarse, 0.12), (Detail::Fine, 0.001)] {
        let (matrix, meaning) = matrix(3, GgmlDType::Q4_1, 32, columns, Precision::Coded);
        let found = product(
            Isa::detect(),
            &matrix,
            &inputs(Isa::detect(), Precision::Coded, detail, &data, columns),
        );
        for (row, data) in data.chunks(columns).enumerate() {
            for (output, weights) in meaning.chunks(columns).enumerate() {
                let expected: f32 = weights.iter().zip(data).map(|(a, b)| a * b).sum();
                assert!(
                    (found[row * 32 + output] - expected).abs() < allowed,
                    "{detail:?}"
                );
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let data = values(3, 21 * 64);
    let (matrix, _) = matrix(3, GgmlDType::Q4_1, 48, 64, Precision::Coded);
    let isa = Isa::detect();
    let together = product(
        isa,
        &matrix,
        &inputs(isa, Precision::Coded, Detail::Fine, &data, 64),
    );
    for (row, data) in data.chunks(64).enumerate() {
        let alone = product(
            isa,
            &matrix,
            &inputs(isa, Precision::Coded, Detail::Fine, data, 64),
        );
        assert_eq!(alone, together[row * 48..(row + 1) * 48]);
    }
}

#[test]
fn wrong_sizes_and_unknown_types_are_errors() {
    let mut matrix = Matrix::new(64);
    let kind = Type::new(3).unwrap();
    for length in [0, 39, 41, 40 * 16 - 1] {
        assert!(
            matrix
                .push(kind, &vec![0; length], 1, Precision::Coded)
                .is_err()
        );
    }
    assert!(
        Matrix::new(33)
            .push(kind, &[0; 40], 1, Precision::Coded)
            .is_err()
    );
    assert!(Matrix::new(0).push(kind, &[], 0, Precision::Coded).is_err());
    for id in [4, 5, 9, 15, 16, 31, u32::MAX] {
        assert!(matches!(Type::new(id), Err(Error::Type(found)) if found == id));
    }
}

#[test]
fn the_exponential_is_accurate() {
    for i in -8_000..=0 {
        let x = i as f32 / 100.0;
        let (found, expected) = (f64::from(rows::exp(x)), f64::from(x).exp());
        assert!((found / expected - 1.0).abs() < 3e-7, "{x}");
    }
}

/// Attention by its definition, in f64.
fn plain(shape: Shape, rows: &[Vec<f32>], query: usize) -> Vec<f64> {
    let (width, group) = (shape.head, shape.heads / shape.kv_heads);
    let columns = shape.heads * width;
    let mut out = Vec::new();
    for head in 0..shape.heads {
        let at = head / group * width;
        let q = &rows[query][head * width..][..width];
        let score = |row: &Vec<f32>| -> f64 {
            let key = &row[columns + at..][..width];
            q.iter()
                .zip(key)
                .map(|(a, b)| f64::from(a * b))
                .sum::<f64>()
                / (width as f64).sqrt()
        };
        let weights: Vec<f64> = rows[..=query].iter().map(|row| score(row).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend((0..width).map(|i| {
            let value = |row: &Vec<f32>| f64::from(row[columns + shape.kv_heads * width + at + i]);
            rows.iter()
                .zip(&weights)
                .map(|(row, weight)| weight * value(row))
                .sum::<f64>()
                / total
        }));
    }
    out
}

/// Attention of all rows, taken in the given pieces.
fn attention(isa: Isa, shape: Shape, rows: &[Vec<f32>], pieces: &[usize]) -> Vec<f32> {
    let table = vec![5, 0, 3];
    let width = rows[0].len();
    let device = Device::cpu(1, isa).unwrap();
    let mut kv = KvStore::new(1, 6, shape, Precision::Float);
    let mut angles = Angles::default();
    let mut all = Vec::new();
    let mut position = 0;
    for &piece in pieces {
        let mut fused = Rows::default();
        fused.reset(piece, width);
        (0..piece).for_each(|i| fused.row_mut(i).copy_from_slice(&rows[position + i]));
        let spans = [Span {
            rows: 0..piece,
            position,
            table: table.clone(),
        }];
        // No rotation: no frequencies.
        angles.set(position..position + piece, &[]);
        device.remember(
            0,
            &angles,
            Columns {
                key: 120,
                value: 160,
            },
            &spans,
            &mut fused,
            &mut kv,
        );
        let mut out = Rows::default();
        device.attend(0, &kv, &spans, &fused, &mut out);
        all.extend_from_slice(out.all_mut());
        position += piece;
    }
    all
}

#[test]
fn attention_over_scattered_blocks_is_attention_by_definition_whole_or_in_pieces() {
    let shape = Shape {
        heads: 6,
        kv_heads: 2,
        head: 20,
    };
    let (count, width) = (75, (6 + 4) * 20);
    let rows: Vec<Vec<f32>> = (0..count).map(|i| values(100 + i as u64, width)).collect();
    let mut results: Vec<Vec<f32>> = Vec::new();
    for (isa, pieces) in Isa::available()
        .into_iter()
        .flat_map(|isa| [(isa, vec![75]), (isa, vec![1, 40, 3, 31])])
    {
        results.push(attention(isa, shape, &rows, &pieces));
    }
    for query in 0..count {
        let expected = plain(shape, &rows, query);
        let found = &results[0][query * 120..][..120];
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5),
            "{query}"
        );
    }
    assert!(
        results.iter().all(|result| *result == results[0]),
        "same bits on all instruction sets and in pieces"
    );
}
