//! The Llama architecture: root-mean-square norms, rotary positions on neighboring pairs (GGUF files
//! of this architecture are permuted so), grouped queries, gated feed-forward.
//!
//! Reads `rope_freqs.weight` (Llama 3.1 and later), `key_length`, attention biases and a separate
//! output where the file has them. Refuses other architectures, mixtures of experts and rope scaling
//! other than linear: computing them as plain Llama would give wrong answers that look right.

mod adapted;

use super::Batch;
use super::config::{Config, frequencies};
use crate::kernel::{
    Angles, Between, Columns, Detail, Device, Inputs, KvStore, Matrix, Panels, Precision, Rows,
    Write,
};
use crate::loader::{Error, Source};
use crate::lora::{self, Target};
use adapted::{Adapted, Adapter};

/// Inputs of all products. With 8 bits the mean divergence of SmolLM2 from f32 is 4e-3 and greedy texts
/// change; with 15 it is 1e-6, for a few percent of the time.
const DETAIL: Detail = Detail::Fine;

/// Rows whose logits are computed at once: bounds the memory of the logits.
const LOGIT_ROWS: usize = 16;

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys, values.
    attention: Matrix,
    attention_bias: Option<Vec<f32>>,
    output: Matrix,
    output_bias: Option<Vec<f32>>,
    feed_norm: Vec<f32>,
    /// Gate and up.
    feed: Matrix,
    down: Matrix,
}

/// A loaded model with the memory of its activations.
#[derive(Debug)]
pub struct Llama {
    config: Config,
    device: Device,
    precision: Precision,
    embedding: Matrix,
    /// `None`: the embedding is the output too.
    head: Option<Matrix>,
    norm: Vec<f32>,
    layers: Vec<Layer>,
    adapters: Vec<Adapter>,
    frequencies: Vec<f64>,
    memory: Memory,
}

#[derive(Debug)]
struct Memory {
    stream: Rows,
    fused: Rows,
    attended: Rows,
    logits: Rows,
    inputs: Inputs,
    panels: Panels,
    angles: Angles,
    between: Between,
}

impl Llama {
    /// Loads all weights.
    pub fn load(source: &mut Source, device: Device, precision: Precision) -> Result<Self, Error> {
        let config = Config::new(source.header())?;
        let embedding = source.matrix(
            &[("token_embd.weight", config.vocab)],
            config.hidden,
            precision,
        )?;
        let head = match source.header().find_tensor("output.weight") {
            Some(_) => {
                Some(source.matrix(&[("output.weight", config.vocab)], config.hidden, precision)?)
            }
            None => None,
        };
        let norm = source.vector("output_norm.weight", config.hidden)?;
        let factors = source.find_vector("rope_freqs.weight", config.rotated / 2)?;
        let layers = (0..config.layers)
            .map(|i| layer(source, &config, i, precision))
            .collect::<Result<_, _>>()?;
        let memory = Memory {
            stream: Rows::default(),
            fused: Rows::default(),
            attended: Rows::default(),
            logits: Rows::default(),
            inputs: Inputs::new(precision),
            panels: Panels::default(),
            angles: Angles::default(),
            between: Between::default(),
        };
        let frequencies = frequencies(&config, factors.as_deref());
        Ok(Self {
            config,
            device,
            precision,
            embedding,
            head,
            norm,
            layers,
            adapters: Vec::new(),
            frequencies,
            memory,
        })
    }

    /// Takes one more adapter; a batch names adapters by the order in which they came.
    pub(crate) fn adapt(&mut self, adapter: &lora::Adapter) -> Result<(), lora::Error> {
        let adapter = Adapter::new(adapter, self.config.layers)?;
        self.adapters.push(adapter);
        Ok(())
    }

    /// The numbers of the model.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Where it computes.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// A cache of `blocks` blocks for this model.
    pub fn cache(&self, blocks: usize) -> KvStore {
        KvStore::new(
            self.config.layers,
            blocks,
            self.config.shape,
            self.precision,
        )
    }

    /// Bytes of one block of cache.
    pub const fn block_bytes(&self) -> usize {
        KvStore::block_bytes(self.config.layers, self.config.shape, self.precision)
    }

