//! Integration tests of sgm-models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod cache;
mod chat_templates;
mod gguf;
mod gguf_bytes;
mod gguf_converted;
mod gguf_files;
mod image_families;
mod image_limits;
mod images;
mod instructblip;
mod loading;
mod mixed_batches;
mod mllama;
mod tensor_names;
mod warnings;
