//! Weights in memory-mapped safetensors files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::linear::{StoredWeight, StoredWeights};
use crate::{Error, Result};

/// The tensors of one or more safetensors files.
///
/// Files stay on disk: a tensor is read when it is asked for, and its pages are given back once it is copied, so that
/// loading a model takes no more memory than the model.
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
    /// Bytes from the beginning of the file.
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

    /// Bytes that all tensors of 16-bit floats take in f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        self.tensors.values().filter(|t| matches!(t.dtype, Dtype::F16 | Dtype::BF16)).map(|t| 2 * (t.end - t.start)).sum()
    }

    /// A tensor in the dtype it is stored in.
    fn load(&self, name: &str, device: &Device) -> CandleResult<Tensor> {
        let missing = || candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt();
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        let map = self.maps.get(entry.map).ok_or_else(missing)?;
        let bytes = map.get(entry.start..entry.end).ok_or_else(missing)?;
        let tensor = TensorView::new(entry.dtype, entry.shape.clone(), bytes).map_err(candle_core::Error::wrap)?.load(device)?;
        give_back(map, entry.start..entry.end);
        Ok(tensor)
    }
}

/// Maps a file, which must not change while it is mapped.
#[allow(unsafe_code, reason = "memory-mapping is the one way not to hold the weights twice")]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    // SAFETY: the map is read-only, and `Checkpoint::tensors` documents that the files must not change meanwhile.
    unsafe { Mmap::map(&file) }.map_err(io)
}

/// Tells the system that the pages of a tensor will not be needed again soon; should they be, it reads them anew.
#[cfg(unix)]
#[allow(unsafe_code, reason = "the advice frees pages")]
pub(crate) fn give_back(map: &Mmap, range: Range<usize>) {
    // SAFETY: the map is of a file and read-only, so that freed pages come back with the same bytes.
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    if let Err(error) = advised {
        tracing::debug!(%error, "the system keeps the pages of loaded weights");
    }
}

#[cfg(not(unix))]
pub(crate) fn give_back(_: &Mmap, _: Range<usize>) {}

/// [`MappedWeights`] as the source of a `VarBuilder`.
pub(crate) struct MappedBackend(pub(crate) Arc<MappedWeights>);

impl SimpleBackend for MappedBackend {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            let error = candle_core::Error::UnexpectedShape {
                msg: format!("shape mismatch for {name}"),
                expected: shape,
                got: tensor.shape().clone(),
            };
            return Err(error.bt());
        }
        Ok(tensor)
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
