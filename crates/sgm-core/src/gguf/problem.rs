//! The problems of GGUF files, and the error of reading one.

use std::io;

/// The reason why a GGUF file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufProblem {
    /// The file does not begin with `GGUF`.
    #[error("it does not begin with `GGUF`; is it another kind of file?")]
    Magic,
    /// The version is not supported.
    #[error("GGUF version {version} is not supported, only 2 and 3; convert the model again")]
    Version {
        /// The version.
        version: u32,
    },
    /// The file is big-endian.
    #[error("it is big-endian; convert it with gguf-py's gguf_convert_endian")]
    BigEndian,
    /// The file ends within its header.
    #[error("it ends within its header; download or copy it again")]
    Truncated,
    /// A count exceeds the bytes left in the file.
    #[error("it claims to have {count} {what}, more than fit; download or copy it again")]
    TooMany {
        /// The things counted.
        what: &'static str,
        /// The count in the file.
        count: u64,
    },
    /// A name exceeds the length limit.
    #[error("the name of a {what} is said to be {length} bytes long; download or copy it again")]
    TooLong {
        /// The thing named.
        what: &'static str,
        /// The length in the file.
        length: u64,
    },
    /// A name is not UTF-8.
    #[error("the name of a {what} is not UTF-8; download or copy it again")]
    NotUtf8 {
        /// The thing named.
        what: &'static str,
    },
    /// A metadata value has an unknown type.
    #[error("`{key}` has a value of unknown type {number}; download it again or update this software")]
    ValueType {
        /// The metadata key.
        key: String,
        /// The type's number.
        number: u32,
    },
    /// A metadata value has lists nested too deeply.
    #[error("`{key}` is nested too deeply")]
    Nesting {
        /// The metadata key.
        key: String,
    },
    /// A required metadata entry has a value of the wrong type.
    #[error("`{key}` is not {expected}")]
    KeyType {
        /// The metadata key.
        key: String,
        /// The type in words.
        expected: &'static str,
    },
    /// A required metadata entry is missing.
    #[error("`{key}` is missing; convert the model again")]
    MissingKey {
        /// The metadata key.
        key: String,
    },
    /// The MLP width in the metadata differs from that of the tensors.
    #[error("`{key}` is {value}, and the tensors have {expected}; convert the model again")]
    Width {
        /// The metadata key.
        key: String,
        /// The value in the metadata.
        value: u64,
        /// The width of the tensors.
        expected: u64,
    },
    /// A metadata key occurs twice.
    #[error("`{key}` is there twice; convert the model again")]
    DuplicateKey {
        /// The metadata key.
        key: String,
    },
    /// The alignment is not a power of two from 8 up.
    #[error("`general.alignment` is {value}, not a power of two from 8 up; convert the model again")]
    Alignment {
        /// The alignment.
        value: u64,
    },
    /// The file is one part of a split model, and is used alone.
    #[error("it is one of {count} parts of a model, and is no model without the others")]
    Split {
        /// The number of parts.
        count: u64,
    },
    /// The file is one part of a split model, and its name does not tell those of the others.
    #[error(
        "it is one of {count} parts of a model; rename the files to `<name>-00001-of-{count:05}.gguf` and so on, by which they find each other"
    )]
    PartName {
        /// The number of parts.
        count: u64,
    },
    /// The file is not the part of a split model that its name says.
    #[error(
        "its name says part {number} of {of}, its metadata part {found} of {found_of}; give it its name back, or download the model again"
    )]
    PartNumber {
        /// The number of the part by its name, from 1.
        number: u64,
        /// The number of parts by its name.
        of: u64,
        /// The number of the part by its metadata, from 1.
        found: u64,
        /// The number of parts by its metadata.
        found_of: u64,
    },
    /// A part of a split model is not there.
    #[error("part {number} of {count} of the model is missing; put all parts into one directory")]
    MissingPart {
        /// The number of the part, from 1.
        number: u64,
        /// The number of parts.
        count: u64,
    },
    /// The parts of a split model do not have as many tensors as one of them says.
    #[error("it says that all parts have {expected} tensors together, and they have {found}; download the model again")]
    PartTensors {
        /// The number in the metadata.
        expected: u64,
        /// The number of tensors of all parts.
        found: u64,
    },
    /// A tensor name occurs twice.
    #[error("tensor {tensor} is there twice; convert the model again")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has too many dimensions, an empty one, or rows that are no whole blocks.
    #[error(
        "tensor {tensor} has {rank} dimensions {dimensions:?}, innermost first, which do not suit its type; download or copy the file again"
    )]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// The number of dimensions.
        rank: u32,
        /// The dimensions, innermost first; empty if there are too many.
        dimensions: Vec<u64>,
    },
    /// A tensor has an unknown type.
    #[error("tensor {tensor} is of unknown type {number}; download it again or update this software")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's number.
        number: u32,
    },
    /// A tensor's size or position exceeds 64 bits.
    #[error("tensor {tensor} is larger than any file; download or copy it again")]
    Overflow {
        /// The tensor.
        tensor: String,
    },
    /// A tensor does not begin at a multiple of the alignment.
    #[error("tensor {tensor} begins at {offset}, not a multiple of {alignment}; convert the model again")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// The tensor's offset within the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor ends beyond the end of the file.
    #[error("tensor {tensor} ends at byte {end} of a file of {length}; download or copy it again")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// The tensor's end in the file.
        end: u64,
        /// The file's length.
        length: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap; download or copy the file again")]
    Overlap {
        /// One tensor.
        first: String,
        /// The other tensor.
        second: String,
    },
}

/// The error of reading a header.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source reported an error.
    #[error("cannot read: {0}")]
    Io(#[source] io::Error),
    /// The file is malformed or not supported.
    #[error(transparent)]
    Problem(#[from] GgufProblem),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Problem(GgufProblem::Truncated) } else { Self::Io(error) }
    }
}
