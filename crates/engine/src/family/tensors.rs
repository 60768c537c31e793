//! The Llama architecture on candle's tensors: what a GPU computes. The same code runs on candle's
//! processor backend, which is how it is tested where there is no GPU.
//!
//! Weights stay in the file's quantized types where candle multiplies them as they are; keys and values
//! lie in blocks, as for the processor, so that scheduling and prefix sharing know no difference.
//! Unlike the processor's kernels a GPU's products depend in their last bits on the size of the batch.

mod adapted;
mod attention;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};

use super::Batch;
use super::config::{Config, frequencies};
use crate::kernel::TOKENS;
use crate::loader::{Error, Source};
use crate::lora::{self, Target};
use crate::options::Compute;
use adapted::{Adapted, Adapter};
use attention::{Plan, Store};

/// Rows whose logits are computed at once: bounds the memory of the logits.
const LOGIT_ROWS: usize = 64;

/// A loaded model with its cache.
#[derive(Debug)]
pub struct TensorLlama {
    config: Config,
    device: Device,
    /// Type of weights that are not quantized, and of keys and values.
    dtype: DType,
    embedding: Tensor,
    head: QMatMul,
    norm: Tensor,
    layers: Vec<Layer>,
    adapters: Vec<Adapter>,
    frequencies: Vec<f64>,
    stores: Vec<Store>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    feed_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
}

#[derive(Debug)]
struct Linear {
    weight: QMatMul,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let out = self.weight.forward(rows)?;
        match &self.bias {
            Some(bias) => out.broadcast_add(bias),
            None => Ok(out),
        }
    }
}

/// Reads tensors of a file to a device.
struct Reader<'a> {
    source: &'a mut Source,
    device: &'a Device,
    compute: Compute,
}

impl Reader<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> std::result::Result<QTensor, Error> {
        self.source.tensor(name, shape, self.device)
    }

    /// A matrix, `rows` by `columns`, ready to multiply.
    fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> std::result::Result<QMatMul, Error> {
        let tensor = self.tensor(name, &[rows, columns])?;
        let made = match tensor.dtype() {
            // Nothing rounded that the file has not rounded; on the processor candle lacks kernels.
            _ if self.compute == Compute::F32 || self.device.is_cpu() => {
                tensor.dequantize(self.device).map(QMatMul::Tensor)
            }
            GgmlDType::F16 | GgmlDType::BF16 => {
                tensor.dequantize_f16(self.device).map(QMatMul::TensorF16)
            }
            _ => QMatMul::from_qtensor(tensor),
        };
        made.map_err(|error| failed(name, error))
    }

    fn vector(&mut self, name: &str, length: usize) -> std::result::Result<Tensor, Error> {
        let values = self.source.vector(name, length)?;
        Tensor::from_vec(values, length, self.device).map_err(|error| failed(name, error))
    }

    fn linear(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> std::result::Result<Linear, Error> {
        let bias = format!("{name}.bias");
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), rows, columns)?,
            bias: match self.source.header().find_tensor(&bias) {
                Some(_) => Some(self.vector(&bias, rows)?),
                None => None,
            },
        })
    }

    fn layer(&mut self, config: &Config, i: usize) -> std::result::Result<Layer, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (hidden, feed) = (config.hidden, config.feed_forward);
        let queries = config.shape.heads * config.shape.head;
        let keys = config.shape.kv_heads * config.shape.head;
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            queries: self.linear(&name("attn_q"), queries, hidden)?,
            keys: self.linear(&name("attn_k"), keys, hidden)?,
            values: self.linear(&name("attn_v"), keys, hidden)?,
            output: self.linear(&name("attn_output"), hidden, queries)?,
            feed_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            gate: self.matrix(&name("ffn_gate.weight"), feed, hidden)?,
            up: self.matrix(&name("ffn_up.weight"), feed, hidden)?,
            down: self.matrix(&name("ffn_down.weight"), hidden, feed)?,
        })
    }
}

fn failed(name: &str, source: candle_core::Error) -> Error {
    Error::Device {
        what: name.to_owned(),
        source: Box::new(source),
    }
}

impl TensorLlama {
    /// Loads all weights to `device`.
    pub fn load(
        source: &mut Source,
        device: Device,
        compute: Compute,
    ) -> std::result::Result<Self, Error> {
        let config = Config::new(source.header())?;
        let dtype = match compute {
            Compute::Served if device.is_cuda() => DType::F16,
            Compute::Served | Compute::F32 => DType::F32,
        };
        let factors = source.find_vector("rope_freqs.weight", config.rotated / 2)?;
        let separate = source.header().find_tensor("output.weight").is_some();
        let mut reader = Reader {
            source,
            device: &device,
            compute,
        };
        let table = "token_embd.weight";
        let embedding = reader
            .tensor(table, &[config.vocab, config.hidden])?
            .dequantize(&device)
            .and_then(|tensor| tensor.to_dtype(dtype))
            .map_err(|error| failed(table, error))?;
        let head = if separate { "output.weight" } else { table };
        let head = reader.matrix(head, config.vocab, config.hidden)?;
        let norm = reader.vector("output_norm.weight", config.hidden)?;
        let layers = (0..config.layers)
            .map(|i| reader.layer(&config, i))
            .collect::<std::result::Result<_, _>>()?;
        let frequencies = frequencies(&config, factors.as_deref());
        Ok(Self {
            config,
            device,
            dtype,
            embedding,
            head,
            norm,
            layers,
            adapters: Vec::new(),
            frequencies,
            stores: Vec::new(),
        })
    }

