//! GGUF checkpoints, the format of llama.cpp: a language model in one file or in several parts, and for a multimodal
//! model its vision tower in another file (`mmproj`).
//!
//! Both are read as if they were the Hugging Face directory from which they were converted: with the same configuration
//! keys, tensor names and order of rows.

pub(crate) mod architecture;
pub(crate) mod config;
pub(crate) mod gguf_model;
pub(crate) mod header;
pub(crate) mod pairing;
pub(crate) mod projector;
pub(crate) mod tokenizer;
pub(crate) mod weights;
