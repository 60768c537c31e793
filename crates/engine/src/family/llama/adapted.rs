//! Adapters on the processor: what each adds to the products of a layer, for the rows that asked for it.

use crate::family::Batch;
use crate::kernel::{Between, Device, Inputs, LowRank, Rows};
use crate::lora::{self, Target};

/// One adapter: additions by layer and product.
#[derive(Debug)]
pub(super) struct Adapter(Vec<[Option<LowRank>; Target::COUNT]>);

impl Adapter {
    pub(super) fn new(adapter: &lora::Adapter, layers: usize) -> Result<Self, lora::Error> {
        let mut all: Vec<_> = (0..layers).map(|_| Default::default()).collect();
        for pair in &adapter.pairs {
            let extents = (pair.inputs, pair.rank, pair.outputs);
            let made = LowRank::new(extents, &pair.a, &pair.b)
                .map_err(|error| lora::Error::Device(Box::new(error)))?;
            let layer: &mut [Option<LowRank>; Target::COUNT] = &mut all[pair.layer];
            layer[pair.target as usize] = Some(made);
        }
        Ok(Self(all))
    }
}

/// What the rows of a step ask for.
#[derive(Clone, Copy)]
pub(super) struct Adapted<'a> {
    pub(super) device: &'a Device,
    pub(super) adapters: &'a [Adapter],
    pub(super) batch: &'a Batch,
}

impl Adapted<'_> {
    /// Adds to a product of a layer, whose first column is given.
    pub(super) fn add(
        &self,
        (layer, target): (usize, Target),
        inputs: &Inputs,
        between: &mut Between,
        (out, column): (&mut Rows, usize),
    ) {
        for (adapter, rows) in &self.batch.adapted {
            if let Some(pair) = &self.adapters[*adapter].0[layer][target as usize] {
                self.device
                    .add_low_rank(pair, inputs, rows, between, (&mut *out, column));
            }
        }
    }
}
