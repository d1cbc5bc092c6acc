//! Integration tests of the crate's files and readers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

mod files;
mod gguf;
#[cfg(feature = "image-formats")]
mod images;
mod torch_file;