    /// Runs the batch and hands the logits of row `batch.sample[i]` to `sink(i, logits)`.
    ///
    /// Tokens must be below the vocabulary and every table must cover the positions of its span.
    pub fn forward(
        &mut self,
        batch: &Batch,
        cache: &mut KvStore,
        sink: &mut (dyn FnMut(usize, &[f32]) + Send),
    ) {
        let Self {
            config,
            device,
            embedding,
            head,
            norm,
            layers,
            adapters,
            frequencies,
            memory,
            ..
        } = self;
        let device = &*device;
        let adapted = Adapted {
            device,
            adapters,
            batch,
        };
        device.run(|| {
            let positions = batch
                .spans
                .iter()
                .flat_map(|span| span.position..span.position + span.rows.len());
            memory.angles.set(positions, frequencies);
            device.embed(embedding, &batch.tokens, &mut memory.stream);
            for (i, layer) in layers.iter().enumerate() {
                layer.forward(i, config, adapted, memory, cache);
            }
            let head = head.as_ref().unwrap_or(embedding);
            for (chunk, rows) in batch.sample.chunks(LOGIT_ROWS).enumerate() {
                device.norm(
                    &memory.stream,
                    Some(rows),
                    (norm, config.epsilon),
                    DETAIL,
                    &mut memory.inputs,
                );
                device.product(
                    &memory.inputs,
                    head,
                    Write::Set,
                    &mut memory.panels,
                    &mut memory.logits,
                );
                for i in 0..rows.len() {
                    sink(
                        chunk * LOGIT_ROWS + i,
                        &device.read(&memory.logits, i)[..config.vocab],
                    );
                }
            }
        });
    }
}

impl Layer {
    fn forward(
        &self,
        index: usize,
        config: &Config,
        adapted: Adapted<'_>,
        memory: &mut Memory,
        cache: &mut KvStore,
    ) {
        let Adapted { device, batch, .. } = adapted;
        let Memory {
            stream,
            fused,
            attended,
            inputs,
            panels,
            angles,
            between,
            ..
        } = memory;
        device.norm(
            stream,
            None,
            (&self.attention_norm, config.epsilon),
            DETAIL,
            inputs,
        );
        device.product(inputs, &self.attention, Write::Set, panels, fused);
        if let Some(bias) = &self.attention_bias {
            device.bias(bias, fused);
        }
        let columns = Columns {
            key: self.attention.part(1).0,
            value: self.attention.part(2).0,
        };
        for (target, column) in [
            (Target::Query, 0),
            (Target::Key, columns.key),
            (Target::Value, columns.value),
        ] {
            adapted.add((index, target), inputs, between, (&mut *fused, column));
        }
        device.remember(index, angles, columns, &batch.spans, fused, cache);
        device.attend(index, cache, &batch.spans, fused, attended);
        device.inputs(attended, DETAIL, inputs);
        device.product(inputs, &self.output, Write::Add, panels, stream);
        adapted.add((index, Target::Output), inputs, between, (&mut *stream, 0));
        if let Some(bias) = &self.output_bias {
            device.bias(bias, stream);
        }
        device.norm(
            stream,
            None,
            (&self.feed_norm, config.epsilon),
            DETAIL,
            inputs,
        );
        device.product(inputs, &self.feed, Write::Set, panels, fused);
        let up = self.feed.part(1).0;
        for (target, column) in [(Target::Gate, 0), (Target::Up, up)] {
            adapted.add((index, target), inputs, between, (&mut *fused, column));
        }
        device.gate(fused, up, config.feed_forward, DETAIL, inputs);
        device.product(inputs, &self.down, Write::Add, panels, stream);
        adapted.add((index, Target::Down), inputs, between, (&mut *stream, 0));
    }
}

fn layer(
    source: &mut Source,
    config: &Config,
    i: usize,
    precision: Precision,
) -> Result<Layer, Error> {
    let name = |part: &str| format!("blk.{i}.{part}");
    let (hidden, feed) = (config.hidden, config.feed_forward);
    let queries = config.shape.heads * config.shape.head;
    let keys = config.shape.kv_heads * config.shape.head;
    let parts = [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)];
    let mut attention = Matrix::new(hidden);
    for (part, rows) in parts {
        source.append(
            &mut attention,
            &name(&format!("{part}.weight")),
            rows,
            precision,
        )?;
    }
    let mut bias: Option<Vec<f32>> = None;
    for (part, (tensor, rows)) in parts.iter().enumerate() {
        if let Some(values) = source.find_vector(&name(&format!("{tensor}.bias")), *rows)? {
            let all = bias.get_or_insert_with(|| vec![0.0; attention.width()]);
            let start = attention.part(part).0;
            all[start..start + rows].copy_from_slice(&values);
        }
    }
    let (gate, up) = (name("ffn_gate.weight"), name("ffn_up.weight"));
    Ok(Layer {
        attention_norm: source.vector(&name("attn_norm.weight"), hidden)?,
        attention,
        attention_bias: bias,
        output: source.matrix(&[(&name("attn_output.weight"), hidden)], queries, precision)?,
        output_bias: source.find_vector(&name("attn_output.bias"), hidden)?,
        feed_norm: source.vector(&name("ffn_norm.weight"), hidden)?,
        feed: source.matrix(&[(&gate, feed), (&up, feed)], hidden, precision)?,
        down: source.matrix(&[(&name("ffn_down.weight"), hidden)], feed, precision)?,
    })
}