    /// Takes one more adapter; a batch names adapters by the order in which they came.
    pub(crate) fn adapt(
        &mut self,
        adapter: &lora::Adapter,
    ) -> std::result::Result<(), lora::Error> {
        let made = Adapter::new(adapter, self.config.layers, &self.device);
        self.adapters
            .push(made.map_err(|error| lora::Error::Device(Box::new(error)))?);
        Ok(())
    }

    /// The numbers of the model.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Name for start-up messages.
    pub const fn name(&self) -> &'static str {
        match self.device {
            Device::Cpu => "candle on the processor",
            Device::Cuda(_) => "CUDA",
            Device::Metal(_) => "Metal",
        }
    }

    /// Bytes of one block of cache.
    pub fn block_bytes(&self) -> usize {
        2 * self.config.layers * TOKENS * self.width() * self.dtype.size_in_bytes()
    }

    fn width(&self) -> usize {
        self.config.shape.kv_heads * self.config.shape.head
    }

    /// Takes the memory for `blocks` blocks of cache.
    pub fn reserve(&mut self, blocks: usize) -> Result<()> {
        let size = (blocks * TOKENS, self.width());
        self.stores = (0..self.config.layers)
            .map(|_| Store::new(size, self.dtype, &self.device))
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// Runs the batch and hands the logits of row `batch.sample[i]` to `sink(i, logits)`.
    ///
    /// Tokens must be below the vocabulary, every table must cover the positions of its span, and
    /// [`Self::reserve`] must have been called.
    pub fn forward(&self, batch: &Batch, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let plan = Plan::new(
            batch,
            &self.frequencies,
            self.width(),
            self.dtype,
            &self.device,
        )?;
        let tokens = Tensor::from_slice(&batch.tokens, batch.tokens.len(), &self.device)?;
        let mut stream = self
            .embedding
            .index_select(&tokens, 0)?
            .to_dtype(DType::F32)?;
        let adapted = Adapted::new(&self.adapters, batch, &self.device)?;
        for (i, (layer, store)) in self.layers.iter().zip(&self.stores).enumerate() {
            let add = |target, input: &Tensor, out| adapted.add((i, target), input, out);
            stream = layer.forward(&stream, (&self.config, &plan), store, &add)?;
        }
        for (chunk, rows) in batch.sample.chunks(LOGIT_ROWS).enumerate() {
            let rows: Vec<u32> = rows
                .iter()
                .map(|&row| attention::index(row))
                .collect::<Result<_>>()?;
            let rows = Tensor::from_vec(rows.clone(), rows.len(), &self.device)?;
            let last = norm(&stream.index_select(&rows, 0)?, &self.norm, &self.config)?;
            let logits = self.head.forward(&last)?.to_dtype(DType::F32)?.to_vec2()?;
            for (i, logits) in logits.iter().enumerate() {
                sink(chunk * LOGIT_ROWS + i, logits);
            }
        }
        Ok(())
    }
}

fn norm(rows: &Tensor, weight: &Tensor, config: &Config) -> Result<Tensor> {
    candle_nn::ops::rms_norm(&rows.contiguous()?, weight, config.epsilon)
}

impl Layer {
    fn forward(
        &self,
        stream: &Tensor,
        (config, plan): (&Config, &Plan),
        store: &Store,
        add: &dyn Fn(Target, &Tensor, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let input = norm(stream, &self.attention_norm, config)?;
        let queries = add(Target::Query, &input, self.queries.forward(&input)?)?;
        let queries = plan.rotate(&queries, config.shape.heads)?;
        let keys = add(Target::Key, &input, self.keys.forward(&input)?)?;
        let keys = plan.rotate(&keys, config.shape.kv_heads)?;
        let values = add(Target::Value, &input, self.values.forward(&input)?)?;
        plan.remember(store, &keys, &values)?;
        let attended = plan.attend(store, &queries, config.shape)?;
        let output = add(Target::Output, &attended, self.output.forward(&attended)?)?;
        let stream = (stream + output)?;
        let input = norm(&stream, &self.feed_norm, config)?;
        let gate = add(Target::Gate, &input, self.gate.forward(&input)?)?;
        let up = add(Target::Up, &input, self.up.forward(&input)?)?;
        let gated = (gate.silu()? * up)?;
        &stream + add(Target::Down, &gated, self.down.forward(&gated)?)?
    }
}

/// Softmax over the last dimension, in f32 whatever comes in.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let scores = scores.to_dtype(DType::F32)?;
    if scores.dim(D::Minus1)? == 1 {
        return scores.ones_like();
    }
    candle_nn::ops::softmax_last_dim(&scores.contiguous()?)
}
