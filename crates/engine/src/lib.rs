//! Inference engine of the mesh: reads a GGUF file, serves it on the CPU with continuous batching.
//!
//! Being written: `gguf`, `tokenizer`, `template` and `text` are the formats; `loader`, `kernel`,
//! `family`, `cache`, `scheduler` and `sample` are the engine.

pub mod family;
pub mod gguf;
pub mod kernel;
pub mod loader;
pub mod template;
pub mod text;
pub mod tokenizer;
