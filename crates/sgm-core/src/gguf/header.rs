//! The header of a GGUF file: metadata and the tensor table.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::problem::{GgufProblem, ReadError};
use super::reader::{Reader, Result};
use super::tensor_type::TensorType;
use super::value::{DEEPEST_LIST, Value, ValueType};

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The metadata by key.
    pub metadata: BTreeMap<String, Entry>,
    /// The tensors in the order of the file's table. No two of them have a name or a byte in common.
    pub tensors: Vec<TensorInfo>,
    /// The number of which the offsets of tensors are multiples: a power of two from 8 up.
    pub alignment: u64,
    /// The position in the file from which the offsets of tensors count.
    pub data_start: u64,
    /// The length of the file.
    pub length: u64,
}

/// A metadata value with its place in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The type in the file.
    pub value_type: ValueType,
    /// The position of the value in the file.
    pub start: u64,
    /// The value.
    pub value: Value,
}

/// The largest number of dimensions of a tensor.
pub const MAX_RANK: usize = 4;

/// An entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// The dimensions, innermost first, filled up with 1: a matrix is `[inputs, outputs, 1, 1]`.
    pub dimensions: [u64; MAX_RANK],
    /// The number of dimensions in the file.
    pub rank: usize,
    /// The type.
    pub tensor_type: TensorType,
    /// The position of the tensor's first byte in the file.
    pub start: u64,
    /// The position after the tensor's last byte in the file.
    pub end: u64,
    /// The position of the dimensions in the header, 8 bytes each.
    pub dimensions_start: u64,
    /// The position of the tensor's offset in the header, 8 bytes.
    pub offset_start: u64,
}

const ARCHITECTURE: &str = "general.architecture";
const ALIGNMENT: &str = "general.alignment";
const PARTS: &str = "split.count";
const PART: &str = "split.no";
const PART_TENSORS: &str = "split.tensors.count";
/// The largest number of bytes of a metadata key, by the format's description.
const LONGEST_KEY: u64 = 65_535;
/// The largest number of bytes of a tensor name. ggml has 64; other writers have written more.
const LONGEST_NAME: u64 = 1_024;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes of the shortest metadata entry: an empty key, a type, a value of one byte.
const SHORTEST_VALUE: u64 = 8 + 4 + 1;
/// Bytes of the shortest tensor entry: an empty name, no dimensions, a type, an offset.
const SHORTEST_TENSOR: u64 = 8 + 4 + 4 + 8;

impl Header {
    /// Reads the header of a file of `length` bytes; `source` starts at the file's first byte.
    ///
    /// # Errors
    ///
    /// [`ReadError::Problem`] when the file is malformed or its version is not supported, [`ReadError::Io`] when the source reports an
    /// error.
    pub fn read(source: impl BufRead, length: u64) -> std::result::Result<Self, ReadError> {
        let mut reader = Reader::new(source, 0, length);
        if reader.array::<4>()? != *b"GGUF" {
            return Err(GgufProblem::Magic.into());
        }
        match reader.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => return Err(GgufProblem::BigEndian.into()),
            version => return Err(GgufProblem::Version { version }.into()),
        }
        let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
        reader.room_for("metadata entries", value_count, SHORTEST_VALUE)?;
        reader.room_for("tensors", tensor_count, SHORTEST_TENSOR)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.name("metadata entry", LONGEST_KEY)?;
            if metadata.contains_key(&key) {
                return Err(GgufProblem::DuplicateKey { key }.into());
            }
            let entry = Entry::read(&mut reader, &key)?;
            metadata.insert(key, entry);
        }
        let alignment = integer(&metadata, ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment < 8 {
            return Err(GgufProblem::Alignment { value: alignment }.into());
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(TensorInfo::read(&mut reader, alignment)?);
        }
        // The data start at the first aligned byte after the table.
        let data_start = reader.at().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        place(&mut tensors, data_start, length)?;
        Ok(Self { metadata, tensors, alignment, data_start, length })
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key).map(|entry| &entry.value)
    }

    /// The architecture: the value of `general.architecture`.
    pub fn architecture(&self) -> Option<&str> {
        self.get(ARCHITECTURE).and_then(Value::as_text)
    }

    /// The number of this part, from 1, and the number of parts of a model split over several files; none for a whole model.
    ///
    /// # Errors
    ///
    /// [`GgufProblem::KeyType`] when either is no whole number, [`GgufProblem::MissingKey`] when the part has no number.
    pub fn part(&self) -> std::result::Result<Option<(u64, u64)>, GgufProblem> {
        match integer(&self.metadata, PARTS)? {
            Some(count) if count > 1 => {
                let number = integer(&self.metadata, PART)?.ok_or_else(|| GgufProblem::MissingKey { key: PART.to_owned() })?;
                Ok(Some((number.saturating_add(1), count)))
            }
            _ => Ok(None),
        }
    }

    /// The number of tensors of all parts of a model, where a part says it.
    pub(super) fn tensors_of_all_parts(&self) -> std::result::Result<Option<u64>, GgufProblem> {
        integer(&self.metadata, PART_TENSORS)
    }

    /// Checks that the file holds a whole model.
    ///
    /// # Errors
    ///
    /// [`GgufProblem::Split`] when it is one of several parts, [`GgufProblem::KeyType`] when the number of parts is no whole number.
    pub fn check_whole(&self) -> std::result::Result<(), GgufProblem> {
        match integer(&self.metadata, PARTS)? {
            Some(count) if count > 1 => Err(GgufProblem::Split { count }),
            _ => Ok(()),
        }
    }
}

