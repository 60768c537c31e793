//! `adapter_config.json` as peft writes it: rank and scale of every module, and what must not be asked for.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use super::{Error, MAX_RANK};

/// Keys that change the arithmetic and are not computed here, unless they are off or empty.
const REFUSED: &[&str] = &[
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
];

/// Ways to begin that leave the model's own weights as they are; others change them whenever peft loads the adapter.
const BEGUN: &[&str] = &["gaussian", "eva", "orthogonal"];
/// Most patterns of ranks, and of scales; peft writes one for a module that differs.
const MAX_PATTERNS: usize = 4_096;
/// Most bytes of a compiled pattern.
const PATTERN_BYTES: usize = 1 << 16;

#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: u64,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// What the settings say about modules.
pub(super) struct Settings {
    rank: usize,
    alpha: f64,
    by_root: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl Settings {
    pub(super) fn new(bytes: &[u8]) -> Result<Self, Error> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(Error::Settings)?;
        let not = |what: String| Err(Error::NotSupported(what));
        if raw.peft_type != "LORA" {
            return not(format!("peft_type {}", raw.peft_type.escape_debug()));
        }
        if let Some(bias) = raw.bias.filter(|bias| bias != "none") {
            return not(format!("bias {} of an adapter", bias.escape_debug()));
        }
        let asked = |key: &&&str| raw.others.get(**key).is_some_and(|value| !off(value));
        if let Some(key) = REFUSED.iter().find(asked) {
            return not(format!("{key} of an adapter"));
        }
        let begun = raw.others.get("init_lora_weights").and_then(Value::as_str);
        if let Some(begun) = begun.filter(|begun| !BEGUN.contains(begun)) {
            return not(format!(
                "init_lora_weights {} of an adapter: convert it to plain LoRA when it is saved",
                begun.escape_debug()
            ));
        }
        let patterns = few("rank_pattern", raw.rank_pattern)?;
        let ranks = patterns
            .into_iter()
            .map(|(key, rank)| Ok((pattern(&key)?, checked_rank(&key, rank)?)))
            .collect::<Result<_, Error>>()?;
        let patterns = few("alpha_pattern", raw.alpha_pattern)?;
        let alphas = patterns
            .into_iter()
            .map(|(key, alpha)| Ok((pattern(&key)?, checked_alpha(&key, alpha)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            rank: checked_rank("r", raw.r)?,
            alpha: checked_alpha("lora_alpha", raw.lora_alpha)?,
            by_root: raw.use_rslora.unwrap_or(false),
            ranks,
            alphas,
        })
    }

    /// Rank of a module, named without the prefix.
    pub(super) fn rank(&self, module: &str) -> usize {
        first(&self.ranks, module).unwrap_or(self.rank)
    }

    /// alpha / rank, or alpha / sqrt(rank) where the settings ask for rank stabilization (arXiv 2312.03732).
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a rank is at most 1024, and weights are f32"
    )]
    pub(super) fn scale(&self, module: &str) -> f32 {
        let rank = self.rank(module) as f64;
        let alpha = first(&self.alphas, module).unwrap_or(self.alpha);
        let divisor = if self.by_root { rank.sqrt() } else { rank };
        (alpha / divisor) as f32
    }
}

fn off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

fn few<T>(key: &str, patterns: Option<BTreeMap<String, T>>) -> Result<BTreeMap<String, T>, Error> {
    let patterns = patterns.unwrap_or_default();
    if patterns.len() <= MAX_PATTERNS {
        return Ok(patterns);
    }
    Err(Error::Bound {
        key: format!("entries of {key}"),
        value: patterns.len().to_string(),
        bound: "at most 4096",
    })
}

/// peft's rule: the key is an expression that matches the end of the module's name.
fn pattern(key: &str) -> Result<Regex, Error> {
    let mut pattern = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$"));
    pattern
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES);
    pattern.build().map_err(|_| Error::Bound {
        key: String::from("a pattern"),
        value: key
            .chars()
            .take(64)
            .collect::<String>()
            .escape_debug()
            .to_string(),
        bound: "a short expression over names of modules",
    })
}

fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let mut all = patterns.iter();
    all.find(|(pattern, _)| pattern.is_match(module))
        .map(|(_, value)| *value)
}

fn checked_rank(key: &str, rank: u64) -> Result<usize, Error> {
    usize::try_from(rank)
        .ok()
        .filter(|rank| (1..=MAX_RANK).contains(rank))
        .ok_or_else(|| Error::Bound {
            key: key.to_owned(),
            value: rank.to_string(),
            bound: "1 to 1024",
        })
}

fn checked_alpha(key: &str, alpha: f64) -> Result<f64, Error> {
    if alpha.is_finite() && alpha.abs() <= 1e6 {
        return Ok(alpha);
    }
    Err(Error::Bound {
        key: key.to_owned(),
        value: alpha.to_string(),
        bound: "a number up to a million",
    })
}
