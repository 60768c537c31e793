//! The head of a GGUF file: metadata and tensor directory, versions 2 and 3, little-endian.
//!
//! Model files come from outside, so every number in them is an accusation until proven: counts are compared with what is
//! left of the file before memory is taken, sizes are multiplied with overflow checks, tensors must lie inside the file
//! without overlapping. Layout after the GGUF specification (ggml repository, `docs/gguf.md`). No tensor data is read
//! here; [`Tensor`] says where it lies. Refuses version 1, big-endian files and number formats without a kernel.
//!
//! ```text
//! magic version tensor-count kv-count | kv … | name dims type offset … | padding | tensor data …
//! ```

mod cursor;
mod dtype;
mod error;
mod value;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};

use cursor::Cursor;
pub use dtype::Dtype;
pub use error::Error;
pub use value::{Array, Strings, Value};

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment believed; real files use 32 to 4,096.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Most metadata entries and most tensors; real files have tens and a few thousand.
const MAX_ENTRIES: u64 = 1 << 16;
/// Most array elements in all metadata together; the largest vocabularies with merges need under a million.
const MAX_ARRAY_ITEMS: u64 = 1 << 22;
/// Longest metadata string in bytes; chat templates need some tens of thousands.
const MAX_STRING: u64 = 1 << 23;
/// Most bytes of string in all metadata together.
const MAX_TEXT: u64 = 1 << 26;
/// Longest key or tensor name in bytes (the specification allows keys of 65,535; ggml holds tensor names in 64).
const MAX_NAME: u64 = 1 << 10;
/// Arrays in arrays; the specification allows any depth, nobody uses more than one.
const MAX_NESTING: u32 = 2;
const MAX_DIMS: u32 = 4;

/// Where one tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Number format.
    pub dtype: Dtype,
    /// Extents as the file has them: the fastest-moving (the row length) first.
    pub dims: Vec<u64>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Tensor {
    /// Extents in row-major order, slowest first: a weight of `out` rows by `in` columns is `[out, in]`.
    pub fn shape(&self) -> Vec<u64> {
        self.dims.iter().rev().copied().collect()
    }
}

/// Where one metadata entry lies: key, type and value, as bytes of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

/// Everything a GGUF file says before its tensor data.
#[derive(Debug, Clone)]
pub struct Header {
    version: u32,
    metadata: HashMap<String, Value>,
    entries: Vec<Entry>,
    alignment: u64,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    data_offset: u64,
}

impl Header {
    /// Reads and checks the head of a file of `file_len` bytes. The reader is put to its start first, and left anywhere.
    pub fn read<R: Read + Seek>(reader: &mut R, file_len: u64) -> Result<Self, Error> {
        reader
            .seek(SeekFrom::Start(0))
            .map_err(|source| Error::Io { at: 0, source })?;
        let mut cursor = Cursor::new(reader, file_len);
        let version = preamble(&mut cursor)?;
        let tensor_count = cursor.u64()?;
        let entry_count = cursor.u64()?;
        bounded("tensors", tensor_count, MAX_ENTRIES)?;
        bounded("metadata entries", entry_count, MAX_ENTRIES)?;
        // A directory entry is at least name length, dimension count, one extent, type and offset.
        cursor.ensure(tensor_count, 32, "tensors")?;
        cursor.ensure(entry_count, 13, "metadata entries")?;
        let (metadata, entries) = metadata(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(tensor(&mut cursor, alignment)?);
        }
        let data_offset = cursor.position().next_multiple_of(alignment);
        let index = place(&mut tensors, data_offset, file_len)?;
        Ok(Self {
            version,
            metadata,
            entries,
            alignment,
            tensors,
            index,
            data_offset,
        })
    }

    /// Format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// First byte of tensor data.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Where the metadata entries lie, in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What offsets of tensors are multiples of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.find_tensor(name).ok_or_else(|| Error::MissingTensor {
            tensor: name.to_owned(),
        })
    }

    /// The tensor of this name, where it may be absent (a tied output, a rope table).
    pub fn find_tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// The raw value of a key, if the file has it.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// Replaces or adds a value: for evaluation of a changed model, never written back.
    pub fn set_value(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    /// An integer of any width that is not negative.
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        let value = self.required(key)?;
        value
            .as_u64()
            .ok_or_else(|| wrong(key, "an unsigned integer", value))
    }

    /// An integer that fits `u32`.
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        let number = self.u64(key)?;
        u32::try_from(number).map_err(|_| Error::WrongType {
            key: key.to_owned(),
            expected: "u32",
            found: "too large",
        })
    }

    /// A float, or the `f64` nearest to it.
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        match self.required(key)? {
            Value::F32(number) => Ok(*number),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the engine computes in f32; the nearest value is meant"
            )]
            Value::F64(number) => Ok(*number as f32),
            other => Err(wrong(key, "a float", other)),
        }
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        match self.required(key)? {
            Value::Bool(flag) => Ok(*flag),
            other => Err(wrong(key, "a boolean", other)),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            other => Err(wrong(key, "a string", other)),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&Strings, Error> {
        match self.required(key)? {
            Value::Array(Array::Strings(strings)) => Ok(strings),
            other => Err(wrong(key, "an array of strings", other)),
        }
    }

    /// An array of integers (token types and the like).
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, Error> {
        let value = self.required(key)?;
        match value {
            Value::Array(Array::Signed(numbers)) => Some(numbers.clone()),
            Value::Array(Array::Unsigned(numbers)) => numbers
                .iter()
                .map(|&number| number.try_into().ok())
                .collect(),
            _ => None,
        }
        .ok_or_else(|| wrong(key, "an array of integers", value))
    }

    /// `None` where the key is absent; a present key of a wrong type stays an error.
    pub fn optional<'h, T>(
        &'h self,
        key: &str,
        read: impl FnOnce(&'h Self, &str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.metadata.contains_key(key) {
            read(self, key).map(Some)
        } else {
            Ok(None)
        }
    }

    fn required(&self, key: &str) -> Result<&Value, Error> {
        self.metadata.get(key).ok_or_else(|| Error::MissingKey {
            key: key.to_owned(),
        })
    }
}

