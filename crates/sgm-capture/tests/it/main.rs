//! Integration tests of stores and imports.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

#[cfg(feature = "candle")]
mod import;
mod store;
