//! Metadata values of GGUF files.

use std::io::BufRead;

use super::problem::{GgufProblem, ReadError};
use super::reader::{Reader, Result};

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// An unsigned 8-bit integer.
    U8,
    /// A signed 8-bit integer.
    I8,
    /// An unsigned 16-bit integer.
    U16,
    /// A signed 16-bit integer.
    I16,
    /// An unsigned 32-bit integer.
    U32,
    /// A signed 32-bit integer.
    I32,
    /// A 32-bit float.
    F32,
    /// A byte: 0 is false, anything else true.
    Bool,
    /// A text with its length in front.
    Text,
    /// A list of values of one type.
    List,
    /// An unsigned 64-bit integer.
    U64,
    /// A signed 64-bit integer.
    I64,
    /// A 64-bit float.
    F64,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of any size.
    Unsigned(u64),
    /// A signed integer of any size.
    Signed(i64),
    /// A float of any size.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text; bytes that are not UTF-8 are replaced.
    Text(String),
    /// A list.
    List(List),
}

/// A list of the metadata, decoded on demand: vocabularies are large.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// The type of the elements.
    pub element: ValueType,
    /// The number of elements.
    pub len: u64,
    /// The position of the first element in the file.
    pub start: u64,
    /// The bytes of the elements, if they are of a fixed size and few.
    held: Option<Vec<u8>>,
}

/// The largest number of bytes of a list that a header holds: more than one number for each layer of any model.
const MOST_HELD: u64 = 1 << 19;
/// The deepest nesting of lists.
pub(super) const DEEPEST_LIST: u32 = 4;

impl ValueType {
    /// The types in the order of their numbers.
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
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of one value; none for texts and lists.
    pub fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::List => None,
        }
    }

    /// The largest value of an integer type; none for other types.
    pub fn largest_integer(self) -> Option<u64> {
        match self {
            Self::U8 => Some(u8::MAX.into()),
            Self::I8 => Some(i8::MAX.unsigned_abs().into()),
            Self::U16 => Some(u16::MAX.into()),
            Self::I16 => Some(i16::MAX.unsigned_abs().into()),
            Self::U32 => Some(u32::MAX.into()),
            Self::I32 => Some(i32::MAX.unsigned_abs().into()),
            Self::U64 => Some(u64::MAX),
            Self::I64 => Some(i64::MAX.unsigned_abs()),
            Self::F32 | Self::Bool | Self::Text | Self::List | Self::F64 => None,
        }
    }

    /// Reads the number of a type; `key` is for errors.
    pub(super) fn read<R: BufRead>(reader: &mut Reader<R>, key: &str) -> Result<Self> {
        let number = reader.u32()?;
        let known = usize::try_from(number).ok().and_then(|index| Self::ALL.get(index));
        known.copied().ok_or_else(|| GgufProblem::ValueType { key: key.to_owned(), number }.into())
    }
}

impl Value {
    /// Reads a value of a type; `key` is for errors.
    pub(super) fn read<R: BufRead>(reader: &mut Reader<R>, key: &str, kind: ValueType, depth: u32) -> Result<Self> {
        Ok(match kind {
            ValueType::U8 => Self::Unsigned(u8::from_le_bytes(reader.array()?).into()),
            ValueType::U16 => Self::Unsigned(u16::from_le_bytes(reader.array()?).into()),
            ValueType::U32 => Self::Unsigned(reader.u32()?.into()),
            ValueType::U64 => Self::Unsigned(reader.u64()?),
            ValueType::I8 => Self::Signed(i8::from_le_bytes(reader.array()?).into()),
            ValueType::I16 => Self::Signed(i16::from_le_bytes(reader.array()?).into()),
            ValueType::I32 => Self::Signed(i32::from_le_bytes(reader.array()?).into()),
            ValueType::I64 => Self::Signed(i64::from_le_bytes(reader.array()?)),
            ValueType::F32 => Self::Float(f32::from_le_bytes(reader.array()?).into()),
            ValueType::F64 => Self::Float(f64::from_le_bytes(reader.array()?)),
            ValueType::Bool => Self::Bool(reader.array::<1>()? != [0]),
            ValueType::Text => Self::Text(reader.text()?),
            ValueType::List => Self::List(List::read(reader, key, depth)?),
        })
    }

    /// The value as an unsigned integer; none for negative numbers and other types.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The value as a text; none for other types.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The value as a list; none for other types.
    pub fn as_list(&self) -> Option<&List> {
        if let Self::List(list) = self { Some(list) } else { None }
    }
}

impl List {
    /// Reads a list up to its end; `key` is for errors.
    fn read<R: BufRead>(reader: &mut Reader<R>, key: &str, depth: u32) -> Result<Self> {
        if depth == 0 {
            return Err(GgufProblem::Nesting { key: key.to_owned() }.into());
        }
        let (element, len) = (ValueType::read(reader, key)?, reader.u64()?);
        let mut list = Self { element, len, start: reader.at(), held: None };
        match element {
            ValueType::Text => {
                reader.room_for("strings in a list", len, 8)?;
                for _ in 0..len {
                    let length = reader.u64()?;
                    reader.skip(length)?;
                }
            }
            ValueType::List => {
                reader.room_for("lists in a list", len, 12)?;
                for _ in 0..len {
                    Self::read(reader, key, depth - 1)?;
                }
            }
            _ => {
                let size = element.size().unwrap_or(1);
                reader.room_for("values in a list", len, size)?;
                if len * size <= MOST_HELD {
                    list.held = Some(reader.bytes(len * size)?);
                } else {
                    reader.skip(len * size)?;
                }
            }
        }
        Ok(list)
    }

    /// The elements, decoded from the bytes of the whole file.
    pub fn values<'a>(&'a self, file: &'a [u8]) -> impl Iterator<Item = std::result::Result<Value, ReadError>> + 'a {
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        self.decode(file.get(start..).unwrap_or_default(), file.len() as u64)
    }

    /// The elements of a list of at most 512 KiB of numbers, which a header holds; none for other lists.
    pub fn held(&self) -> Option<impl Iterator<Item = std::result::Result<Value, ReadError>> + '_> {
        let held = self.held.as_deref()?;
        Some(self.decode(held, self.start + held.len() as u64))
    }

    fn decode<'a>(&self, elements: &'a [u8], length: u64) -> impl Iterator<Item = std::result::Result<Value, ReadError>> + use<'a> {
        let (element, mut reader) = (self.element, Reader::new(elements, self.start, length));
        (0..self.len).map(move |_| Value::read(&mut reader, "", element, DEEPEST_LIST))
    }
}
