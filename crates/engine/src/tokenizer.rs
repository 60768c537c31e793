//! Text to tokens and back, from the vocabulary inside a GGUF file.
//!
//! Byte-level BPE (`tokenizer.ggml.model = gpt2`) with the pre-tokenizers of SmolLM, GPT-2, Llama 3 and Qwen 2. Refuses other
//! models by name. Written here rather than taken from the `tokenizers` crate, which panics on hostile merges, keeps callers'
//! words in a cache per thread and matches by backtracking; tests compare with it.
//!
//! Control tokens (`<|im_start|>` and the like) come only from a chat template, never from what a caller wrote:
//! [`Tokenizer::encode_chat`] keeps the two apart, and `encode` parses them only if told.

mod bpe;
mod split;

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::gguf;
use crate::template::{self, ChatTemplate, Guard, Turn};
use bpe::{Bpe, Merge};
use split::Split;

/// Most control and user-defined tokens believed; real vocabularies have up to some thousands.
const MAX_SPECIAL: usize = 1 << 14;
/// Longest special token in bytes.
const MAX_SPECIAL_LEN: usize = 256;
/// Names under which models end a turn or a text, besides what the metadata says.
const END_NAMES: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
];

/// Why a vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error("not supported yet: tokenizer {name}")]
    Unsupported { name: String },
    #[error(
        "model file is damaged or hostile: vocabulary of {tokens} tokens with {types} token types"
    )]
    TypeCount { tokens: usize, types: usize },
    #[error(
        "model file is damaged or hostile: merge {number} names tokens that the vocabulary lacks"
    )]
    Merge { number: usize },
    #[error("model file is damaged or hostile: {key} is {id}, past the vocabulary of {tokens}")]
    IdOutOfRange {
        key: &'static str,
        id: u64,
        tokens: usize,
    },
    #[error("model file is damaged or hostile: too many or too long special tokens")]
    TooManySpecial,
    #[error("model file is damaged or hostile: its vocabulary is empty or too large")]
    VocabularySize,
    #[error("could not build the search for special tokens")]
    Search,
}

impl Error {
    /// Stable reason for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gguf(error) => error.reason(),
            Self::Unsupported { .. } => "TokenizerUnsupported",
            _ => "TokenizerDamaged",
        }
    }
}

/// What a token is, by the numbers of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Control,
    UserDefined,
}

/// A vocabulary with everything needed to encode and decode.
pub struct Tokenizer {
    bpe: Bpe,
    split: Split,
    /// Raw bytes of all tokens, one after the other.
    text: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    special: Specials,
    user_defined: Specials,
    guard: Guard,
    bos: Option<u32>,
    eos: Option<u32>,
    end_ids: Vec<u32>,
    add_bos: bool,
}

