//! Weights in memory-mapped safetensors and torch files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sgm_core::quantisation::{self, Fp8};
use sgm_core::torch_file::{TorchTensor, read_torch_file};

use crate::checkpoint::fp8;
use crate::checkpoint::memory_map::{map_file, release_pages};
use crate::error::{Error, Result};
use crate::layers::linear::{StoredWeight, StoredWeights};

/// The tensors of one or more safetensors files, or of torch files.
///
/// A tensor is read from disk on request, and its pages are released once it is copied, so that loading a model takes
/// no more memory than the model itself. Matrices of 8-bit floats are multiplied by their scales.
#[derive(Debug)]
pub(crate) struct MappedWeights {
    files: Vec<Bytes>,
    tensors: BTreeMap<String, Entry>,
    fp8: Option<Fp8>,
}

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Entry {
    file: usize,
    view: TorchTensor,
}

/// The tensors of a safetensors file, which are contiguous.
fn safetensors_header(path: &Path, bytes: &[u8]) -> Result<Vec<(String, TorchTensor)>> {
    let damaged = |e: safetensors::SafeTensorError| Error::Weights { path: path.to_owned(), reason: e.to_string() };
    SafeTensors::deserialize(bytes).map_err(damaged)?;
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let offset = |at: usize| at + header + size_of::<u64>();
    let view = |info: &safetensors::tensor::TensorInfo| {
        let (start, end) = info.data_offsets;
        TorchTensor::contiguous(info.dtype, info.shape.clone(), offset(start)..offset(end))
    };
    let tensors: BTreeMap<_, _> = metadata.tensors().into_iter().collect();
    Ok(tensors.into_iter().map(|(name, info)| (name, view(info))).collect())
}

/// The tensors of a torch file.
fn torch_header(path: &Path, bytes: &[u8]) -> Result<Vec<(String, TorchTensor)>> {
    let entries = read_torch_file(path, bytes)?.into_iter();
    let tensor = |(name, tensor): (String, std::result::Result<TorchTensor, String>)| {
        let refused = |reason| sgm_core::Error::NotTorch { path: path.to_owned(), reason: format!("`{name}`: {reason}") };
        Ok((name.clone(), tensor.map_err(refused)?))
    };
    entries.map(tensor).collect()
}

impl MappedWeights {
    /// Maps files and reads their headers. The files must not change while they are mapped.
    pub(crate) fn open(paths: &[PathBuf], fp8: Option<Fp8>) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new(), fp8 };
        for path in paths {
            weights.add(path, Bytes::Mapped(map_file(path)?))?;
        }
        Ok(weights)
    }

    /// Reads the header of a file in memory; `path` names it in errors.
    pub(crate) fn embedded(path: &Path, bytes: &'static [u8], fp8: Option<Fp8>) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new(), fp8 };
        weights.add(path, Bytes::Embedded(bytes))?;
        Ok(weights)
    }

    fn add(&mut self, path: &Path, bytes: Bytes) -> Result<()> {
        let torch = path.extension().is_some_and(|extension| extension == "bin");
        for (name, view) in if torch { torch_header(path, bytes.all())? } else { safetensors_header(path, bytes.all())? } {
            quantisation::check_tensor(&name, view.dtype, self.fp8)?;
            if let Some(other) = self.tensors.insert(name.clone(), Entry { file: self.files.len(), view }) {
                tracing::warn!(tensor = name, file = %path.display(), first = other.file, "a tensor is in two files; the later one is used");
            }
        }
        self.files.push(bytes);
        Ok(())
    }

    /// The names of the tensors, without the scales that belong to other tensors.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let quantised = self.tensors.iter().filter(|(_, entry)| entry.view.dtype == Dtype::F8_E4M3);
        let scales: BTreeSet<String> = quantised.flat_map(|(name, _)| quantisation::scales_of(name)).collect();
        self.tensors.keys().filter(|name| !scales.contains(*name)).cloned().collect()
    }

    /// The number of bytes that all tensors of 16-bit floats take in f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        self.tensors.values().filter(|t| matches!(t.view.dtype, Dtype::F16 | Dtype::BF16)).map(|t| 2 * t.view.bytes.len()).sum()
    }

    /// Loads a tensor in its stored dtype; one of 8-bit floats in f32.
    fn load(&self, name: &str, device: &Device) -> CandleResult<Tensor> {
        let missing = || candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt();
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        let file = self.files.get(entry.file).ok_or_else(missing)?;
        let TorchTensor { dtype, shape, bytes: range, .. } = &entry.view;
        let stored = file.all().get(range.clone()).ok_or_else(missing)?;
        let bytes = if entry.view.is_contiguous() { Cow::Borrowed(stored) } else { Cow::Owned(entry.view.gather(file.all())) };
        let tensor = if *dtype == Dtype::F8_E4M3 {
            let scales = quantisation::scales_of(name).into_iter().find(|scales| self.tensors.contains_key(scales.as_str()));
            let Some(scales) = scales else { candle_core::bail!("{name} is in 8-bit floats, and the checkpoint has no scales for it") };
            let scales = self.load(&scales, &Device::Cpu)?;
            fp8::widen(name, &bytes, shape, &scales, self.fp8.and_then(|fp8| fp8.block))?.to_device(device)?
        } else {
            TensorView::new(*dtype, shape.clone(), &bytes).map_err(candle_core::Error::wrap)?.load(device)?
        };
        if let Bytes::Mapped(map) = file {
            release_pages(map, range.clone());
        }
        Ok(tensor)
    }
}

/// The tensor, if it has the shape that a layer asks for.
pub(crate) fn of_shape(tensor: Tensor, shape: Shape, name: &str) -> CandleResult<Tensor> {
    if tensor.shape() == &shape {
        return Ok(tensor);
    }
    let msg = format!("shape mismatch for {name}");
    Err(candle_core::Error::UnexpectedShape { msg, expected: shape, got: tensor.shape().clone() }.bt())
}

/// [`MappedWeights`] as the source of a `VarBuilder`.
pub(crate) struct MappedBackend(pub(crate) Arc<MappedWeights>);

impl SimpleBackend for MappedBackend {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        of_shape(self.get_unchecked(name, dtype, device)?, shape, name)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.0.load(name, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }
}

impl StoredWeights for MappedWeights {
    fn matrix(&self, name: &str, device: &Device) -> CandleResult<Option<StoredWeight>> {
        match self.tensors.get(name).map(|entry| entry.view.dtype) {
            Some(Dtype::F16 | Dtype::BF16) => Ok(Some(StoredWeight::Half(self.load(name, device)?))),
            _ => Ok(None),
        }
    }
}
