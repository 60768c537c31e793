//! The numbers of a model of the Llama architecture, read from its file and checked.
#![expect(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]

use crate::gguf::Header;
use crate::kernel::{MAX_HEAD, Shape};
use crate::loader::Error;

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