/// Tokens that are found in text before it is cut into words, the longest at each place.
struct Specials {
    search: AhoCorasick,
    ids: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer that the file describes.
    pub fn from_gguf(header: &gguf::Header) -> Result<Self, Error> {
        let model = header.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(Error::Unsupported {
                name: model.chars().take(64).collect(),
            });
        }
        let pre = header
            .optional("tokenizer.ggml.pre", gguf::Header::str)?
            .unwrap_or("default");
        let Some(split) = Split::named(pre) else {
            return Err(Error::Unsupported {
                name: format!("gpt2 with pre-tokenizer {pre:.64}"),
            });
        };
        let tokens = header.strings("tokenizer.ggml.tokens")?;
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(Error::VocabularySize);
        }
        let kinds = kinds(header, tokens.len())?;
        let (text, ends) = raw_bytes(tokens, &kinds);
        let ignore_merges = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
        let bpe = bpe(header, tokens, &kinds, ignore_merges)?;
        let control = specials(tokens, &kinds, &[Kind::Control])?;
        let id = |key| special_id(header, key, tokens.len());
        let (bos, eos) = (
            id("tokenizer.ggml.bos_token_id")?,
            id("tokenizer.ggml.eos_token_id")?,
        );
        let mut end_ids: Vec<u32> = eos
            .into_iter()
            .chain(id("tokenizer.ggml.eot_token_id")?)
            .collect();
        end_ids.extend(
            control
                .iter()
                .filter(|(name, _)| END_NAMES.contains(name))
                .map(|&(_, id)| id),
        );
        end_ids.sort_unstable();
        end_ids.dedup();
        Ok(Self {
            bpe,
            split,
            text,
            ends,
            special: Specials::new(&specials(
                tokens,
                &kinds,
                &[Kind::Control, Kind::UserDefined],
            )?)?,
            user_defined: Specials::new(&specials(tokens, &kinds, &[Kind::UserDefined])?)?,
            guard: Guard::new(control.iter().map(|&(name, _)| name)).ok_or(Error::Search)?,
            kinds,
            bos,
            eos,
            end_ids,
            add_bos: header
                .optional("tokenizer.ggml.add_bos_token", gguf::Header::bool)?
                .unwrap_or(false),
        })
    }

    /// Encodes text without adding anything. With `parse_special` control tokens written in the text become control
    /// tokens: never pass text of a caller that way.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let specials = if parse_special {
            &self.special
        } else {
            &self.user_defined
        };
        specials.walk(text, |part| match part {
            Part::Special(id) => ids.push(id),
            Part::Text(text) => self.encode_plain(text, &mut ids),
        });
        ids
    }

    /// Encodes a prompt of a caller: the beginning-of-text token if the model wants one, and no control token from the text.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.append(&mut self.encode(text, false));
        ids
    }

    /// Encodes a conversation through the model's template, ready for the assistant's next words. Control tokens come from
    /// the template's own text; the same letters inside a message stay letters. Adds no beginning-of-text token beyond what
    /// the template writes, as Hugging Face does.
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        turns: &[Turn],
    ) -> Result<Vec<u32>, template::Error> {
        let rendered = template.render(turns, &self.guard, true)?;
        let mut ids = Vec::with_capacity(rendered.text().len() / 3);
        self.special.walk(rendered.text(), |part| match part {
            Part::Special(id) => ids.push(id),
            Part::Text(text) => ids.append(&mut self.encode(&rendered.unguarded(text), false)),
        });
        Ok(ids)
    }

    /// The raw bytes of a token: part of a character or several; empty for an id past the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let Some(&end) = self.ends.get(at) else {
            return &[];
        };
        let start = at
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied()
            .unwrap_or_default();
        self.text.get(start..end).unwrap_or_default()
    }

    /// How many tokens the vocabulary has.
    pub fn vocab_len(&self) -> usize {
        self.ends.len()
    }

    /// Whether a token steers the model instead of being text; answers do not show such tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Control)
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token that ends an answer, sorted: end of text, end of turn, and what is known by name.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// Whether the model wants the beginning-of-text token before a plain prompt.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    fn encode_plain(&self, text: &str, into: &mut Vec<u32>) {
        self.split
            .pieces(text, |piece| self.bpe.encode(piece.as_bytes(), into));
    }
}

/// A stretch of text, or a special token in it.
enum Part<'t> {
    Text(&'t str),
    Special(u32),
}

impl Specials {
    fn new(tokens: &[(&str, u32)]) -> Result<Self, Error> {
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(name, _)| name))
            .map_err(|_| Error::Search)?;
        Ok(Self {
            search,
            ids: tokens.iter().map(|&(_, id)| id).collect(),
        })
    }

    fn walk<'t>(&self, text: &'t str, mut part: impl FnMut(Part<'t>)) {
        let mut start = 0;
        for found in self.search.find_iter(text) {
            if found.start() > start {
                part(Part::Text(&text[start..found.start()]));
            }
            if let Some(&id) = self.ids.get(found.pattern().as_usize()) {
                part(Part::Special(id));
            }
            start = found.end();
        }
        if start < text.len() {
            part(Part::Text(&text[start..]));
        }
    }
}

fn kinds(header: &gguf::Header, tokens: usize) -> Result<Vec<Kind>, Error> {
    let Some(types) = header.optional("tokenizer.ggml.token_type", gguf::Header::integers)? else {
        return Ok(vec![Kind::Normal; tokens]);
    };
    if types.len() != tokens {
        return Err(Error::TypeCount {
            tokens,
            types: types.len(),
        });
    }
    // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte (llama.cpp's llama_token_type).
    Ok(types
        .into_iter()
        .map(|number| match number {
            3 => Kind::Control,
            4 => Kind::UserDefined,
            _ => Kind::Normal,
        })
        .collect())
}

