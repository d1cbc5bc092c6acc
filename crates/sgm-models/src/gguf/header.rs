//! The layout of a GGUF file: metadata, and where each tensor is (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! candle reads the format too, but refuses a whole file for one tensor of an unknown type without saying which, holds
//! all metadata in memory, and divides by the alignment that the file states, which may be 0.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use memmap2::Mmap;
use serde_json::{Map, Value};

use crate::config::Section;
use crate::mapped::{give_back, map_file};
use crate::{Error, Result};

/// A memory-mapped GGUF file.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: Section,
    arrays: BTreeMap<String, Array>,
    tensors: BTreeMap<String, Stored>,
}

/// An array of the metadata, decoded when it is asked for: vocabularies are large.
#[derive(Debug)]
struct Array {
    kind: Kind,
    len: usize,
    start: usize,
}

/// A tensor of the file.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: GgmlDType,
    /// As Hugging Face writes it: a matrix is `[outputs, inputs]`.
    pub(crate) shape: Vec<usize>,
    range: Range<usize>,
}

impl Stored {
    /// The rows of a matrix, or the values of a vector.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
}

/// The types of metadata values, by their numbers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of one value; none where that depends on the value.
    fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }
}

/// The tensor types that can be used, by their numbers in the file.
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

/// Types met in published files that candle has no kernels for.
const OTHERS: [(u32, &str); 12] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

const DEFAULT_ALIGNMENT: usize = 32;

impl Gguf {
    /// Maps a file and reads its header. The file must not change while it is mapped.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let header = Header::read(&map, &path.display().to_string()).map_err(|problem| problem.into_error(path))?;
        Ok(Self { path: path.to_owned(), metadata: header.metadata, arrays: header.arrays, tensors: header.tensors, map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The error that the file as a whole deserves.
    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Gguf { path: self.path.clone(), reason: reason.into() }
    }

    /// All metadata but arrays.
    pub(crate) fn metadata(&self) -> &Section {
        &self.metadata
    }

    /// A list of strings of the metadata.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "strings", |value| if let Value::String(text) = value { Some(text) } else { None })
    }

    /// A list of numbers of the metadata.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, "numbers", |value| value.as_f64().or_else(|| value.as_bool().map(|b| f64::from(u8::from(b)))))
    }

    fn list<T>(&self, key: &str, what: &str, convert: impl Fn(Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(array) = self.arrays.get(key) else {
            return if self.metadata.has(key) { Err(self.metadata.error(key, format!("expected a list of {what}"))) } else { Ok(None) };
        };
        let mut reader = Reader { bytes: &self.map, at: array.start };
        let list = (0..array.len).map(|_| reader.value(array.kind).ok().and_then(&convert)).collect::<Option<Vec<T>>>();
        list.map(Some).ok_or_else(|| self.metadata.error(key, format!("expected a list of {what}")))
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// Bytes that all tensors of fewer than 32 bits take in f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        let values = |t: &Stored| t.range.len() / t.dtype.type_size() * t.dtype.block_size();
        self.tensors.values().filter(|t| t.dtype != GgmlDType::F32).map(|t| size_of::<f32>() * values(t)).sum()
    }

    /// Calls a function with the bytes of a tensor, which are aligned for its type.
    pub(crate) fn with_bytes<T>(&self, tensor: &Stored, f: impl FnOnce(&[u8]) -> T) -> T {
        let result = f(self.map.get(tensor.range.clone()).unwrap_or_default());
        give_back(&self.map, tensor.range.clone());
        result
    }
}

/// Why a header cannot be used.
enum Problem {
    Damaged(String),
    Unsupported { tensor: String, got: String },
}

impl Problem {
    fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Damaged(reason) => Error::Gguf { path: path.to_owned(), reason },
            Self::Unsupported { tensor, got } => {
                Error::Unsupported { what: "tensor type", got: format!("{got} of {tensor}"), supported: SUPPORTED }
            }
        }
    }
}

/// What is read of a file at first.
struct Header {
    metadata: Section,
    arrays: BTreeMap<String, Array>,
    tensors: BTreeMap<String, Stored>,
}

