/// Why a GGUF file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufProblem {
    /// It does not begin with the format's four letters.
    #[error("it does not begin with `GGUF`; is it another kind of file?")]
    Magic,
    /// It is of a version that is not understood.
    #[error("GGUF version {version} is not supported, only 2 and 3; convert the model again")]
    Version {
        /// The version.
        version: u32,
    },
    /// Its numbers are big-endian.
    #[error("it is big-endian; convert it with gguf-py's gguf_convert_endian")]
    BigEndian,
    /// It ends within its header.
    #[error("it ends within its header; download or copy it again")]
    Truncated,
    /// It claims more entries than it has bytes for.
    #[error("it claims to have {count} {what}, more than fit; download or copy it again")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The number claimed.
        count: u64,
    },
    /// A name is longer than names may be.
    #[error("the name of a {what} is said to be {length} bytes long; download or copy it again")]
    TooLong {
        /// What is named.
        what: &'static str,
        /// The length claimed.
        length: u64,
    },
    /// A name is not UTF-8.
    #[error("the name of a {what} is not UTF-8; download or copy it again")]
    NotUtf8 {
        /// What is named.
        what: &'static str,
    },
    /// A metadata value has a type that does not exist.
    #[error("`{key}` has a value of unknown type {number}; download it again or update this software")]
    ValueType {
        /// The metadata key.
        key: String,
        /// The number of the type.
        number: u32,
    },
    /// A metadata value has lists within lists within lists.
    #[error("`{key}` is nested too deeply")]
    Nesting {
        /// The metadata key.
        key: String,
    },
    /// A metadata entry that is needed has a value of the wrong type.
    #[error("`{key}` is not {expected}")]
    KeyType {
        /// The metadata key.
        key: String,
        /// The type in words.
        expected: &'static str,
    },
    /// A metadata entry that is needed is not there.
    #[error("`{key}` is missing; convert the model again")]
    MissingKey {
        /// The metadata key.
        key: String,
    },
    /// The metadata have another width of MLPs than the tensors.
    #[error("`{key}` is {value}, and the tensors have {expected}; convert the model again")]
    Width {
        /// The metadata key.
        key: String,
        /// Its value.
        value: u64,
        /// The width of the tensors.
        expected: u64,
    },
    /// A metadata entry that is needed is there twice.
    #[error("`{key}` is there twice; convert the model again")]
    DuplicateKey {
        /// The metadata key.
        key: String,
    },
    /// The alignment of tensors is not usable.
    #[error("`general.alignment` is {value}, not a power of two from 8 up; convert the model again")]
    Alignment {
        /// The alignment.
        value: u64,
    },
    /// The file is one part of a model.
    #[error("it is one of {count} parts of a model; put them together first with llama.cpp's `llama-gguf-split --merge`")]
    Split {
        /// The number of parts.
        count: u64,
    },
    /// Two tensors have the same name.
    #[error("tensor {tensor} is there twice; convert the model again")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has no sensible shape.
    #[error(
        "tensor {tensor} has {rank} dimensions {dimensions:?}, innermost first, which do not suit its type; download or copy the file again"
    )]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// The number of dimensions.
        rank: u32,
        /// The dimensions, innermost first; none where there are too many.
        dimensions: Vec<u64>,
    },
    /// A tensor has a type that does not exist.
    #[error("tensor {tensor} is of unknown type {number}; download it again or update this software")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of the type.
        number: u32,
    },
    /// A tensor's size or place exceeds 64 bits.
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
        /// Its offset in the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor ends beyond the end of the file.
    #[error("tensor {tensor} ends at byte {end} of a file of {length}; download or copy it again")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Its end in the file.
        end: u64,
        /// The file's length.
        length: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap; download or copy the file again")]
    Overlap {
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
}
