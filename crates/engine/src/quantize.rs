//! Makes a smaller GGUF file of a GGUF file, through candle's block formats.
//!
//! Works through the tensors in the order of the file, some rows at a time, so memory does not grow with the
//! model; metadata is carried over byte by byte, but for the two entries that say how the file is quantized.
//! The new file appears under its name only when it is whole, on the disk, and its head has been read back.
//!
//! What is refused: what the loader refuses, values that are no numbers, models split over several files,
//! and mixes of k-quants, which need more than one format per model to be any good.

mod plan;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::gguf::{self, Dtype, Header};
use crate::kernel;

/// Format of a whole model: what most of its weights are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are ggml's own and say all there is")]
pub enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// The tensor format of most weights.
    const fn dtype(self) -> Dtype {
        match self {
            Self::Q4_0 => Dtype::Q4_0,
            Self::Q4_1 => Dtype::Q4_1,
            Self::Q5_0 => Dtype::Q5_0,
            Self::Q5_1 => Dtype::Q5_1,
            Self::Q8_0 => Dtype::Q8_0,
        }
    }

    /// `general.file_type` (llama.cpp's `llama_ftype`).
    const fn file_type(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q5_0 => 8,
            Self::Q5_1 => 9,
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|format| format.name() == text);
        known.ok_or_else(|| match text {
            "Q4_K_M" | "Q5_K_M" => Error::NotSupported(format!(
                "quantizing to {text} (use Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0)"
            )),
            other => Error::Unknown(other.chars().take(40).collect()),
        })
    }
}

/// Why no file was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A format that nobody knows.
    #[error("unknown quantization {0:?}: use Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0")]
    Unknown(String),
    /// Something that comes later.
    #[error("not supported yet: {0}")]
    NotSupported(String),
    /// The file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The new file could not be written.
    #[error("could not {step} {}", path.display())]
    Write {
        /// The step, as a verb.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The disk or quota has no room left.
    #[error("no space left for {}: the partial file was removed", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// The head of the file is broken or says something impossible.
    #[error(transparent)]
    Header(#[from] gguf::Error),
    /// A tensor could not be read as its format.
    #[error("tensor {tensor:?} is not usable")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        source: kernel::Error,
    },
    /// A weight is no number, or larger than half precision can say.
    #[error("file is damaged or hostile: tensor {tensor:?} holds values that no block can hold")]
    NotFinite {
        /// Its name.
        tensor: String,
    },
    /// candle could not quantize.
    #[error("could not quantize tensor {tensor:?}")]
    Quantize {
        /// Its name.
        tensor: String,
        /// The cause.
        source: Box<candle_core::Error>,
    },
    /// The file is not what it was when the work began.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The new file would replace the one it is made of.
    #[error("the new file must not be the model itself: {}", path.display())]
    Same {
        /// The file.
        path: PathBuf,
    },
    /// The caller left.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::Same { .. } => "InvalidSpec",
            Self::NotSupported(_) => "NotSupportedYet",
            Self::Read { .. } => "ModelUnreadable",
            Self::Write { .. } => "StoreUnusable",
            Self::DiskFull { .. } => "DiskFull",
            Self::Header(error) => error.reason(),
            Self::Tensor { source, .. } => source.reason(),
            Self::NotFinite { .. } | Self::Changed { .. } => "ModelDamaged",
            Self::Quantize { .. } => "QuantizeFailed",
            Self::Cancelled => "Cancelled",
        }
    }

    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Read { path, source }
    }

    fn write(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Write { step, path, source },
        }
    }
}

/// A file that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// SHA-256 of the new file, in hexadecimal digits.
    pub sha256: String,
    /// Its size.
    pub size: u64,
    /// SHA-256 of the file it was made of.
    pub parent_sha256: String,
    /// Tensors in a new format.
    pub converted: usize,
    /// Tensors left as they were.
    pub copied: usize,
    /// Set if weights were quantized before: what was lost then cannot come back.
    pub warning: Option<String>,
}

/// What wrote the file, for the record of how it came to be.
pub const TOOL: &str = concat!(
    "mesh-engine/",
    env!("CARGO_PKG_VERSION"),
    " with candle 0.11"
);

/// Makes `out` of `model`. `progress` hears bytes done and bytes in all; `cancel` ends the work.
pub fn quantize(
    model: &Path,
    format: Format,
    out: &Path,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Quantized, Error> {
    let real = model.canonicalize().map_err(Error::read(model))?;
    if out.canonicalize().is_ok_and(|out| out == real) {
        return Err(Error::Same { path: real });
    }
    let mut file = File::open(&real).map_err(Error::read(&real))?;
    let before = Stamp::of(&file, &real)?;
    let header = Header::read(&mut file, before.length)?;
    let plan = plan::plan(&header, format)?;
    let mut parent = Parent { file, path: real };
    let made = write::write(&mut parent, &header, &plan, out, cancel, progress)?;
    // Read last: a file that was replaced meanwhile has another digest or another stamp.
    let parent_sha256 = parent.digest(cancel)?;
    if Stamp::of(&parent.file, &parent.path)? != before {
        made.discard();
        return Err(Error::Changed { path: parent.path });
    }
    let (sha256, size) = made.keep()?;
    let converted = plan.steps.iter().filter(|step| step.converts()).count();
    Ok(Quantized {
        sha256,
        size,
        parent_sha256,
        converted,
        copied: plan.steps.len() - converted,
        warning: plan.warning,
    })
}

/// The model file.
struct Parent {
    file: File,
    path: PathBuf,
}

impl Parent {
    fn digest(&mut self, cancel: &AtomicBool) -> Result<String, Error> {
        use std::io::Seek;
        self.file.rewind().map_err(Error::read(&self.path))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            stopped(cancel)?;
            let read = self.file.read(&mut buffer);
            match read.map_err(Error::read(&self.path))? {
                0 => return Ok(hex(&hash.finalize())),
                read => hash.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    }
}

fn stopped(cancel: &AtomicBool) -> Result<(), Error> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Tells a file from a changed one.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File, path: &Path) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(Error::read(path))?;
        Ok(Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}
