//! How to run a model, what was loaded, and what can go wrong at start.

use std::path::PathBuf;
use std::time::Duration;

use crate::{loader, lora, template, tokenizer};

/// How weights and activations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// Codes of 4 or 8 bits, activations in 8 bits per 32 values, cache in f16.
    #[default]
    Served,
    /// Everything in f32: slow, exact, for comparison with a reference.
    F32,
}

/// Where a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// The processor, by the kernels of this crate.
    #[default]
    Cpu,
    /// candle's tensors on the processor: slow; what accelerators compute, where there is none.
    Tensors,
    /// A GPU of NVIDIA, by its number.
    Cuda(usize),
}

impl Place {
    /// The device of candle's tensors; `None` for the kernels of this crate.
    pub(crate) fn tensors(self) -> Result<Option<candle_core::Device>, Error> {
        match self {
            Self::Cpu => Ok(None),
            Self::Tensors => Ok(Some(candle_core::Device::Cpu)),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::NotBuilt("cuda")),
            Self::Cuda(number) => candle_core::Device::new_cuda(number)
                .map(Some)
                .map_err(|error| Error::Accelerator(Box::new(error))),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || String::from("expected cpu, tensors, cuda or cuda:NUMBER");
        match text {
            "cpu" => Ok(Self::Cpu),
            "tensors" => Ok(Self::Tensors),
            "cuda" => Ok(Self::Cuda(0)),
            other => {
                let number = other.strip_prefix("cuda:").ok_or_else(wrong)?;
                number.parse().map(Self::Cuda).map_err(|_| wrong())
            }
        }
    }
}

/// How to run a model.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Threads that compute; absent: what the process may use (CPU quota, affinity) minus one, at
    /// least one.
    pub threads: Option<usize>,
    /// Where it computes.
    pub place: Place,
    /// Memory for keys and values.
    pub kv_bytes: usize,
    /// How weights are kept.
    pub compute: Compute,
    /// Most requests that wait.
    pub max_queue: usize,
    /// Most choices that run together.
    pub max_batch: usize,
    /// Longest wait before a request fails as busy.
    pub max_wait: Duration,
    /// Temperature where a request has none.
    pub temperature: f32,
    /// Top-p where a request has none.
    pub top_p: f32,
    /// Keep half of the memory for requests that no other backend could answer.
    pub protect: bool,
    /// Adapters that a request may ask for: name, and peft's folder.
    pub adapters: Vec<(String, PathBuf)>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: None,
            place: Place::Cpu,
            kv_bytes: 512 << 20,
            compute: Compute::Served,
            max_queue: 64,
            max_batch: 16,
            max_wait: Duration::from_secs(30),
            temperature: 0.2,
            top_p: 0.9,
            protect: false,
            adapters: Vec::new(),
        }
    }
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file is not usable.
    #[error(transparent)]
    Load(#[from] loader::Error),
    /// The tokenizer in the model file is not usable.
    #[error("the tokenizer of the model file is not usable: {0}")]
    Tokenizer(#[from] tokenizer::Error),
    /// The chat template in the model file is not usable.
    #[error("the chat template of the model file is not usable: {0}")]
    Template(#[from] template::Error),
    /// Tokenizer and weights disagree.
    #[error("the tokenizer has {tokens} tokens, the weights have {rows}")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The weights compute to what is no number.
    #[error("the weights in the model file are damaged: they compute to what is no number")]
    Damaged,
    /// An adapter is not usable with this model.
    #[error("adapter {name} is not usable")]
    Adapter {
        /// Its name.
        name: String,
        /// What is wrong.
        source: lora::Error,
    },
    /// The weights of an adapter compute to what is no number.
    #[error("the weights of adapter {0} are damaged: they compute to what is no number")]
    DamagedAdapter(String),
    /// Two adapters have one name.
    #[error("two adapters are named {0}")]
    SameName(String),
    /// The memory for keys and values does not hold a single block.
    #[error("{given} bytes for keys and values are too few: one block of this model takes {block}")]
    Memory {
        /// Bytes allowed.
        given: usize,
        /// Bytes of one block.
        block: usize,
    },
    /// The system gave no threads.
    #[error("could not start the threads of the engine")]
    Threads(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The accelerator cannot be used.
    #[error("the accelerator cannot be used")]
    Accelerator(#[source] Box<candle_core::Error>),
    /// This program was built without the code for a device.
    #[error("not supported: this program was built without {0}")]
    NotBuilt(&'static str),
    /// The engine has stopped, or has no room.
    #[error("the engine could not evaluate {0} tokens")]
    Evaluate(usize),
}

impl Error {
    /// Stable word for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Load(error) => error.reason(),
            Self::Tokenizer(error) => error.reason(),
            Self::Template(error) => error.reason(),
            Self::Vocabulary { .. } => "VocabularyMismatch",
            Self::Adapter { source, .. } => source.reason(),
            Self::Damaged | Self::DamagedAdapter(_) => "DamagedWeights",
            Self::SameName(_) => "AdapterInvalid",
            Self::Memory { .. } => "CacheTooSmall",
            Self::Threads(_) => "ThreadsUnavailable",
            Self::Accelerator(_) => "AcceleratorUnavailable",
            Self::NotBuilt(_) => "NotBuilt",
            Self::Evaluate(_) => "EvaluationFailed",
        }
    }
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Name in the file, or the file's name.
    pub name: String,
    /// Architecture in the file.
    pub architecture: String,
    /// Most tokens of prompt and answer: the model's context or what the cache holds.
    pub context_tokens: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Weights.
    pub parameters: u64,
    /// Changes with the weights and with how they are computed: the `system_fingerprint` of answers.
    pub fingerprint: String,
    /// Threads that compute.
    pub threads: usize,
    /// Vector instructions or accelerator in use.
    pub instructions: &'static str,
    /// Adapters that a request may ask for.
    pub adapters: Vec<AdapterInfo>,
}

/// A loaded adapter.
#[derive(Debug, Clone)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Weights.
    pub parameters: u64,
    /// The `system_fingerprint` of answers with it: changes with the model's and with its own files.
    pub fingerprint: String,
}

/// How an adapter is used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterUse {
    /// Its name.
    pub name: String,
    /// Choices being computed with it.
    pub running: usize,
    /// Requests for it that wait.
    pub waiting: usize,
}

/// Numbers of a running engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Choices being computed.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Bytes of keys and values in use or reserved.
    pub kv_used: usize,
    /// Bytes for keys and values.
    pub kv_total: usize,
    /// Prompt tokens found in the cache, since start.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens of admitted requests, since start.
    pub prompt_tokens: u64,
    /// Generated tokens, since start.
    pub generation_tokens: u64,
}
