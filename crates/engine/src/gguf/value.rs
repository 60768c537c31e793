//! Metadata values of a GGUF file and how they are read.
//!
//! String arrays (vocabularies, merges) are one buffer with end offsets: a quarter million tokens cost two allocations.
//! Refuses unknown value types, arrays of arrays of arrays, booleans other than 0 and 1, and anything past the totals of
//! the parent module.

use std::io::Read;

use super::cursor::Cursor;
use super::{Error, MAX_ARRAY_ITEMS, MAX_NESTING, MAX_STRING, MAX_TEXT};

/// One metadata value as the file has it.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "the variants are the value types of the format"
)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The name of this type in error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// Any integer that is not negative.
    pub(super) fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(number) => Some(number.into()),
            Self::U16(number) => Some(number.into()),
            Self::U32(number) => Some(number.into()),
            Self::U64(number) => Some(number),
            Self::I8(number) => number.try_into().ok(),
            Self::I16(number) => number.try_into().ok(),
            Self::I32(number) => number.try_into().ok(),
            Self::I64(number) => number.try_into().ok(),
            _ => None,
        }
    }
}

/// An array of one element type. Integers are widened to `i64` (or `u64`), floats to `f64`.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "the variants are the element types of the format"
)]
pub enum Array {
    Unsigned(Vec<u64>),
    Signed(Vec<i64>),
    Float(Vec<f64>),
    Bool(Vec<bool>),
    Strings(Strings),
    Arrays(Vec<Array>),
}

/// Many strings in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start..end)
    }

    /// All strings in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

impl<'t> FromIterator<&'t str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'t str>>(strings: I) -> Self {
        let mut all = Self::default();
        for string in strings {
            all.text.push_str(string);
            all.ends.push(all.text.len());
        }
        all
    }
}

/// What all metadata together may still take.
pub(super) struct Budget {
    /// Array elements left.
    pub(super) items: u64,
    /// Bytes of string left.
    pub(super) text: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            items: MAX_ARRAY_ITEMS,
            text: MAX_TEXT,
        }
    }

    fn take_items(&mut self, count: u64) -> Result<(), Error> {
        self.items = self
            .items
            .checked_sub(count)
            .ok_or(Error::MetadataTooLarge {
                limit: MAX_ARRAY_ITEMS,
            })?;
        Ok(())
    }
}

/// Reads a value of the type with this code.
pub(super) fn read<R: Read>(
    cursor: &mut Cursor<R>,
    code: u32,
    key: &str,
    budget: &mut Budget,
) -> Result<Value, Error> {
    Ok(match code {
        0 => Value::U8(u8::from_le_bytes(cursor.bytes()?)),
        1 => Value::I8(i8::from_le_bytes(cursor.bytes()?)),
        2 => Value::U16(u16::from_le_bytes(cursor.bytes()?)),
        3 => Value::I16(i16::from_le_bytes(cursor.bytes()?)),
        4 => Value::U32(cursor.u32()?),
        5 => Value::I32(i32::from_le_bytes(cursor.bytes()?)),
        6 => Value::F32(f32::from_le_bytes(cursor.bytes()?)),
        7 => Value::Bool(boolean(cursor.bytes()?, key)?),
        8 => {
            let text = cursor.string(budget.text, "metadata string")?;
            budget.text -= text.len() as u64;
            Value::String(text)
        }
        9 => Value::Array(array(cursor, key, budget, 1)?),
        10 => Value::U64(cursor.u64()?),
        11 => Value::I64(i64::from_le_bytes(cursor.bytes()?)),
        12 => Value::F64(f64::from_le_bytes(cursor.bytes()?)),
        _ => {
            return Err(Error::UnknownValueType {
                key: key.to_owned(),
                code,
            });
        }
    })
}

fn boolean([byte]: [u8; 1], key: &str) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::BadBool {
            key: key.to_owned(),
            byte,
        }),
    }
}

fn array<R: Read>(
    cursor: &mut Cursor<R>,
    key: &str,
    budget: &mut Budget,
    depth: u32,
) -> Result<Array, Error> {
    if depth > MAX_NESTING {
        return Err(Error::TooDeep {
            key: key.to_owned(),
        });
    }
    let code = cursor.u32()?;
    let count = cursor.u64()?;
    let bytes_each = match code {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12, // type and count of the inner array
        _ => {
            return Err(Error::UnknownValueType {
                key: key.to_owned(),
                code,
            });
        }
    };
    cursor.ensure(count, bytes_each, "array items")?;
    budget.take_items(count)?;
    Ok(match code {
        0 => Array::Unsigned(collect(cursor, count, |cursor| {
            Ok(u8::from_le_bytes(cursor.bytes()?).into())
        })?),
        2 => Array::Unsigned(collect(cursor, count, |cursor| {
            Ok(u16::from_le_bytes(cursor.bytes()?).into())
        })?),
        4 => Array::Unsigned(collect(cursor, count, |cursor| Ok(cursor.u32()?.into()))?),
        10 => Array::Unsigned(collect(cursor, count, Cursor::u64)?),
        1 => Array::Signed(collect(cursor, count, |cursor| {
            Ok(i8::from_le_bytes(cursor.bytes()?).into())
        })?),
        3 => Array::Signed(collect(cursor, count, |cursor| {
            Ok(i16::from_le_bytes(cursor.bytes()?).into())
        })?),
        5 => Array::Signed(collect(cursor, count, |cursor| {
            Ok(i32::from_le_bytes(cursor.bytes()?).into())
        })?),
        11 => Array::Signed(collect(cursor, count, |cursor| {
            Ok(i64::from_le_bytes(cursor.bytes()?))
        })?),
        6 => Array::Float(collect(cursor, count, |cursor| {
            Ok(f32::from_le_bytes(cursor.bytes()?).into())
        })?),
        12 => Array::Float(collect(cursor, count, |cursor| {
            Ok(f64::from_le_bytes(cursor.bytes()?))
        })?),
        7 => Array::Bool(collect(cursor, count, |cursor| {
            boolean(cursor.bytes()?, key)
        })?),
        8 => Array::Strings(strings(cursor, count, budget)?),
        _ => Array::Arrays(collect(cursor, count, |cursor| {
            array(cursor, key, budget, depth + 1)
        })?),
    })
}

/// Collects `count` items. Starts small: the count was checked, but growth follows what really arrives.
fn collect<R: Read, T>(
    cursor: &mut Cursor<R>,
    count: u64,
    mut item: impl FnMut(&mut Cursor<R>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(cursor)?);
    }
    Ok(items)
}

fn strings<R: Read>(
    cursor: &mut Cursor<R>,
    count: u64,
    budget: &mut Budget,
) -> Result<Strings, Error> {
    let start = cursor.position();
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..count {
        let before = bytes.len();
        cursor.string_into(
            &mut bytes,
            budget.text.min(MAX_STRING),
            "string in an array",
        )?;
        budget.text -= (bytes.len() - before) as u64;
        ends.push(bytes.len());
    }
    let not_utf8 = Error::NotUtf8 {
        what: "string in an array",
        at: start,
    };
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(not_utf8);
    };
    // Together valid is not each valid: an end inside a character would make `get` answer nothing.
    if ends.iter().any(|&end| !text.is_char_boundary(end)) {
        return Err(not_utf8);
    }
    Ok(Strings { text, ends })
}
