//! What can be wrong with a GGUF file, in words for the person who chose it.

use std::io;

use super::Dtype;

/// Why a file is not a model this engine can read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    #[error("could not read the model file at byte {at}")]
    Io {
        at: u64,
        #[source]
        source: io::Error,
    },
    #[error("not a GGUF file: it starts with {found:02x?}, not with the letters GGUF")]
    NotGguf { found: [u8; 4] },
    #[error("not supported yet: GGUF version {version} (versions 2 and 3 are)")]
    UnsupportedVersion { version: u32 },
    #[error("not supported yet: big-endian GGUF")]
    BigEndian,
    #[error(
        "file is damaged or hostile: it ends at byte {at} where {wanted} more bytes are needed"
    )]
    Truncated { at: u64, wanted: u64 },
    #[error("file is damaged or hostile: it announces {count} {what} with {remaining} bytes left")]
    CountTooLarge {
        what: &'static str,
        count: u64,
        remaining: u64,
    },
    #[error("file is damaged or hostile: {count} {what}, more than the {limit} allowed")]
    TooMany {
        what: &'static str,
        count: u64,
        limit: u64,
    },
    #[error(
        "file is damaged or hostile: a {what} of {length} bytes, more than the {limit} allowed"
    )]
    StringTooLong {
        what: &'static str,
        length: u64,
        limit: u64,
    },
    #[error("file is damaged or hostile: the {what} at byte {at} is not UTF-8")]
    NotUtf8 { what: &'static str, at: u64 },
    #[error("file is damaged or hostile: metadata arrays have more than {limit} items")]
    MetadataTooLarge { limit: u64 },
    #[error("file is damaged or hostile: metadata {key:?} has the unknown value type {code}")]
    UnknownValueType { key: String, code: u32 },
    #[error(
        "file is damaged or hostile: metadata {key:?} holds {byte} where true or false belongs"
    )]
    BadBool { key: String, byte: u8 },
    #[error("file is damaged or hostile: metadata {key:?} nests arrays too deep")]
    TooDeep { key: String },
    #[error("file is damaged or hostile: metadata {key:?} appears twice")]
    DuplicateKey { key: String },
    #[error("file is damaged or hostile: alignment {alignment} is not a power of two up to 1 MiB")]
    BadAlignment { alignment: u64 },
    #[error("file is damaged or hostile: tensor {tensor:?} appears twice")]
    DuplicateTensor { tensor: String },
    #[error(
        "file is damaged or hostile: tensor {tensor:?} has {dims} dimensions (1 to 4 are possible)"
    )]
    BadDimCount { tensor: String, dims: u32 },
    #[error("file is damaged or hostile: tensor {tensor:?} has the impossible shape {dims:?}")]
    BadShape { tensor: String, dims: Vec<u64> },
    #[error(
        "file is damaged or hostile: rows of {row} in tensor {tensor:?} are not whole {dtype:?} blocks of {block}"
    )]
    PartialBlock {
        tensor: String,
        dtype: Dtype,
        row: u64,
        block: u64,
    },
    #[error("file is damaged or hostile: tensor {tensor:?} has the unknown number format {code}")]
    UnknownDtype { tensor: String, code: u32 },
    #[error("not supported yet: number format {dtype} (tensor {tensor:?})")]
    UnsupportedDtype { tensor: String, dtype: &'static str },
    #[error(
        "file is damaged or hostile: tensor {tensor:?} starts at {offset}, not aligned to {alignment}"
    )]
    Misaligned {
        tensor: String,
        offset: u64,
        alignment: u64,
    },
    #[error(
        "file is truncated, damaged or hostile: tensor {tensor:?} ends past the end of the file ({file_len} bytes)"
    )]
    OutsideFile { tensor: String, file_len: u64 },
    #[error("file is damaged or hostile: tensors {first:?} and {second:?} overlap")]
    Overlap { first: String, second: String },
    #[error("model file lacks the metadata {key:?}")]
    MissingKey { key: String },
    #[error("metadata {key:?} is {found}, but {expected} is needed")]
    WrongType {
        key: String,
        expected: &'static str,
        found: &'static str,
    },
    #[error("model file lacks the tensor {tensor:?}")]
    MissingTensor { tensor: String },
}

impl Error {
    /// Stable reason for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "ModelUnreadable",
            Self::NotGguf { .. } => "NotGguf",
            Self::UnsupportedVersion { .. } | Self::BigEndian | Self::UnsupportedDtype { .. } => {
                "ModelUnsupported"
            }
            Self::MissingKey { .. } | Self::WrongType { .. } | Self::MissingTensor { .. } => {
                "ModelIncomplete"
            }
            _ => "ModelDamaged",
        }
    }
}
