//! Integration tests of sgm-models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod cache;
mod gguf;
mod image_families;
mod image_limits;
mod images;
mod instructblip;
mod mllama;
