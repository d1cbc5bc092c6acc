//! Vectors in small torch files.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use sgm_core::torch_file::{TorchTensor, read_torch_file};

use crate::Error;

/// The vectors of these names in a dictionary saved by `torch.save`; missing names are left out.
///
/// Vectors of f32, f64, f16 or bf16 are converted to f32; a tensor may have further dimensions of size 1, and be a view of a larger
/// storage. The file is interpreted, never executed.
///
/// # Errors
///
/// [`Error::Import`] when the file cannot be read, is not a torch file of a dictionary, or one of these names is not a vector.
pub fn torch_vectors(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let refused = |reason: String| Error::Import { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| refused(format!("it cannot be read: {e}")))?;
    let entries = read_torch_file(path, &bytes).map_err(|error| match error {
        sgm_core::Error::NotTorch { reason, .. } => refused(reason),
        other => refused(other.to_string()),
    })?;
    let wanted = entries.into_iter().filter(|(name, _)| names.contains(&name.as_str()));
    let vector = |(name, tensor): (String, Result<TorchTensor, String>)| {
        let vector = tensor.and_then(|tensor| vector(&tensor, &bytes)).map_err(|reason| refused(format!("`{name}`: {reason}")))?;
        Ok((name, vector))
    };
    wanted.map(vector).collect()
}

/// The numbers of a tensor with at most one dimension whose size is not 1.
#[allow(clippy::cast_possible_truncation, reason = "vectors of neurons are kept in f32")]
fn vector(tensor: &TorchTensor, file: &[u8]) -> Result<Vec<f32>, String> {
    if tensor.shape.iter().filter(|size| **size != 1).count() > 1 {
        return Err(format!("its shape is {:?}, expected one vector", tensor.shape));
    }
    let bytes = tensor.gather(file);
    Ok(match tensor.dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(format!("its numbers are {other:?}, expected f32, f64, f16 or bf16")),
    })
}