impl Entry {
    fn read<R: BufRead>(reader: &mut Reader<R>, key: &str) -> Result<Self> {
        let value_type = ValueType::read(reader, key)?;
        let start = reader.at();
        let value = match (key, value_type) {
            (ARCHITECTURE, ValueType::Text) => Value::Text(reader.name("architecture", LONGEST_NAME)?),
            (ARCHITECTURE, _) => return Err(GgufProblem::KeyType { key: key.to_owned(), expected: "a string" }.into()),
            _ => Value::read(reader, key, value_type, DEEPEST_LIST)?,
        };
        Ok(Self { value_type, start, value })
    }
}

impl TensorInfo {
    /// Reads an entry, whose start and end still count from the first tensor.
    fn read<R: BufRead>(reader: &mut Reader<R>, alignment: u64) -> Result<Self> {
        let name = reader.name("tensor", LONGEST_NAME)?;
        let given_rank = reader.u32()?;
        let (dimensions_start, mut dimensions) = (reader.at(), [1; MAX_RANK]);
        let rank = usize::try_from(given_rank).unwrap_or(usize::MAX);
        let Some(given) = dimensions.get_mut(..rank) else {
            return Err(GgufProblem::Dimensions { tensor: name, rank: given_rank, dimensions: Vec::new() }.into());
        };
        for dimension in given {
            *dimension = reader.u64()?;
        }
        let number = reader.u32()?;
        let (offset_start, offset) = (reader.at(), reader.u64()?);
        let Some(tensor_type) = TensorType::from_number(number) else {
            return Err(GgufProblem::TensorType { tensor: name, number }.into());
        };
        let [innermost, ..] = dimensions;
        if dimensions.contains(&0) || !innermost.is_multiple_of(tensor_type.block_values) {
            let dimensions = dimensions.into_iter().take(rank).collect();
            return Err(GgufProblem::Dimensions { tensor: name, rank: given_rank, dimensions }.into());
        }
        if !offset.is_multiple_of(alignment) {
            return Err(GgufProblem::Misaligned { tensor: name, offset, alignment }.into());
        }
        let values = dimensions.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        let size = values.and_then(|n| (n / tensor_type.block_values).checked_mul(tensor_type.block_bytes));
        match size.and_then(|size| offset.checked_add(size)) {
            Some(end) => Ok(Self { name, dimensions, rank, tensor_type, start: offset, end, dimensions_start, offset_start }),
            None => Err(GgufProblem::Overflow { tensor: name }.into()),
        }
    }

    /// The dimensions in the file, innermost first.
    pub fn shape(&self) -> &[u64] {
        self.dimensions.get(..self.rank).unwrap_or(&self.dimensions)
    }
}

/// The whole number under a key, if the key is there.
fn integer(metadata: &BTreeMap<String, Entry>, key: &str) -> std::result::Result<Option<u64>, GgufProblem> {
    let wrong = || GgufProblem::KeyType { key: key.to_owned(), expected: "a whole number" };
    metadata.get(key).map(|entry| entry.value.as_u64().ok_or_else(wrong)).transpose()
}

/// Turns offsets into positions in the file; checks that tensors lie within the file, do not overlap and have different names.
fn place(tensors: &mut [TensorInfo], data_start: u64, length: u64) -> Result<()> {
    for tensor in &mut *tensors {
        match (tensor.start.checked_add(data_start), tensor.end.checked_add(data_start)) {
            (Some(start), Some(end)) if end <= length => (tensor.start, tensor.end) = (start, end),
            (Some(_), Some(end)) => return Err(GgufProblem::OutOfRange { tensor: tensor.name.clone(), end, length }.into()),
            _ => return Err(GgufProblem::Overflow { tensor: tensor.name.clone() }.into()),
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.start);
    for (first, second) in order.iter().zip(order.iter().skip(1)) {
        if first.end > second.start {
            return Err(GgufProblem::Overlap { first: first.name.clone(), second: second.name.clone() }.into());
        }
    }
    order.sort_by(|a, b| a.name.cmp(&b.name));
    match order.iter().zip(order.iter().skip(1)).find(|(a, b)| a.name == b.name) {
        Some((twice, _)) => Err(GgufProblem::DuplicateTensor { tensor: twice.name.clone() }.into()),
        None => Ok(()),
    }
}
