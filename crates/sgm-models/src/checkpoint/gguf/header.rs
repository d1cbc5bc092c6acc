//! A memory-mapped GGUF file, or all parts of a split one: metadata by key, and tensors by name.
//!
//! The header is read by [`sgm_core::gguf`]. candle's reader refuses a whole file for one tensor of an unknown type without naming it,
//! holds all metadata in memory, and divides by the alignment that the file states, which may be 0.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use memmap2::Mmap;
use sgm_core::gguf::{FileProblem, GgufProblem, Header, ReadError, TensorInfo, Value, check_parts, part_paths};

use crate::checkpoint::memory_map::{map_file, release_pages};
use crate::checkpoint::section::Section;
use crate::error::{Error, Result};

/// A memory-mapped GGUF file, or all parts of a split one.
#[derive(Debug)]
pub(crate) struct Gguf {
    /// The file, or the first part, which has the metadata.
    first: Part,
    others: Vec<Part>,
    metadata: Section,
    tensors: BTreeMap<String, StoredTensor>,
}

/// One file.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

/// A tensor of the file.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    pub(crate) dtype: GgmlDType,
    /// The shape in Hugging Face's order: a matrix is `[outputs, inputs]`.
    pub(crate) shape: Vec<usize>,
    /// The part that has it, from 0.
    part: usize,
    range: Range<usize>,
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let header = Header::read(&map[..], map.len() as u64).map_err(|error| refused(path, error))?;
        Ok(Self { path: path.to_owned(), map, header })
    }
}

impl StoredTensor {
    /// The rows of a matrix, or the values of a vector.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
}

/// The tensor types for which candle has kernels, by their numbers in the file.
const TENSOR_TYPES: [(u32, GgmlDType); 13] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (30, GgmlDType::BF16),
];

const SUPPORTED: &[&str] = &["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];

impl Gguf {
    /// Maps a file, or all parts of the model of which it is one, and reads the headers. The files must not change
    /// while they are mapped.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let misplaced = |FileProblem { path, problem }: FileProblem| Error::Gguf { path, reason: problem.to_string() };
        let given = Part::open(path)?;
        let paths = part_paths(path, &given.header).map_err(misplaced)?;
        let mut given = Some(given);
        let mut open = |part: &PathBuf| given.take_if(|given| given.path == *part).map_or_else(|| Part::open(part), Ok);
        let mut parts = paths.iter().map(&mut open).collect::<Result<Vec<_>>>()?;
        check_parts(&parts.iter().map(|part| (part.path.as_path(), &part.header)).collect::<Vec<_>>()).map_err(misplaced)?;
        let mut tensors = BTreeMap::new();
        for (index, part) in parts.iter().enumerate() {
            for tensor in &part.header.tensors {
                tensors.insert(tensor.name.clone(), StoredTensor::of(tensor, index)?);
            }
        }
        let others = parts.split_off(1.min(parts.len()));
        let first = parts.pop().ok_or_else(|| Error::Gguf { path: path.to_owned(), reason: "it has no parts".to_owned() })?;
        let scalars = first.header.metadata.iter().filter_map(|(key, entry)| Some((key.clone(), json(&entry.value)?)));
        let metadata = Section::from_map(&first.path.display().to_string(), scalars.collect());
        Ok(Self { first, others, metadata, tensors })
    }

    /// The path of the file, or of the first part.
    pub(crate) fn path(&self) -> &Path {
        &self.first.path
    }

    /// The paths of all parts, in order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.first).chain(&self.others).map(|part| part.path.as_path())
    }

    fn part(&self, index: usize) -> Option<&Part> {
        index.checked_sub(1).map_or(Some(&self.first), |index| self.others.get(index))
    }

    /// The names of all tensors, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// An error about the file as a whole.
    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Gguf { path: self.path().to_owned(), reason: reason.into() }
    }

    /// All metadata but lists.
    pub(crate) fn metadata(&self) -> &Section {
        &self.metadata
    }

    /// A list of strings of the metadata.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "strings", |value| if let Value::Text(text) = value { Some(text) } else { None })
    }

    /// A list of numbers of the metadata.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, "numbers", |value| match value {
            Value::Unsigned(number) => Some(number as f64),
            Value::Signed(number) => Some(number as f64),
            Value::Float(number) => Some(number).filter(|number| number.is_finite()),
            Value::Bool(flag) => Some(f64::from(u8::from(flag))),
            Value::Text(_) | Value::List(_) => None,
        })
    }

    fn list<T>(&self, key: &str, what: &str, convert: impl Fn(Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let list = match self.first.header.get(key) {
            None => return Ok(None),
            Some(Value::List(list)) => list.values(&self.first.map).map(|value| value.ok().and_then(&convert)).collect::<Option<Vec<T>>>(),
            Some(_) => None,
        };
        list.map(Some).ok_or_else(|| self.metadata.error(key, format!("expected a list of {what}")))
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// The bytes of all tensors of fewer than 32 bits per value, if they were f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        let values = |t: &StoredTensor| t.range.len() / t.dtype.type_size() * t.dtype.block_size();
        self.tensors.values().filter(|t| t.dtype != GgmlDType::F32).map(|t| size_of::<f32>() * values(t)).sum()
    }

    /// Calls a function with the bytes of a tensor, which are aligned for its type.
    pub(crate) fn with_bytes<T>(&self, tensor: &StoredTensor, f: impl FnOnce(&[u8]) -> T) -> T {
        let Some(Part { map, .. }) = self.part(tensor.part) else { return f(&[]) };
        let result = f(map.get(tensor.range.clone()).unwrap_or_default());
        release_pages(map, tensor.range.clone());
        result
    }
}

/// The error of a header that cannot be read.
fn refused(path: &Path, error: ReadError) -> Error {
    match error {
        ReadError::Io(source) => Error::Io { path: path.to_owned(), source },
        ReadError::Problem(GgufProblem::TensorType { tensor, number }) => unsupported(&tensor, format!("number {number}")),
        ReadError::Problem(problem) => Error::Gguf { path: path.to_owned(), reason: problem.to_string() },
    }
}

fn unsupported(tensor: &str, kind: impl Display) -> Error {
    Error::Unsupported { what: "tensor type", got: format!("{kind} of {tensor}"), supported: SUPPORTED }
}

/// A scalar of the metadata as JSON; none for lists.
fn json(value: &Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::Unsigned(number) => (*number).into(),
        Value::Signed(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Bool(flag) => (*flag).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(_) => return None,
    })
}

impl StoredTensor {
    /// An entry of the tensor table, if candle has kernels for the tensor's type.
    fn of(tensor: &TensorInfo, part: usize) -> Result<Self> {
        let known = TENSOR_TYPES.into_iter().find(|(number, _)| *number == tensor.tensor_type.number);
        let (_, dtype) = known.ok_or_else(|| unsupported(&tensor.name, tensor.tensor_type.name))?;
        // A file that is mapped as a whole has positions and dimensions within usize.
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let shape = tensor.shape().iter().rev().map(|n| size(*n)).collect();
        Ok(Self { dtype, shape, part, range: size(tensor.start)..size(tensor.end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sgm_core::gguf::TensorType;

    #[test]
    fn block_sizes_equal_candles() {
        for (number, dtype) in TENSOR_TYPES {
            let known = TensorType::from_number(number).unwrap();
            let expected = (dtype.block_size(), dtype.type_size());
            assert_eq!((known.block_values, known.block_bytes), (expected.0 as u64, expected.1 as u64), "{}", known.name);
            assert!(SUPPORTED.contains(&known.name));
        }
    }
}
