//! Which tensor gets which format, decided before anything is written. Pure. Keeps what quantizing would
//! ruin: norms and other vectors, rope tables, routers of experts, rows that are not whole blocks.

use super::{Error, Format};
use crate::gguf::{Dtype, Header, Tensor};
use crate::kernel::Type;

/// Longest row: a row is held in memory as a whole. Real ones have at most some 100,000 values.
const LONGEST_ROW: u64 = 1 << 24;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) format: Format,
    /// One for every tensor, in the order of the file.
    pub(super) steps: Vec<Step>,
    pub(super) warning: Option<String>,
}

/// What becomes of one tensor.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) tensor: Tensor,
    pub(super) to: Dtype,
    /// How its bytes are read, where they have to be.
    pub(super) from: Option<Type>,
}

impl Step {
    /// False: its bytes are carried over as they are.
    pub(super) const fn converts(&self) -> bool {
        self.from.is_some()
    }

    pub(super) fn row(&self) -> u64 {
        self.tensor.dims.first().copied().unwrap_or(1)
    }

    pub(super) fn rows(&self) -> u64 {
        self.tensor.dims.iter().skip(1).product()
    }

    /// Bytes in the new file.
    pub(super) fn length(&self) -> u64 {
        self.row() / self.to.block_len() * self.to.block_bytes() * self.rows()
    }
}

pub(super) fn plan(header: &Header, format: Format) -> Result<Plan, Error> {
    if header
        .optional("split.count", Header::u64)?
        .is_some_and(|count| count > 1)
    {
        return Err(Error::NotSupported(String::from(
            "a model that is split over several files: join them first",
        )));
    }
    let tied = header.find_tensor("output.weight").is_none();
    let mut before = Vec::new();
    let mut steps = Vec::new();
    for tensor in header.tensors() {
        let to = format_of(tensor, format, tied);
        let from = (to != tensor.dtype).then(|| readable(tensor)).transpose()?;
        if from.is_some() && tensor.dtype.block_len() > 1 && !before.contains(&tensor.dtype) {
            before.push(tensor.dtype);
        }
        steps.push(Step {
            tensor: tensor.clone(),
            to,
            from,
        });
    }
    before.sort_unstable();
    let names: Vec<String> = before.iter().map(|dtype| format!("{dtype:?}")).collect();
    let warning = (!names.is_empty()).then(|| {
        let names = names.join(", ");
        format!("quantized again: weights were {names} already, and what was lost then stays lost")
    });
    Ok(Plan {
        format,
        steps,
        warning,
    })
}

fn readable(tensor: &Tensor) -> Result<Type, Error> {
    let row = tensor.dims.first().copied().unwrap_or(1);
    if row > LONGEST_ROW {
        return Err(Error::NotSupported(format!(
            "rows of {row} values (tensor {:?})",
            tensor.name
        )));
    }
    Type::new(tensor.dtype.code()).map_err(|source| Error::Tensor {
        tensor: tensor.name.clone(),
        source,
    })
}

fn format_of(tensor: &Tensor, format: Format, tied: bool) -> Dtype {
    let float = tensor.dtype.block_len() == 1;
    let rows: u64 = tensor.dims.iter().skip(1).product();
    let row = tensor.dims.first().copied().unwrap_or(1);
    if rows == 1 {
        // Norms and biases: a few thousand values that everything is multiplied by.
        return if float { Dtype::F32 } else { tensor.dtype };
    }
    let name = tensor.name.as_str();
    let kept = !name.ends_with(".weight")
        || ["_norm.", "rope_freqs", "ffn_gate_inp.", "position_embd."]
            .iter()
            .any(|part| name.contains(part));
    if kept || !row.is_multiple_of(format.dtype().block_len()) {
        return tensor.dtype;
    }
    let output = name == "output.weight" || (tied && name == "token_embd.weight");
    match format {
        // The last product decides between tokens whose scores are close: it stays finer than the rest.
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 if output => {
            if row.is_multiple_of(Dtype::Q6_K.block_len()) {
                Dtype::Q6_K
            } else {
                Dtype::Q8_0
            }
        }
        _ => format.dtype(),
    }
}
