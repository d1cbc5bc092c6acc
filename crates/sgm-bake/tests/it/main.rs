//! Integration tests of baking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "test code")]

mod directory;
mod gguf;
mod gguf_hostile;
mod golden;
mod safetensors_hostile;
mod weight_files;
mod widened;
