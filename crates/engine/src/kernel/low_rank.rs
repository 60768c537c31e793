//! Low-rank additions to a product, for chosen rows: `out[row] += (inputs[row] A) B`.
//!
//! Everything here is f32, also where the product itself is coded: an adapter is small, and what it adds
//! is what somebody trained.

use super::pack::{self, Type};
use super::{Detail, Device, Inputs, Matrix, Panels, Precision, Rows, Write};

/// The two matrices of an addition.
#[derive(Debug)]
pub struct LowRank {
    down: Matrix,
    up: Matrix,
    outputs: usize,
}

impl LowRank {
    /// `a` is `[rank][inputs]`, `b` `[outputs][rank]`.
    ///
    /// # Errors
    /// If their lengths do not fit the extents.
    pub fn new(
        (inputs, rank, outputs): (usize, usize, usize),
        a: &[f32],
        b: &[f32],
    ) -> Result<Self, pack::Error> {
        let floats = Type::new(0)?;
        if b.len() != outputs * rank {
            return Err(pack::Error::Size {
                rows: outputs,
                columns: rank,
                bytes: size_of_val(b),
            });
        }
        let bytes = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let mut down = Matrix::new(inputs);
        down.push(floats, &bytes(a), rank, Precision::Float)?;
        // Between the two lie whole panels; what is beyond the rank is zero on both sides.
        let between = down.width();
        let mut wide = vec![0.0; outputs * between];
        for (into, row) in wide.chunks_exact_mut(between).zip(b.chunks_exact(rank)) {
            into[..rank].copy_from_slice(row);
        }
        let mut up = Matrix::new(between);
        up.push(floats, &bytes(&wide), outputs, Precision::Float)?;
        Ok(Self { down, up, outputs })
    }
}

/// Memory of additions, kept between steps.
#[derive(Debug)]
pub struct Between {
    chosen: Inputs,
    inner: Inputs,
    narrow: Rows,
    wide: Rows,
    panels: Panels,
}

impl Default for Between {
    fn default() -> Self {
        Self {
            chosen: Inputs::new(Precision::Float),
            inner: Inputs::new(Precision::Float),
            narrow: Rows::default(),
            wide: Rows::default(),
            panels: Panels::default(),
        }
    }
}

impl Device {
    /// Adds to the columns from `column` on of the chosen `rows` of `out` what `pair` makes of the same
    /// rows of `inputs`.
    pub fn add_low_rank(
        &self,
        pair: &LowRank,
        inputs: &Inputs,
        rows: &[usize],
        between: &mut Between,
        (out, column): (&mut Rows, usize),
    ) {
        let Between {
            chosen,
            inner,
            narrow,
            wide,
            panels,
        } = between;
        inputs.choose(rows, chosen);
        self.product(chosen, &pair.down, Write::Set, panels, narrow);
        self.inputs(narrow, Detail::Fine, inner);
        self.product(inner, &pair.up, Write::Set, panels, wide);
        for (i, &row) in rows.iter().enumerate() {
            let into = &mut out.row_mut(row)[column..column + pair.outputs];
            let added = wide.row(i).iter();
            into.iter_mut().zip(added).for_each(|(out, x)| *out += x);
        }
    }
}
