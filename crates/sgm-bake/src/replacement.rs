//! Changes of a file's bytes outside tensor data.

/// Bytes of a file that are replaced by others, such as a number in a header.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Replacement {
    /// The position in the original file.
    pub(crate) start: u64,
    /// The number of bytes that are removed.
    pub(crate) length: u64,
    /// The bytes that take their place.
    pub(crate) bytes: Vec<u8>,
    /// The number of zeros after them.
    pub(crate) zeros: u64,
}

/// The growth of a tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Growth {
    pub(crate) bytes: u64,
    /// Rows of a matrix, values of a vector.
    pub(crate) rows: u64,
    pub(crate) columns: u64,
}

impl Replacement {
    /// The replacement of a 64-bit number.
    pub(crate) fn of_u64(start: u64, value: u64) -> Self {
        Self { start, length: 8, bytes: value.to_le_bytes().to_vec(), zeros: 0 }
    }
}
