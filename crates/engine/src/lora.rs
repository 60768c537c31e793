//! Low-rank adapters (LoRA, arXiv 2106.09685) from peft's folder: `adapter_config.json` and
//! `adapter_model.safetensors` with tensors
//! `base_model.model.model.layers.N.MODULE.lora_A.weight` (rank x inputs) and `.lora_B.weight`
//! (outputs x rank). A product then is `W x + s B (A x)`; the scale `s` is multiplied into B here.
//!
//! GGUF files of the Llama architecture keep the rows of queries and keys in another order than peft's
//! models (neighboring pairs turn together, not halves of a head); rows of B are put in that order.
//!
//! The folder is hostile until proven otherwise: files are bounded, every shape is checked against the
//! model, and whatever would change the arithmetic in a way that is not computed here is refused:
//! `DoRA`, biases, whole trained modules, adapters of embeddings or of the output, other methods.

mod settings;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest as _, Sha256};

use crate::family::config::Config;
use settings::Settings;

/// Largest `adapter_config.json` in bytes.
const SETTINGS_LIMIT: u64 = 1 << 20;
/// Largest `adapter_model.safetensors` in bytes.
const WEIGHTS_LIMIT: u64 = 4 << 30;
/// Largest rank.
const MAX_RANK: usize = 1_024;
/// What peft writes before the names of a causal model's modules.
const PREFIX: &str = "base_model.model.";

/// Why an adapter could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("could not read {file}")]
    Read {
        /// Name of the file.
        file: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is larger than any adapter.
    #[error("{file} is larger than {limit} bytes")]
    TooLarge {
        /// Name of the file.
        file: &'static str,
        /// Most bytes.
        limit: u64,
    },
    /// The settings are not what peft writes.
    #[error("adapter_config.json is not usable")]
    Settings(#[source] serde_json::Error),
    /// A number in the settings is outside what any adapter has.
    #[error("adapter_config.json says {key} = {value}, which must be {bound}")]
    Bound {
        /// Key.
        key: String,
        /// What it says.
        value: String,
        /// What it may be.
        bound: &'static str,
    },
    /// The adapter needs what this engine does not compute.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// The weights file is broken.
    #[error("adapter_model.safetensors is not usable: {0}")]
    Weights(String),
    /// A tensor has another shape than the model and the settings demand.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that fits.
        expected: [usize; 2],
    },
    /// One half of a pair is missing.
    #[error("{0} has only one of lora_A and lora_B")]
    Half(String),
    /// The weights file has no tensor.
    #[error("adapter_model.safetensors holds no weights")]
    Empty,
    /// A weight is no number.
    #[error("tensor {0} holds what is no number")]
    NotANumber(String),
    /// The device did not take the weights.
    #[error("the device did not take the adapter")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Stable word for conditions, logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "AdapterUnreadable",
            Self::NotSupported(_) => "NotSupported",
            Self::Shape { .. } => "AdapterDoesNotFit",
            Self::NotANumber(_) => "DamagedWeights",
            Self::Device(_) => "DeviceFailed",
            Self::TooLarge { .. }
            | Self::Settings(_)
            | Self::Bound { .. }
            | Self::Weights(_)
            | Self::Half(_)
            | Self::Empty => "AdapterInvalid",
        }
    }
}

/// A product of a layer that an adapter may add to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Target {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;

    fn new(module: &str) -> Option<Self> {
        Some(match module {
            "self_attn.q_proj" => Self::Query,
            "self_attn.k_proj" => Self::Key,
            "self_attn.v_proj" => Self::Value,
            "self_attn.o_proj" => Self::Output,
            "mlp.gate_proj" => Self::Gate,
            "mlp.up_proj" => Self::Up,
            "mlp.down_proj" => Self::Down,
            _ => return None,
        })
    }

    /// Inputs and outputs of the product in this model.
    const fn extents(self, config: &Config) -> (usize, usize) {
        let queries = config.shape.heads * config.shape.head;
        let keys = config.shape.kv_heads * config.shape.head;
        match self {
            Self::Query => (config.hidden, queries),
            Self::Key | Self::Value => (config.hidden, keys),
            Self::Output => (queries, config.hidden),
            Self::Gate | Self::Up => (config.hidden, config.feed_forward),
            Self::Down => (config.feed_forward, config.hidden),
        }
    }
}

/// The two matrices of one product, rows first; B is scaled and in the order of the model file.
#[derive(Debug)]
pub(crate) struct Pair {
    pub layer: usize,
    pub target: Target,
    pub inputs: usize,
    pub rank: usize,
    pub outputs: usize,
    /// `[rank][inputs]`
    pub a: Vec<f32>,
    /// `[outputs][rank]`
    pub b: Vec<f32>,
}

/// A proven adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub pairs: Vec<Pair>,
    /// SHA-256 over both files.
    pub digest: [u8; 32],
}

