//! The Llama architecture: root-mean-square norms, rotary positions on neighboring pairs (GGUF files
//! of this architecture are permuted so), grouped queries, gated feed-forward.
//!
//! Reads `rope_freqs.weight` (Llama 3.1 and later), `key_length`, attention biases and a separate
//! output where the file has them. Refuses other architectures, mixtures of experts and rope scaling
//! other than linear: computing them as plain Llama would give wrong answers that look right.
#![expect(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]

use super::Batch;
use crate::gguf::Header;
use crate::kernel::{
    Angles, Columns, Detail, Device, Inputs, KvStore, MAX_HEAD, Matrix, Panels, Precision, Rows,
    Shape, Write,
};
use crate::loader::{Error, Source};

/// Inputs of all products. With 8 bits the mean divergence of SmolLM2 from f32 is 4e-3 and greedy texts
/// change; with 15 it is 1e-6, for a few percent of the time.
const DETAIL: Detail = Detail::Fine;

/// Rows whose logits are computed at once: bounds the memory of the logits.
const LOGIT_ROWS: usize = 16;

/// Numbers of a model, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Heads.
    pub shape: Shape,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// Epsilon of the norms.
    pub epsilon: f32,
    /// Leading dimensions of a head that rotate.
    pub rotated: usize,
    /// Base of the rotation.
    pub rope_base: f32,
    /// Positions are divided by this.
    pub rope_divisor: f32,
}

fn bounded(header: &Header, key: &str, max: u64, bound: &'static str) -> Result<usize, Error> {
    check(key, header.u64(key)?, max, bound)
}

fn bounded_or(
    header: &Header,
    key: &str,
    absent: usize,
    max: u64,
    bound: &'static str,
) -> Result<usize, Error> {
    check(
        key,
        header.optional(key, Header::u64)?.unwrap_or(absent as u64),
        max,
        bound,
    )
}

fn check(key: &str, value: u64, max: u64, bound: &'static str) -> Result<usize, Error> {
    usize::try_from(value)
        .ok()
        .filter(|_| (1..=max).contains(&value))
        .ok_or_else(|| Error::Bound {
            key: key.to_owned(),
            value,
            bound,
        })
}

impl Config {
    /// Reads and checks the metadata.
    pub fn new(header: &Header) -> Result<Self, Error> {
        supported(header)?;
        let hidden = bounded(header, "llama.embedding_length", 65_536, "1 to 65536")?;
        let shape = shape(header, hidden)?;
        let rotated = bounded_or(
            header,
            "llama.rope.dimension_count",
            shape.head,
            shape.head as u64,
            "1 to key_length",
        )?;
        if !rotated.is_multiple_of(2) {
            return Err(out_of("llama.rope.dimension_count", rotated, "even"));
        }
        let (rope_base, rope_divisor) = rope(header)?;
        let embedding = header.tensor("token_embd.weight")?;
        let vocab = embedding.shape().first().copied().unwrap_or(0);
        Ok(Self {
            layers: bounded(header, "llama.block_count", 1_024, "1 to 1024")?,
            hidden,
            feed_forward: bounded(header, "llama.feed_forward_length", 1 << 20, "1 to 1048576")?,
            shape,
            vocab: check("rows of token_embd.weight", vocab, 1 << 21, "1 to 2097152")?,
            context: bounded(header, "llama.context_length", 1 << 24, "1 to 16777216")?,
            epsilon: positive(
                header.f32("llama.attention.layer_norm_rms_epsilon")?,
                "layer_norm_rms_epsilon",
            )?,
            rotated,
            rope_base,
            rope_divisor,
        })
    }
}

fn supported(header: &Header) -> Result<(), Error> {
    let architecture = header.str("general.architecture")?;
    if architecture != "llama" {
        return Err(Error::NotSupported(format!(
            "architecture {}",
            architecture.escape_debug()
        )));
    }
    if header
        .optional("llama.expert_count", Header::u64)?
        .unwrap_or(0)
        > 0
    {
        return Err(Error::NotSupported("mixture of experts".to_owned()));
    }
    Ok(())
}

