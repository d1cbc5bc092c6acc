//! Checkpoints: the files of a model and their locations.
//!
//! The entry is [`Checkpoint`](model_files::Checkpoint). The other files hold its parts: the local Hugging Face cache
//! and downloads, memory-mapped safetensors files, GGUF files, JSON settings with error messages that name file and
//! key, the fingerprint of weight files, and the description of a model.

pub(crate) mod fingerprint;
pub(crate) mod gguf;
pub(crate) mod hub;
pub(crate) mod mapped_safetensors;
pub(crate) mod memory_map;
pub(crate) mod model_files;
pub(crate) mod model_info;
pub(crate) mod section;
