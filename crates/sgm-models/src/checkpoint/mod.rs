//! Checkpoints: the files of a model and their locations.
//!
//! The entry is [`Checkpoint`](model_files::Checkpoint). The other files hold its parts: the local Hugging Face cache
//! and downloads, memory-mapped weight files, 8-bit floats, the record of what a model reads, SentencePiece tokenizers,
//! GGUF files, JSON settings with error messages that name file and key, special tokens, the fingerprint of weight files,
//! and the description of a model.

pub(crate) mod fingerprint;
pub(crate) mod fp8;
pub(crate) mod gguf;
pub(crate) mod hub;
pub(crate) mod mapped_weights;
pub(crate) mod memory_map;
pub(crate) mod model_files;
pub(crate) mod model_info;
pub(crate) mod read_tensors;
pub(crate) mod section;
pub(crate) mod sentence_piece;
pub(crate) mod special_tokens;