fn shape(header: &Header, hidden: usize) -> Result<Shape, Error> {
    let heads = bounded(header, "llama.attention.head_count", 1_024, "1 to 1024")?;
    let kv_heads = bounded_or(
        header,
        "llama.attention.head_count_kv",
        heads,
        heads as u64,
        "1 to head_count",
    )?;
    let key = "llama.attention.key_length";
    let head = bounded_or(header, key, hidden / heads, MAX_HEAD as u64, "1 to 512")?;
    let value = bounded_or(
        header,
        "llama.attention.value_length",
        head,
        MAX_HEAD as u64,
        "1 to 512",
    )?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(out_of(
            "llama.attention.head_count_kv",
            kv_heads,
            "a divisor of head_count",
        ));
    }
    if value != head {
        return Err(Error::NotSupported(
            "values of another length than keys".to_owned(),
        ));
    }
    Ok(Shape {
        heads,
        kv_heads,
        head,
    })
}

fn out_of(key: &str, value: usize, bound: &'static str) -> Error {
    Error::Bound {
        key: key.to_owned(),
        value: value as u64,
        bound,
    }
}

fn positive(value: f32, what: &str) -> Result<f32, Error> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::NotSupported(format!("{what} {value}")))
}

fn rope(header: &Header) -> Result<(f32, f32), Error> {
    let base = header
        .optional("llama.rope.freq_base", Header::f32)?
        .unwrap_or(10_000.0);
    let factor = header.optional("llama.rope.scaling.factor", Header::f32)?;
    let kind = header.optional("llama.rope.scaling.type", |header, key| {
        header.str(key).map(str::to_owned)
    })?;
    let divisor = match kind.as_deref() {
        None | Some("none") => 1.0,
        Some("linear") => factor.filter(|factor| *factor > 0.0).unwrap_or(1.0),
        Some(other) => {
            return Err(Error::NotSupported(format!(
                "rope scaling {}",
                other.escape_debug()
            )));
        }
    };
    Ok((
        positive(base, "rope.freq_base")?,
        positive(divisor, "rope.scaling.factor")?,
    ))
}

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
            frequencies,
            memory,
        })
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
            frequencies,
            memory,
            ..
        } = self;
        let device = &*device;
        device.run(|| {
            let positions = batch
                .spans
                .iter()
                .flat_map(|span| span.position..span.position + span.rows.len());
            memory.angles.set(positions, frequencies);
            device.embed(embedding, &batch.tokens, &mut memory.stream);
            for (i, layer) in layers.iter().enumerate() {
                layer.forward(i, config, device, batch, memory, cache);
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
        device: &Device,
        batch: &Batch,
        memory: &mut Memory,
        cache: &mut KvStore,
    ) {
        let Memory {
            stream,
            fused,
            attended,
            inputs,
            panels,
            angles,
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
        device.remember(index, angles, columns, &batch.spans, fused, cache);
        device.attend(index, cache, &batch.spans, fused, attended);
        device.inputs(attended, DETAIL, inputs);
        device.product(inputs, &self.output, Write::Add, panels, stream);
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
        device.gate(
            fused,
            self.feed.part(1).0,
            config.feed_forward,
            DETAIL,
            inputs,
        );
        device.product(inputs, &self.down, Write::Add, panels, stream);
    }
}

/// Radians per position of each pair, after the file's factors.
pub(super) fn frequencies(config: &Config, factors: Option<&[f32]>) -> Vec<f64> {
    let rotated = config.rotated as f64;
    (0..config.rotated / 2)
        .map(|i| {
            let factor = factors.map_or(1.0, |factors| f64::from(factors[i]));
            let frequency = f64::from(config.rope_base).powf(-2.0 * i as f64 / rotated);
            frequency / factor / f64::from(config.rope_divisor)
        })
        .collect()
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
