//! A tiny Llama with seeded random weights in a GGUF file, for tests.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use safetensors::{Dtype, tensor::TensorView};

/// Shape of the tiny model; tests change what they are about.
#[derive(Clone)]
pub(crate) struct Tiny {
    pub layers: u32,
    pub hidden: usize,
    pub heads: u32,
    pub kv_heads: u32,
    pub feed_forward: usize,
    pub context: u32,
    pub kind: GgmlDType,
    /// Metadata that replaces or adds.
    pub extra: Vec<(String, Value)>,
    /// Tensors left out.
    pub without: Vec<String>,
    /// Added to the weights of tensors, by name.
    pub added: Vec<(String, Vec<f32>)>,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            feed_forward: 96,
            context: 512,
            kind: GgmlDType::Q4_1,
            extra: Vec::new(),
            without: Vec::new(),
            added: Vec::new(),
        }
    }
}

/// A model file that goes away with the value.
pub(crate) struct File {
    pub path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Tiny {
    /// Writes the file.
    pub(crate) fn write(&self) -> File {
        let (tokens, types) = vocabulary();
        let mut tensors = self.tensors(tokens.len());
        tensors.retain(|(name, _)| !self.without.contains(name));
        let metadata = self.metadata(tokens, types);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        let metadata: Vec<_> = metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        gguf_file::write(
            &mut std::fs::File::create(&path).unwrap(),
            &metadata,
            &tensors,
        )
        .unwrap();
        File {
            path,
            _directory: directory,
        }
    }

    fn tensors(&self, vocab: usize) -> Vec<(String, QTensor)> {
        let mut random = SmallRng::seed_from_u64(11);
        let mut tensor = |name: &str, rows: usize, columns: usize, kind| {
            let mut data: Vec<f32> = (0..rows * columns)
                .map(|_| random.random_range(-0.3f32..0.3))
                .collect();
            for (_, added) in self.added.iter().filter(|(other, _)| other == name) {
                data.iter_mut()
                    .zip(added)
                    .for_each(|(x, added)| *x += added);
            }
            let shape = if rows == 1 {
                vec![columns]
            } else {
                vec![rows, columns]
            };
            QTensor::quantize(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap(), kind).unwrap()
        };
        let width = self.hidden / self.heads as usize * self.kv_heads as usize;
        let mut tensors = vec![
            (
                "token_embd.weight".to_owned(),
                tensor("token_embd.weight", vocab, self.hidden, GgmlDType::Q8_0),
            ),
            (
                "output_norm.weight".to_owned(),
                tensor("output_norm.weight", 1, self.hidden, GgmlDType::F32),
            ),
        ];
        for layer in 0..self.layers {
            for (name, rows, columns) in [
                ("attn_norm", 1, self.hidden),
                ("attn_q", self.hidden, self.hidden),
                ("attn_k", width, self.hidden),
                ("attn_v", width, self.hidden),
                ("attn_output", self.hidden, self.hidden),
                ("ffn_norm", 1, self.hidden),
                ("ffn_gate", self.feed_forward, self.hidden),
                ("ffn_up", self.feed_forward, self.hidden),
                ("ffn_down", self.hidden, self.feed_forward),
            ] {
                let kind = if rows == 1 { GgmlDType::F32 } else { self.kind };
                let name = format!("blk.{layer}.{name}.weight");
                let made = tensor(&name, rows, columns, kind);
                tensors.push((name, made));
            }
        }
        tensors
    }

    fn metadata(&self, tokens: Vec<String>, types: Vec<i32>) -> Vec<(String, Value)> {
        let strings =
            |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
        let mut metadata: Vec<(String, Value)> = [
            ("general.architecture", Value::String("llama".into())),
            ("general.name", Value::String("tiny".into())),
            ("llama.block_count", Value::U32(self.layers)),
            ("llama.embedding_length", Value::U32(self.hidden as u32)),
            ("llama.attention.head_count", Value::U32(self.heads)),
            ("llama.attention.head_count_kv", Value::U32(self.kv_heads)),
            (
                "llama.feed_forward_length",
                Value::U32(self.feed_forward as u32),
            ),
            ("llama.context_length", Value::U32(self.context)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String("smollm".into())),
            ("tokenizer.ggml.tokens", strings(tokens)),
            ("tokenizer.ggml.merges", strings(vec!["a b".into()])),
            (
                "tokenizer.ggml.token_type",
                Value::Array(types.into_iter().map(Value::I32).collect()),
            ),
            ("tokenizer.ggml.bos_token_id", Value::U32(0)),
            ("tokenizer.ggml.eos_token_id", Value::U32(1)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        for (key, value) in &self.extra {
            metadata.retain(|(other, _)| other != key);
            metadata.push((key.clone(), value.clone()));
        }
        metadata
    }
}

/// A folder as peft writes it, with seeded random weights.
#[derive(Clone)]
pub(crate) struct Peft {
    pub settings: serde_json::Value,
    /// Name, rows, columns, values.
    pub tensors: Vec<(String, usize, usize, Vec<f32>)>,
}

impl Peft {
    /// An adapter of `rank` for all products of the tiny model.
    pub(crate) fn new(tiny: &Tiny, rank: usize, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let keys = tiny.hidden / tiny.heads as usize * tiny.kv_heads as usize;
        let mut tensors = Vec::new();
        for layer in 0..tiny.layers {
            for (module, inputs, outputs) in [
                ("self_attn.q_proj", tiny.hidden, tiny.hidden),
                ("self_attn.k_proj", tiny.hidden, keys),
                ("self_attn.v_proj", tiny.hidden, keys),
                ("self_attn.o_proj", tiny.hidden, tiny.hidden),
                ("mlp.gate_proj", tiny.hidden, tiny.feed_forward),
                ("mlp.up_proj", tiny.hidden, tiny.feed_forward),
                ("mlp.down_proj", tiny.feed_forward, tiny.hidden),
            ] {
                for (half, rows, columns) in [("A", rank, inputs), ("B", outputs, rank)] {
                    let name = format!(
                        "base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"
                    );
                    let values = (0..rows * columns)
                        .map(|_| random.random_range(-0.3f32..0.3))
                        .collect();
                    tensors.push((name, rows, columns, values));
                }
            }
        }
        let settings = serde_json::json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank,
            "lora_alpha": 2 * rank, "bias": "none", "use_dora": false, "modules_to_save": null,
            "rank_pattern": {}, "lora_dropout": 0.0, "target_modules": ["q_proj"]});
        Self { settings, tensors }
    }

    /// The product of both halves of a module, `[outputs][inputs]`, without any scale.
    pub(crate) fn product(&self, module: &str) -> Vec<f32> {
        let find = |half: &str| {
            let name = format!("base_model.model.{module}.lora_{half}.weight");
            self.tensors.iter().find(|tensor| tensor.0 == name).unwrap()
        };
        let ((_, rank, inputs, a), (_, outputs, _, b)) = (find("A"), find("B"));
        let mut product = vec![0.0; outputs * inputs];
        for (row, out) in product.chunks_exact_mut(*inputs).enumerate() {
            for (column, out) in out.iter_mut().enumerate() {
                *out = (0..*rank)
                    .map(|i| b[row * rank + i] * a[i * inputs + column])
                    .sum();
            }
        }
        product
    }

    /// Writes the folder's files.
    pub(crate) fn write(&self, folder: &Path) {
        let bytes: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|(.., values)| values.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let views: HashMap<&str, _> = self
            .tensors
            .iter()
            .zip(&bytes)
            .map(|((name, rows, columns, _), bytes)| {
                let shape = vec![*rows, *columns];
                let view = TensorView::new(Dtype::F32, shape, bytes).unwrap();
                (name.as_str(), view)
            })
            .collect();
        let weights = safetensors::serialize(views, None).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("adapter_model.safetensors"), weights).unwrap();
        let settings = self.settings.to_string();
        std::fs::write(folder.join("adapter_config.json"), settings).unwrap();
    }
}

/// Two control tokens, all bytes, and one merge.
fn vocabulary() -> (Vec<String>, Vec<i32>) {
    let mut tokens = vec!["<|im_start|>".to_owned(), "<|im_end|>".to_owned()];
    let mut beyond = 256..;
    tokens.extend((0..=255u8).map(|byte| {
        // Byte-level vocabularies write bytes that do not print as characters from 256 on.
        let code = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
            _ => beyond.next().unwrap(),
        };
        char::from_u32(code).unwrap().to_string()
    }));
    tokens.push("ab".to_owned());
    let types = [vec![3; 2], vec![1; 257]].concat();
    (tokens, types)
}
