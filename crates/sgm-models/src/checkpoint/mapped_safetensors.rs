//! Weights in memory-mapped safetensors files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::checkpoint::memory_map::{map_file, release_pages};
use crate::error::{Error, Result};
use crate::layers::linear::{StoredWeight, StoredWeights};

/// The tensors of one or more memory-mapped safetensors files.
///
/// A tensor is read from disk on request, and its pages are released once it is copied, so that loading a model takes
/// no more memory than the model itself.
#[derive(Debug)]
pub(crate) struct MappedWeights {
    maps: Vec<Mmap>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    map: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The range of bytes, counted from the beginning of the file.
    start: usize,
    end: usize,
}

impl MappedWeights {
    /// Maps files and reads their headers. The files must not change while they are mapped.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        let (mut maps, mut tensors) = (Vec::new(), BTreeMap::new());
        for (map, path) in paths.iter().enumerate() {
            let mapped = map_file(path)?;
            let damaged = |e: safetensors::SafeTensorError| Error::Weights { path: path.to_owned(), reason: e.to_string() };
            SafeTensors::deserialize(&mapped).map_err(damaged)?;
            let (header, metadata) = SafeTensors::read_metadata(&mapped).map_err(damaged)?;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let offset = |at: usize| at + header + size_of::<u64>();
                let entry = Entry { map, dtype: info.dtype, shape: info.shape.clone(), start: offset(start), end: offset(end) };
                tensors.insert(name, entry);
            }
            maps.push(mapped);
        }
        Ok(Self { maps, tensors })
    }

    /// The number of bytes that all tensors of 16-bit floats take in f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        self.tensors.values().filter(|t| matches!(t.dtype, Dtype::F16 | Dtype::BF16)).map(|t| 2 * (t.end - t.start)).sum()
    }

    /// Loads a tensor in its stored dtype.
    fn load(&self, name: &str, device: &Device) -> CandleResult<Tensor> {
        let missing = || candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt();
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        let map = self.maps.get(entry.map).ok_or_else(missing)?;
        let bytes = map.get(entry.start..entry.end).ok_or_else(missing)?;
        let tensor = TensorView::new(entry.dtype, entry.shape.clone(), bytes).map_err(candle_core::Error::wrap)?.load(device)?;
        release_pages(map, entry.start..entry.end);
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
        match self.tensors.get(name).map(|entry| entry.dtype) {
            Some(Dtype::F16 | Dtype::BF16) => Ok(Some(StoredWeight::Half(self.load(name, device)?))),
            _ => Ok(None),
        }
    }
}
