//! Headers of GGUF files: metadata, the tensor table and the tensor types.
//!
//! The format is described at <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A [`Header`] is read front to back from a stream
//! or from a slice, as untrusted input: for any bytes the result is a header or a [`ReadError`], and memory is bounded by the file's
//! length. Tensor data are never read. Versions 2 and 3 are supported, little-endian. A model may be split over several files:
//! [`part_paths`] finds them, [`check_parts`] checks that they belong together.
//!
//! ```
//! use sgm_core::gguf::{GgufProblem, Header, ReadError};
//!
//! // Version 3, no tensors, one metadata entry: the u32 `answer`.
//! let mut file = b"GGUF\x03\0\0\0".to_vec();
//! file.extend([0u64.to_le_bytes(), 1u64.to_le_bytes(), 6u64.to_le_bytes()].concat());
//! file.extend(b"answer\x04\0\0\0\x2a\0\0\0");
//! let header = Header::read(file.as_slice(), file.len() as u64)?;
//! assert_eq!(header.metadata["answer"].value.as_u64(), Some(42));
//!
//! let cut = Header::read(&file[..40], 40).unwrap_err();
//! assert!(matches!(cut, ReadError::Problem(GgufProblem::Truncated)));
//! # Ok::<(), ReadError>(())
//! ```

mod directory;
mod header;
mod problem;
mod reader;
mod split;
mod tensor_type;
mod value;

pub use directory::{is_mmproj_name, language_models_in};
pub use header::{Entry, Header, MAX_RANK, TensorInfo};
pub use problem::{GgufProblem, ReadError};
pub use split::{FileProblem, PartName, check_parts, part_paths};
pub use tensor_type::TensorType;
pub use value::{List, Value, ValueType};
