//! Inference engine of the mesh: serves a GGUF file of the Llama architecture on the CPU, or
//! with feature `cuda` on a GPU of NVIDIA.
//!
//! ```text
//! GenerateRequest -> prompt (template, tokenizer, trimming) -> queue -> scheduler (one thread)
//!                                                                         |  one forward pass per step
//! Generation <- text (characters, stop texts) <- sample <- logits <- family <- kernel, cache
//! ```
//!
//! - [`Engine`] loads a model and takes requests; [`Generation`] is the stream of one answer.
//! - `gguf`, `tokenizer`, `template`, `text` are the formats; `loader`, `kernel`, `family`, `cache`,
//!   `scheduler`, `sample` are the engine.
//!
//! On the CPU, at temperature 0, a text is the same bits alone and in a batch, with any number of threads. What
//! the engine cannot do right it refuses: other architectures, tensor types without a reader, rope
//! scaling it does not know. Prompts and answers appear in no log, error or `Debug` output.

pub mod gguf;
pub mod template;
pub mod text;
pub mod tokenizer;

pub mod bench;
mod cache;
mod engine;
pub mod family;
pub mod kernel;
pub mod loader;
pub mod lora;
pub mod openai;
mod options;
mod prompt;
pub mod quantize;
mod request;
mod sample;
mod scheduler;
#[cfg(test)]
mod testing;

pub use cache::Partition;
pub use engine::Engine;
pub use mesh_core::{LatencyClass, Sensitive};
pub use options::{
    AdapterInfo, AdapterUse, Compute, EngineOptions, Error, ModelInfo, Place, Stats,
};
pub use request::{
    Alternative, Failure, FinishReason, GenEvent, GenerateRequest, Generation, Overflow, Prompt,
    Refused, TokenLogprob,
};
pub use sample::Sampling;
