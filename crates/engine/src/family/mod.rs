//! Model families: a forward pass each, written against the device layer of the processor, and one
//! against candle's tensors for accelerators. [`Model`] is the one place that knows which computes.

pub mod config;
pub mod llama;
pub mod tensors;

use crate::kernel::{Device, Isa, KvStore, Precision, Span};
use crate::loader::{Error, Source};
use crate::lora::{self, Adapter};
use crate::options::{self, Compute, Place};
use config::Config;
use llama::Llama;
use tensors::TensorLlama;

/// One step over rows of several sequences.
#[derive(Debug, Default)]
pub struct Batch {
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// Rows of each sequence, in order, without gaps.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, ascending.
    pub sample: Vec<usize>,
    /// Adapters in use, each with its rows.
    pub adapted: Vec<(usize, Vec<usize>)>,
}

impl Batch {
    /// Empties it for the next step.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.sample.clear();
        self.adapted.clear();
    }

    /// Adds consecutive `tokens` of one sequence from `position` on; returns the first row.
    pub fn push(
        &mut self,
        tokens: &[u32],
        position: usize,
        table: &[u32],
        adapter: Option<usize>,
    ) -> usize {
        let first = self.tokens.len();
        if let Some(adapter) = adapter {
            let rows = first..first + tokens.len();
            match self.adapted.iter_mut().find(|(other, _)| *other == adapter) {
                Some((_, all)) => all.extend(rows),
                None => self.adapted.push((adapter, rows.collect())),
            }
        }
        self.tokens.extend_from_slice(tokens);
        self.spans.push(Span {
            rows: first..self.tokens.len(),
            position,
            table: table.to_vec(),
        });
        first
    }
}

/// A loaded model with its cache, wherever it computes.
#[derive(Debug)]
pub enum Model {
    /// The processor, by the kernels of this crate.
    Cpu(Box<(Llama, KvStore)>),
    /// candle's tensors, on whatever device.
    Tensors(Box<TensorLlama>),
}

/// Rows of prompts in one step.
#[derive(Debug, Clone, Copy)]
pub struct StepRows {
    /// While somebody waits for the next token.
    pub shared: usize,
    /// While nobody does.
    pub alone: usize,
}

impl Model {
    /// Loads all weights to `place`; `threads` compute on the processor.
    pub fn load(
        source: &mut Source,
        place: Place,
        threads: usize,
        compute: Compute,
    ) -> Result<Self, options::Error> {
        if let Some(device) = place.tensors()? {
            let model = TensorLlama::load(source, device, compute)?;
            return Ok(Self::Tensors(Box::new(model)));
        }
        let device = Device::cpu(threads, Isa::detect())
            .map_err(|error| options::Error::Threads(Box::new(error)))?;
        let precision = match compute {
            Compute::Served => Precision::Coded,
            Compute::F32 => Precision::Float,
        };
        let model = Llama::load(source, device, precision)?;
        let none = model.cache(0);
        Ok(Self::Cpu(Box::new((model, none))))
    }

    /// Takes one more adapter; a batch names adapters by the order in which they came.
    pub(crate) fn adapt(&mut self, adapter: &Adapter) -> Result<(), lora::Error> {
        match self {
            Self::Cpu(model) => model.0.adapt(adapter),
            Self::Tensors(model) => model.adapt(adapter),
        }
    }

    /// The numbers of the model.
    pub const fn config(&self) -> &Config {
        match self {
            Self::Cpu(model) => model.0.config(),
            Self::Tensors(model) => model.config(),
        }
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        match self {
            Self::Cpu(model) => model.0.device().threads(),
            Self::Tensors(_) => 1,
        }
    }

    /// Name of what computes, for start-up messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cpu(model) => model.0.device().name(),
            Self::Tensors(model) => model.name(),
        }
    }

    /// Bytes of one block of cache.
    pub fn block_bytes(&self) -> usize {
        match self {
            Self::Cpu(model) => model.0.block_bytes(),
            Self::Tensors(model) => model.block_bytes(),
        }
    }

    /// Takes the memory for `blocks` blocks of cache.
    pub fn reserve(&mut self, blocks: usize) -> Result<(), Error> {
        match self {
            Self::Cpu(model) => {
                model.1 = model.0.cache(blocks);
                Ok(())
            }
            Self::Tensors(model) => model.reserve(blocks).map_err(|source| Error::Device {
                what: String::from("the memory for keys and values"),
                source: Box::new(source),
            }),
        }
    }

    /// How many rows of prompts a step should have: many enough to use the device, few enough not to
    /// keep those waiting who generate.
    pub const fn step_rows(&self) -> StepRows {
        match self {
            Self::Cpu(_) => StepRows {
                shared: 64,
                alone: 128,
            },
            Self::Tensors(_) => StepRows {
                shared: 256,
                alone: 512,
            },
        }
    }

    /// Runs the batch and hands the logits of row `batch.sample[i]` to `sink(i, logits)`.
    ///
    /// Tokens must be below the vocabulary and every table must cover the positions of its span.
    ///
    /// # Errors
    /// If the device fails; then its results are worthless and so is the cache.
    pub fn forward(
        &mut self,
        batch: &Batch,
        sink: &mut (dyn FnMut(usize, &[f32]) + Send),
    ) -> candle_core::Result<()> {
        match self {
            Self::Cpu(model) => {
                let (llama, kv) = &mut **model;
                llama.forward(batch, kv, sink);
                Ok(())
            }
            Self::Tensors(model) => model.forward(batch, sink),
        }
    }
}