fn wrong(key: &str, expected: &'static str, value: &Value) -> Error {
    Error::WrongType {
        key: key.to_owned(),
        expected,
        found: value.kind(),
    }
}

fn bounded(what: &'static str, count: u64, limit: u64) -> Result<(), Error> {
    if count > limit {
        Err(Error::TooMany { what, count, limit })
    } else {
        Ok(())
    }
}

fn preamble<R: Read>(cursor: &mut Cursor<R>) -> Result<u32, Error> {
    let found = cursor.bytes()?;
    if found != MAGIC {
        return Err(Error::NotGguf { found });
    }
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(Error::BigEndian),
        version => Err(Error::UnsupportedVersion { version }),
    }
}

/// Values by key, and where their entries lie.
type Metadata = (HashMap<String, Value>, Vec<Entry>);

fn metadata<R: Read>(cursor: &mut Cursor<R>, count: u64) -> Result<Metadata, Error> {
    let mut budget = value::Budget::new();
    let (mut metadata, mut entries) = (HashMap::new(), Vec::new());
    for _ in 0..count {
        let start = cursor.position();
        let key = cursor.string(MAX_NAME, "metadata key")?;
        let code = cursor.u32()?;
        let value = value::read(cursor, code, &key, &mut budget)?;
        if metadata.contains_key(&key) {
            return Err(Error::DuplicateKey { key });
        }
        entries.push(Entry {
            key: key.clone(),
            start,
            end: cursor.position(),
        });
        metadata.insert(key, value);
    }
    Ok((metadata, entries))
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, Error> {
    let key = "general.alignment";
    let alignment = match metadata.get(key) {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| wrong(key, "an unsigned integer", value))?,
    };
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        Ok(alignment)
    } else {
        Err(Error::BadAlignment { alignment })
    }
}

/// Reads one directory entry; `offset` is still relative to the tensor data.
fn tensor<R: Read>(cursor: &mut Cursor<R>, alignment: u64) -> Result<Tensor, Error> {
    let name = cursor.string(MAX_NAME, "tensor name")?;
    let dim_count = cursor.u32()?;
    if !(1..=MAX_DIMS).contains(&dim_count) {
        return Err(Error::BadDimCount {
            tensor: name,
            dims: dim_count,
        });
    }
    let mut dims = Vec::new();
    for _ in 0..dim_count {
        dims.push(cursor.u64()?);
    }
    let dtype = Dtype::from_code(cursor.u32()?, &name)?;
    let offset = cursor.u64()?;
    let values = dims
        .iter()
        .try_fold(1_u64, |product, &extent| product.checked_mul(extent));
    let Some(values) = values.filter(|&values| values > 0) else {
        return Err(Error::BadShape { tensor: name, dims });
    };
    let (row, block) = (dims.first().copied().unwrap_or_default(), dtype.block_len());
    if row % block != 0 {
        return Err(Error::PartialBlock {
            tensor: name,
            dtype,
            row,
            block,
        });
    }
    let Some(len) = (values / block).checked_mul(dtype.block_bytes()) else {
        return Err(Error::BadShape { tensor: name, dims });
    };
    if !offset.is_multiple_of(alignment) {
        return Err(Error::Misaligned {
            tensor: name,
            offset,
            alignment,
        });
    }
    Ok(Tensor {
        name,
        dtype,
        dims,
        offset,
        len,
    })
}

/// Makes offsets absolute and proves that tensors are distinct, inside the file and apart from each other.
fn place(
    tensors: &mut [Tensor],
    data_offset: u64,
    file_len: u64,
) -> Result<HashMap<String, usize>, Error> {
    let mut seen = HashSet::new();
    for tensor in tensors.iter_mut() {
        if !seen.insert(tensor.name.clone()) {
            return Err(Error::DuplicateTensor {
                tensor: tensor.name.clone(),
            });
        }
        let offset = data_offset.checked_add(tensor.offset);
        let inside = offset
            .and_then(|start| start.checked_add(tensor.len))
            .is_some_and(|end| end <= file_len);
        let (Some(offset), true) = (offset, inside) else {
            return Err(Error::OutsideFile {
                tensor: tensor.name.clone(),
                file_len,
            });
        };
        tensor.offset = offset;
    }
    let mut by_offset: Vec<&Tensor> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if let [first, second] = pair
            && first.offset + first.len > second.offset
        {
            return Err(Error::Overlap {
                first: first.name.clone(),
                second: second.name.clone(),
            });
        }
    }
    Ok(tensors
        .iter()
        .enumerate()
        .map(|(at, tensor)| (tensor.name.clone(), at))
        .collect())
}

#[cfg(test)]
mod tests;
