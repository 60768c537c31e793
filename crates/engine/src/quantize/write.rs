//! The new file: head, then tensors one after the other, hashed as they are written. It lies beside its
//! final name until it is kept; whatever goes wrong before removes it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::plan::{Plan, Step};
use super::{Error, Parent, hex, stopped};
use crate::gguf::{Dtype, Header};
use crate::kernel;

/// Values converted at once: 16 MiB as f32.
const CHUNK: u64 = 1 << 22;
/// Values that one thread quantizes at once.
const SHARE: usize = 1 << 18;
/// Largest value that half precision can say; not a number is not below it.
const LARGEST: f32 = 65_504.0;
/// Bytes copied at once.
const COPY: u64 = 1 << 20;
/// ggml's `GGML_QNT_VERSION`: how the blocks are laid out.
const LAYOUT: u32 = 2;
/// What a quantized file says of itself.
const OWN: [&str; 2] = ["general.file_type", "general.quantization_version"];

/// A whole file that is not kept yet.
pub(super) struct Made {
    partial: Partial,
    out: PathBuf,
    sha256: String,
    size: u64,
}

impl Made {
    /// Gives it its name.
    pub(super) fn keep(self) -> Result<(String, u64), Error> {
        fs::rename(&self.partial.0, &self.out).map_err(Error::write("rename", &self.out))?;
        if let Some(folder) = self.out.parent() {
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(Error::write("flush", folder))?;
        }
        Ok((self.sha256.clone(), self.size))
    }

    /// Forgets it.
    pub(super) fn discard(self) {
        drop(self);
    }
}

/// The file beside the final name; removed with the value unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed, or never made.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes and hashes.
struct Out<'a> {
    file: File,
    path: &'a Path,
    hash: Sha256,
    at: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(Error::write("write", self.path))?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        (self.progress)(self.at, self.total);
        Ok(())
    }

    /// Zeros up to the next tensor.
    fn pad(&mut self, alignment: u64) -> Result<(), Error> {
        let gap = self.at.next_multiple_of(alignment) - self.at;
        let zeros = vec![0; usize::try_from(gap).unwrap_or_default()];
        self.put(&zeros)
    }
}

