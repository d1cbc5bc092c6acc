//! Integration tests of the organism, its world and its data.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

mod benchmark_manifest;
mod benchmark_runs;
mod benchmark_source;
mod data;
mod grammar;
mod rates;
mod render;
mod verdicts;