impl Header {
    fn read(bytes: &[u8], file: &str) -> std::result::Result<Self, Problem> {
        let damaged = |reason: &str| Problem::Damaged(reason.to_owned());
        let mut reader = Reader { bytes, at: 0 };
        if reader.array::<4>().ok() != Some(*b"GGUF") {
            return Err(damaged("it does not begin with `GGUF`"));
        }
        match reader.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => return Err(damaged("it is big-endian; convert it for this machine")),
            version => return Err(Problem::Damaged(format!("version {version} is not supported; convert the model again"))),
        }
        let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
        let (mut values, mut arrays) = (Map::new(), BTreeMap::new());
        for _ in 0..value_count {
            let key = reader.text()?;
            if values.contains_key(&key) || arrays.contains_key(&key) {
                return Err(Problem::Damaged(format!("`{key}` is there twice")));
            }
            match reader.kind()? {
                Kind::Array => {
                    let (kind, len) = (reader.kind()?, reader.length()?);
                    let array = Array { kind, len, start: reader.at };
                    reader.skip(kind, len)?;
                    arrays.insert(key, array);
                }
                kind => {
                    let value = reader.value(kind)?;
                    values.insert(key, value);
                }
            }
        }
        let alignment = match values.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => {
                let valid = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| n.is_power_of_two() && *n >= 8);
                valid.ok_or_else(|| Problem::Damaged(format!("`general.alignment` is {value}")))?
            }
        };
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let tensor = reader.tensor(&name)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(Problem::Damaged(format!("tensor {name} is there twice")));
            }
        }
        // Offsets in the directory count from the first aligned byte after it.
        let data = reader.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        for (name, tensor) in &mut tensors {
            let place = |at: usize| data.checked_add(at).filter(|at| *at <= bytes.len());
            let (Some(start), Some(end)) = (place(tensor.range.start), place(tensor.range.end)) else {
                return Err(Problem::Damaged(format!("tensor {name} is beyond the end of the file; download or copy it again")));
            };
            if !tensor.range.start.is_multiple_of(alignment) {
                return Err(Problem::Damaged(format!("tensor {name} is not aligned")));
            }
            tensor.range = start..end;
        }
        Ok(Self { metadata: Section::from_map(file, values), arrays, tensors })
    }
}

/// Reads a file's header from its bytes. No count that the file claims is believed before its bytes are there.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = std::result::Result<T, Problem>;

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| Problem::Damaged("it ends within its header; download or copy it again".to_owned()))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| Problem::Damaged(String::new()))
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of bytes or elements; one that does not fit in memory is beyond any file.
    fn length(&mut self) -> Read<usize> {
        Ok(usize::try_from(self.u64()?).unwrap_or(usize::MAX))
    }

    fn text(&mut self) -> Read<String> {
        let length = self.length()?;
        // Should a vocabulary hold parts of characters, they are replaced.
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn kind(&mut self) -> Read<Kind> {
        let number = self.u32()?;
        let kind = usize::try_from(number).ok().and_then(|n| Kind::ALL.get(n));
        kind.copied().ok_or_else(|| Problem::Damaged(format!("it has a value of unknown type {number}")))
    }

    fn value(&mut self, kind: Kind) -> Read<Value> {
        Ok(match kind {
            Kind::U8 => u8::from_le_bytes(self.array()?).into(),
            Kind::I8 => i8::from_le_bytes(self.array()?).into(),
            Kind::U16 => u16::from_le_bytes(self.array()?).into(),
            Kind::I16 => i16::from_le_bytes(self.array()?).into(),
            Kind::U32 => self.u32()?.into(),
            Kind::I32 => i32::from_le_bytes(self.array()?).into(),
            Kind::U64 => self.u64()?.into(),
            Kind::I64 => i64::from_le_bytes(self.array()?).into(),
            Kind::F32 => f64::from(f32::from_le_bytes(self.array()?)).into(),
            Kind::F64 => f64::from_le_bytes(self.array()?).into(),
            Kind::Bool => (self.array::<1>()? != [0]).into(),
            Kind::Text => self.text()?.into(),
            Kind::Array => return Err(Problem::Damaged("it has lists of lists".to_owned())),
        })
    }

    /// Passes over values without decoding them.
    fn skip(&mut self, kind: Kind, count: usize) -> Read<()> {
        match kind.size() {
            Some(size) => self.take(count.saturating_mul(size)).map(drop),
            None if kind == Kind::Array => self.value(kind).map(drop),
            None => {
                for _ in 0..count {
                    let length = self.length()?;
                    self.take(length)?;
                }
                Ok(())
            }
        }
    }

    /// An entry of the tensor directory, its range still counted from the first tensor.
    fn tensor(&mut self, name: &str) -> Read<Stored> {
        let damaged = |what: &str| Problem::Damaged(format!("tensor {name}: {what}"));
        let rank = match self.u32()? {
            rank @ 1..=4 => rank,
            rank => return Err(damaged(&format!("it has {rank} dimensions"))),
        };
        let mut shape = (0..rank).map(|_| self.length()).collect::<Read<Vec<usize>>>()?;
        let number = self.u32()?;
        let Some((_, dtype)) = TENSOR_TYPES.into_iter().find(|(id, _)| *id == number) else {
            let known = OTHERS.into_iter().find(|(id, _)| *id == number);
            let got = known.map_or_else(|| format!("number {number}"), |(_, name)| name.to_owned());
            return Err(Problem::Unsupported { tensor: name.to_owned(), got });
        };
        let start = self.length()?;
        // Blocks lie within the innermost dimension, which comes first here.
        if shape.contains(&0) || !shape.first().is_some_and(|inner| inner.is_multiple_of(dtype.block_size())) {
            return Err(damaged(&format!("{shape:?} values of type {dtype:?}")));
        }
        shape.reverse();
        let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        let size = elements.and_then(|n| (n / dtype.block_size()).checked_mul(dtype.type_size()));
        let end = size.and_then(|size| start.checked_add(size)).ok_or_else(|| damaged("its size overflows"))?;
        Ok(Stored { dtype, shape, range: start..end })
    }
}
