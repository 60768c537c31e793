//! Adapters on candle's tensors: what each adds to the products of a layer, for the rows that asked for it.

use candle_core::{DType, Device, Result, Tensor};

use super::attention::index;
use crate::family::Batch;
use crate::lora::{self, Target};

/// One adapter: `A` and `B`, transposed, by layer and product.
#[derive(Debug)]
pub(super) struct Adapter(Vec<[Option<(Tensor, Tensor)>; Target::COUNT]>);

impl Adapter {
    pub(super) fn new(adapter: &lora::Adapter, layers: usize, device: &Device) -> Result<Self> {
        let mut all: Vec<[Option<_>; Target::COUNT]> =
            (0..layers).map(|_| Default::default()).collect();
        for pair in &adapter.pairs {
            let turned = |values: &[f32], extents: (usize, usize)| {
                Tensor::from_slice(values, extents, device)?
                    .t()?
                    .contiguous()
            };
            all[pair.layer][pair.target as usize] = Some((
                turned(&pair.a, (pair.rank, pair.inputs))?,
                turned(&pair.b, (pair.outputs, pair.rank))?,
            ));
        }
        Ok(Self(all))
    }
}

/// What the rows of a step ask for.
pub(super) struct Adapted<'a>(Vec<(&'a Adapter, Tensor)>);

impl<'a> Adapted<'a> {
    pub(super) fn new(adapters: &'a [Adapter], batch: &Batch, device: &Device) -> Result<Self> {
        let rows = |rows: &[usize]| {
            let rows: Vec<u32> = rows.iter().map(|&row| index(row)).collect::<Result<_>>()?;
            let count = rows.len();
            Tensor::from_vec(rows, count, device)
        };
        let groups = batch.adapted.iter();
        groups
            .map(|(adapter, all)| Ok((&adapters[*adapter], rows(all)?)))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The product `out` of `input`, with what the adapters add.
    pub(super) fn add(
        &self,
        (layer, target): (usize, Target),
        input: &Tensor,
        mut out: Tensor,
    ) -> Result<Tensor> {
        for (adapter, rows) in &self.0 {
            if let Some((a, b)) = &adapter.0[layer][target as usize] {
                let chosen = input.index_select(rows, 0)?.to_dtype(DType::F32)?;
                let added = chosen.matmul(a)?.matmul(b)?.to_dtype(out.dtype())?;
                out = out.contiguous()?.index_add(rows, &added, 0)?;
            }
        }
        Ok(out)
    }
}
