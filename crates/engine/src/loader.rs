//! Reads the tensors of a GGUF file, one at a time, into the layout of the device.
//!
//! The file is hostile until proven otherwise: the header has been checked against the length of
//! the file (`gguf`), every shape is checked against what the family expects before anything is
//! allocated, and nothing is allocated that is not in proportion to bytes that the file really has.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use sha2::{Digest, Sha256};

use crate::gguf::{self, Header, Tensor};
use crate::kernel::{self, Matrix, Precision, Type};
use crate::options::Compute;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or read.
    #[error("could not read the model file")]
    Read(#[source] io::Error),
    /// The head of the file is broken or says something impossible.
    #[error(transparent)]
    Header(#[from] gguf::Error),
    /// The file needs something this engine does not have.
    #[error("not supported yet: {0}")]
    NotSupported(String),
    /// A number in the metadata is outside what any model has.
    #[error("the model file says {key} = {value}, which must be {bound}")]
    Bound {
        /// Metadata key.
        key: String,
        /// What it says.
        value: u64,
        /// What it may be.
        bound: &'static str,
    },
    /// A tensor has another shape than the metadata demands.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file, rows first.
        found: Vec<u64>,
        /// Shape that the metadata demands.
        expected: Vec<u64>,
    },
    /// The data of a tensor could not be used.
    #[error("tensor {name} is not usable")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong.
        source: kernel::Error,
    },
    /// A device did not take something.
    #[error("the device did not take {what}")]
    Device {
        /// A tensor's name, or a thing.
        what: String,
        /// What the device says.
        source: Box<candle_core::Error>,
    },
}

impl Error {
    /// Stable word for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "ModelUnreadable",
            Self::Header(error) => error.reason(),
            Self::NotSupported(_) => "NotSupported",
            Self::Bound { .. } => "ModelOutOfBounds",
            Self::Shape { .. } => "TensorShapeWrong",
            Self::Tensor { source, .. } => source.reason(),
            Self::Device { .. } => "DeviceFailed",
        }
    }
}

/// Bytes of each tensor that count for the fingerprint.
const SAMPLE: u64 = 4_096;

/// An open model file.
#[derive(Debug)]
pub struct Source {
    file: File,
    header: Header,
}

impl Source {
    /// Opens the file and checks its head.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::Read)?;
        let length = file.metadata().map_err(Error::Read)?.len();
        let header = Header::read(&mut io::BufReader::new(&mut file), length)?;
        Ok(Self { file, header })
    }

    /// What the head says.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Appends the tensor `name` of `rows` x `matrix.columns()` to `matrix`.
    pub fn append(
        &mut self,
        matrix: &mut Matrix,
        name: &str,
        rows: usize,
        precision: Precision,
    ) -> Result<(), Error> {
        let (kind, bytes) = self.bytes(name, &[rows, matrix.columns()])?;
        matrix
            .push(kind, &bytes, rows, precision)
            .map_err(|source| unusable(name, source))
    }

    /// One matrix of one or several tensors that read the same input.
    pub fn matrix(
        &mut self,
        parts: &[(&str, usize)],
        columns: usize,
        precision: Precision,
    ) -> Result<Matrix, Error> {
        let mut matrix = Matrix::new(columns);
        for (name, rows) in parts {
            self.append(&mut matrix, name, *rows, precision)?;
        }
        Ok(matrix)
    }

    /// A tensor as it is, on a device of candle.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        device: &candle_core::Device,
    ) -> Result<QTensor, Error> {
        let (kind, bytes) = self.bytes(name, shape)?;
        let made = qtensor_from_ggml(kind.ggml(), &bytes, shape.to_vec(), device);
        made.map_err(|source| Error::Device {
            what: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// A vector as f32.
    pub fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, Error> {
        let (kind, bytes) = self.bytes(name, &[length])?;
        kernel::dequantize(kind, &bytes, 1, length).map_err(|source| unusable(name, source))
    }

    /// A vector as f32, where it may be absent.
    pub fn find_vector(&mut self, name: &str, length: usize) -> Result<Option<Vec<f32>>, Error> {
        self.header
            .find_tensor(name)
            .is_some()
            .then(|| self.vector(name, length))
            .transpose()
    }

    /// A short hash over names, shapes and the first bytes of all tensors, and over how they are computed.
    ///
    /// It tells models and versions apart; it does not prove integrity (the model store does).
    pub fn fingerprint(&mut self, compute: Compute) -> Result<String, Error> {
        let mut hash = Sha256::new();
        hash.update(format!("{} {compute:?}", env!("CARGO_PKG_VERSION")));
        for tensor in self.header.tensors() {
            hash.update(format!(
                "{} {:?} {}",
                tensor.name,
                tensor.dims,
                tensor.dtype.code()
            ));
            self.file
                .seek(SeekFrom::Start(tensor.offset))
                .map_err(Error::Read)?;
            let mut bytes = Vec::new();
            (&mut self.file)
                .take(tensor.len.min(SAMPLE))
                .read_to_end(&mut bytes)
                .map_err(Error::Read)?;
            hash.update(&bytes);
        }
        Ok(short(hash))
    }

    fn bytes(&mut self, name: &str, shape: &[usize]) -> Result<(Type, Vec<u8>), Error> {
        let tensor = self.header.tensor(name)?;
        let expected: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
        check_shape(tensor, &expected)?;
        let kind = Type::new(tensor.dtype.code()).map_err(|source| unusable(name, source))?;
        let (offset, length) = (tensor.offset, tensor.len);
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(Error::Read)?;
        let mut bytes = Vec::new();
        // The header proved that the file has these bytes; a file that shrinks meanwhile ends here.
        let read = (&mut self.file)
            .take(length)
            .read_to_end(&mut bytes)
            .map_err(Error::Read)?;
        if read as u64 != length {
            return Err(Error::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok((kind, bytes))
    }
}

/// A hash as answers show it: the first 8 bytes.
pub(crate) fn short(hash: Sha256) -> String {
    let digest = hash.finalize();
    let shown = digest.iter().take(8);
    shown.fold(String::from("fp_"), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

fn check_shape(tensor: &Tensor, expected: &[u64]) -> Result<(), Error> {
    let mut found = tensor.shape();
    // A vector may be written with leading extents of one.
    while found.len() > expected.len() && found.first() == Some(&1) {
        found.remove(0);
    }
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        name: tensor.name.clone(),
        found,
        expected: expected.to_vec(),
    })
}

fn unusable(name: &str, source: kernel::Error) -> Error {
    Error::Tensor {
        name: name.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