impl Adapter {
    /// Reads and proves the adapter in `folder` for the model of these numbers.
    pub(crate) fn load(folder: &Path, config: &Config) -> Result<Self, Error> {
        let settings = read(folder, "adapter_config.json", SETTINGS_LIMIT)?;
        let weights = read(folder, "adapter_model.safetensors", WEIGHTS_LIMIT)?;
        let mut digest = Sha256::new();
        digest.update((settings.len() as u64).to_le_bytes());
        digest.update(&settings);
        digest.update(&weights);
        let settings = Settings::new(&settings)?;
        let tensors = SafeTensors::deserialize(&weights)
            .map_err(|error| Error::Weights(error.to_string()))?;
        Ok(Self {
            pairs: pairs(&tensors, &settings, config)?,
            digest: digest.finalize().into(),
        })
    }

    /// Weights.
    pub(crate) fn parameters(&self) -> u64 {
        let all = self.pairs.iter();
        all.map(|pair| (pair.a.len() + pair.b.len()) as u64).sum()
    }
}

fn read(folder: &Path, file: &'static str, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { file, source };
    let mut bytes = Vec::new();
    let open = File::open(folder.join(file)).map_err(failed)?;
    open.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { file, limit });
    }
    Ok(bytes)
}

/// Where a tensor belongs, and whether it is the first of its pair.
fn place(name: &str) -> Option<(usize, Target, &str, bool)> {
    let module = name.strip_prefix(PREFIX)?;
    let (module, first) = match module.strip_suffix(".lora_A.weight") {
        Some(module) => (module, true),
        None => (module.strip_suffix(".lora_B.weight")?, false),
    };
    let (layer, target) = module.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, Target::new(target)?, module, first))
}

#[derive(Default)]
struct Halves<'n> {
    module: &'n str,
    a: Option<Vec<f32>>,
    b: Option<Vec<f32>>,
}

fn pairs(
    tensors: &SafeTensors<'_>,
    settings: &Settings,
    config: &Config,
) -> Result<Vec<Pair>, Error> {
    if !config.shape.head.is_multiple_of(2) {
        return Err(Error::NotSupported(String::from(
            "adapters of a model with heads of odd length",
        )));
    }
    let names = tensors.names();
    let mut found: BTreeMap<(usize, Target), Halves<'_>> = BTreeMap::new();
    for name in &names {
        let place = place(name).filter(|(layer, ..)| *layer < config.layers);
        let Some((layer, target, module, first)) = place else {
            return Err(Error::NotSupported(format!(
                "tensor {} in an adapter for this model",
                name.escape_debug()
            )));
        };
        let rank = settings.rank(module);
        let (inputs, outputs) = target.extents(config);
        let expected = if first {
            [rank, inputs]
        } else {
            [outputs, rank]
        };
        let values = values(tensors, name, expected)?;
        let halves = found.entry((layer, target)).or_default();
        halves.module = module;
        let half = if first { &mut halves.a } else { &mut halves.b };
        if half.replace(values).is_some() {
            return Err(Error::NotSupported(format!(
                "a second tensor for the place of {}",
                name.escape_debug()
            )));
        }
    }
    if found.is_empty() {
        return Err(Error::Empty);
    }
    found
        .into_iter()
        .map(|((layer, target), halves)| {
            let (Some(a), Some(b)) = (halves.a, halves.b) else {
                return Err(Error::Half(halves.module.to_owned()));
            };
            let (inputs, outputs) = target.extents(config);
            let rank = settings.rank(halves.module);
            let scale = settings.scale(halves.module);
            let mut b: Vec<f32> = b.into_iter().map(|value| value * scale).collect();
            if matches!(target, Target::Query | Target::Key) {
                b = by_pairs(&b, rank, config.shape.head);
            }
            Ok(Pair {
                layer,
                target,
                inputs,
                rank,
                outputs,
                a,
                b,
            })
        })
        .collect()
}

/// Rows of halves of each head (0, 1, … | n, n + 1, …) as neighboring pairs (0, n, 1, n + 1, …).
fn by_pairs(b: &[f32], rank: usize, head: usize) -> Vec<f32> {
    let half = head / 2;
    let mut ordered = Vec::with_capacity(b.len());
    for rows in b.chunks_exact(head * rank) {
        for i in 0..half {
            for row in [i, half + i] {
                ordered.extend_from_slice(&rows[row * rank..(row + 1) * rank]);
            }
        }
    }
    ordered
}

fn values(tensors: &SafeTensors<'_>, name: &str, expected: [usize; 2]) -> Result<Vec<f32>, Error> {
    let tensor = tensors
        .tensor(name)
        .map_err(|error| Error::Weights(error.to_string()))?;
    if tensor.shape() != expected {
        return Err(Error::Shape {
            name: name.to_owned(),
            found: tensor.shape().to_vec(),
            expected,
        });
    }
    let bytes = tensor.data();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|four| f32::from_le_bytes(*four))
            .collect(),
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|two| f16::from_le_bytes(*two).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|two| bf16::from_le_bytes(*two).to_f32())
            .collect(),
        other => {
            return Err(Error::NotSupported(format!(
                "adapter weights of type {other:?}"
            )));
        }
    };
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::NotANumber(name.to_owned()));
    }
    Ok(values)
}