pub(super) fn write(
    parent: &mut Parent,
    header: &Header,
    plan: &Plan,
    out: &Path,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Made, Error> {
    let alignment = header.alignment();
    let head = head(parent, header, plan)?;
    let data: u64 = plan
        .steps
        .iter()
        .map(|step| step.length().next_multiple_of(alignment))
        .sum();
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    let partial = Partial(PathBuf::from(name));
    let file = File::create(&partial.0).map_err(Error::write("create", &partial.0))?;
    let mut sink = Out {
        file,
        path: &partial.0,
        hash: Sha256::new(),
        at: 0,
        total: (head.len() as u64).next_multiple_of(alignment) + data,
        progress,
    };
    sink.put(&head)?;
    sink.pad(alignment)?;
    for step in &plan.steps {
        match step.from {
            None => copy(parent, step, &mut sink, cancel)?,
            Some(from) => convert(parent, step, from, &mut sink, cancel)?,
        }
        sink.pad(alignment)?;
    }
    let (size, sha256) = (sink.at, hex(&sink.hash.finalize()));
    sink.file
        .sync_all()
        .map_err(Error::write("flush", &partial.0))?;
    check(&partial.0, size)?;
    Ok(Made {
        partial,
        out: out.to_path_buf(),
        sha256,
        size,
    })
}

/// What was written is read back as anybody would read it.
fn check(path: &Path, size: u64) -> Result<(), Error> {
    let mut file = File::open(path).map_err(Error::read(path))?;
    Header::read(&mut file, size)?;
    Ok(())
}

/// Everything before the tensor data.
fn head(parent: &mut Parent, header: &Header, plan: &Plan) -> Result<Vec<u8>, Error> {
    let kept: Vec<_> = header
        .entries()
        .iter()
        .filter(|entry| !OWN.contains(&entry.key.as_str()))
        .collect();
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3_u32.to_le_bytes());
    head.extend((plan.steps.len() as u64).to_le_bytes());
    head.extend((kept.len() as u64 + OWN.len() as u64).to_le_bytes());
    for entry in kept {
        let length = entry.end.saturating_sub(entry.start);
        head.extend(read(parent, entry.start, length)?);
    }
    for (key, value) in OWN.iter().zip([plan.format.file_type(), LAYOUT]) {
        text(&mut head, key);
        head.extend(4_u32.to_le_bytes()); // the value type u32
        head.extend(value.to_le_bytes());
    }
    let mut offset = 0_u64;
    for step in &plan.steps {
        text(&mut head, &step.tensor.name);
        let dims = &step.tensor.dims;
        head.extend(u32::try_from(dims.len()).unwrap_or_default().to_le_bytes());
        for extent in dims {
            head.extend(extent.to_le_bytes());
        }
        head.extend(step.to.code().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += step.length().next_multiple_of(header.alignment());
    }
    Ok(head)
}

fn text(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

/// Bytes that the header has proven to be in the file; one that shrank meanwhile ends here.
fn read(parent: &mut Parent, start: u64, length: u64) -> Result<Vec<u8>, Error> {
    let Parent { file, path } = parent;
    file.seek(SeekFrom::Start(start))
        .map_err(Error::read(path))?;
    let mut bytes = Vec::new();
    let read = file
        .take(length)
        .read_to_end(&mut bytes)
        .map_err(Error::read(path))?;
    if read as u64 != length {
        return Err(Error::Changed { path: path.clone() });
    }
    Ok(bytes)
}

fn copy(
    parent: &mut Parent,
    step: &Step,
    out: &mut Out<'_>,
    cancel: &AtomicBool,
) -> Result<(), Error> {
    let mut done = 0;
    while done < step.tensor.len {
        stopped(cancel)?;
        let length = COPY.min(step.tensor.len - done);
        let bytes = read(parent, step.tensor.offset + done, length)?;
        out.put(&bytes)?;
        done += length;
    }
    Ok(())
}

/// Some rows at a time: blocks never reach over the end of a row.
fn convert(
    parent: &mut Parent,
    step: &Step,
    from: kernel::Type,
    out: &mut Out<'_>,
    cancel: &AtomicBool,
) -> Result<(), Error> {
    let name = || step.tensor.name.clone();
    let unusable = |source| Error::Tensor {
        tensor: name(),
        source,
    };
    let (row, rows) = (step.row(), step.rows());
    let row_bytes = step.tensor.len / rows;
    let at_once = (CHUNK / row).max(1);
    let columns = usize::try_from(row).unwrap_or(usize::MAX);
    let mut done = 0;
    while done < rows {
        stopped(cancel)?;
        let count = at_once.min(rows - done);
        let start = step.tensor.offset + done * row_bytes;
        let bytes = read(parent, start, count * row_bytes)?;
        let many = usize::try_from(count).unwrap_or(usize::MAX);
        let values = kernel::dequantize(from, &bytes, many, columns).map_err(unusable)?;
        if !values.iter().all(|value| value.abs() <= LARGEST) {
            return Err(Error::NotFinite { tensor: name() });
        }
        for encoded in encode(step, &values, columns)? {
            out.put(&encoded)?;
        }
        done += count;
    }
    Ok(())
}

/// The values in the new format, in order.
fn encode(step: &Step, values: &[f32], columns: usize) -> Result<Vec<Vec<u8>>, Error> {
    let Some(kind) = candle(step.to) else {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        return Ok(vec![bytes.collect()]);
    };
    let share = (SHARE / columns.max(1)).max(1) * columns;
    values
        .par_chunks(share)
        .map(|values| {
            let rows = values.len() / columns;
            Tensor::from_slice(values, (rows, columns), &Device::Cpu)
                .and_then(|tensor| QTensor::quantize(&tensor, kind))
                .and_then(|tensor| tensor.data().map(std::borrow::Cow::into_owned))
                .map_err(|source| Error::Quantize {
                    tensor: step.tensor.name.clone(),
                    source: Box::new(source),
                })
        })
        .collect()
}

/// candle's word for the formats that a plan gives out; none for plain floats.
const fn candle(dtype: Dtype) -> Option<GgmlDType> {
    match dtype {
        Dtype::Q4_0 => Some(GgmlDType::Q4_0),
        Dtype::Q4_1 => Some(GgmlDType::Q4_1),
        Dtype::Q5_0 => Some(GgmlDType::Q5_0),
        Dtype::Q5_1 => Some(GgmlDType::Q5_1),
        Dtype::Q8_0 => Some(GgmlDType::Q8_0),
        Dtype::Q6_K => Some(GgmlDType::Q6K),
        _ => None,
    }
}
