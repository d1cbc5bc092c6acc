//! Integration tests of baking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "test code")]

mod directory;
mod gguf;
mod gguf_hostile;
mod golden;
mod mixtures;
mod safetensors_hostile;
mod split_gguf;
mod weight_files;
mod widened;