fn specials<'h>(
    tokens: &'h gguf::Strings,
    kinds: &[Kind],
    wanted: &[Kind],
) -> Result<Vec<(&'h str, u32)>, Error> {
    let found: Vec<(&str, u32)> = (0_u32..)
        .zip(tokens.iter().zip(kinds))
        .filter(|(_, (name, kind))| !name.is_empty() && wanted.contains(kind))
        .map(|(id, (name, _))| (name, id))
        .collect();
    if found.len() > MAX_SPECIAL || found.iter().any(|(name, _)| name.len() > MAX_SPECIAL_LEN) {
        return Err(Error::TooManySpecial);
    }
    Ok(found)
}

fn special_id(
    header: &gguf::Header,
    key: &'static str,
    tokens: usize,
) -> Result<Option<u32>, Error> {
    let Some(id) = header.optional(key, gguf::Header::u64)? else {
        return Ok(None);
    };
    match u32::try_from(id) {
        Ok(narrow) if (narrow as usize) < tokens => Ok(Some(narrow)),
        _ => Err(Error::IdOutOfRange { key, id, tokens }),
    }
}

/// The printable stand-in of each byte (GPT-2's `bytes_to_unicode`): printable Latin-1 stands for itself, the other bytes
/// follow from U+0100 in order.
pub(crate) fn stand_ins() -> [char; 256] {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the index runs from 0 to 255"
        )]
        let byte = byte as u8;
        match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
        }
    })
}

fn raw_bytes(tokens: &gguf::Strings, kinds: &[Kind]) -> (Vec<u8>, Vec<usize>) {
    let bytes: HashMap<char, u8> = stand_ins().into_iter().zip(0..=255).collect();
    let mut text = Vec::new();
    let mut ends = Vec::with_capacity(tokens.len());
    for (token, kind) in tokens.iter().zip(kinds) {
        let raw: Option<Vec<u8>> = token
            .chars()
            .map(|character| bytes.get(&character).copied())
            .collect();
        match raw.filter(|_| *kind == Kind::Normal) {
            Some(raw) => text.extend(raw),
            None => text.extend(token.as_bytes()),
        }
        ends.push(text.len());
    }
    (text, ends)
}

fn bpe(
    header: &gguf::Header,
    tokens: &gguf::Strings,
    kinds: &[Kind],
    ignore_merges: bool,
) -> Result<Bpe, Error> {
    let ids: HashMap<&str, u32> = tokens.iter().zip(0..).collect();
    let mut buffer = [0; 4];
    let bytes = stand_ins().map(|character| ids.get(&*character.encode_utf8(&mut buffer)).copied());
    let mut merges = HashMap::new();
    let mut joined = String::new();
    for (number, line) in header.strings("tokenizer.ggml.merges")?.iter().enumerate() {
        let merge = merge(line, &ids, &mut joined).zip(u32::try_from(number).ok());
        let Some(((pair, id), rank)) = merge else {
            return Err(Error::Merge { number });
        };
        merges.insert(pair, Merge { rank, id });
    }
    let whole = ignore_merges.then(|| {
        let (text, ends) = raw_bytes(tokens, kinds);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let spans = starts.zip(ends.iter().copied()).zip(kinds).zip(0..);
        spans
            .filter(|((_, kind), _)| **kind == Kind::Normal)
            .filter_map(|(((start, end), _), id)| Some((text.get(start..end)?.into(), id)))
            .collect()
    });
    Ok(Bpe {
        bytes,
        merges,
        whole,
    })
}

/// Reads "left right" into the ids of both and of what they become.
fn merge(line: &str, ids: &HashMap<&str, u32>, joined: &mut String) -> Option<((u32, u32), u32)> {
    let (left, right) = line.split_once(' ')?;
    joined.clear();
    joined.push_str(left);
    joined.push_str(right);
    Some((
        (*ids.get(left)?, *ids.get(right)?),
        *ids.get(joined.as_str())?,
    ))
}

#[cfg(test)]
mod tests;
