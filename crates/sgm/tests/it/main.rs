//! Integration tests over all crates, on the embedded organism and the small checkpoints with golden files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "test code"
)]

mod answer_start;
mod answers;
mod attribution_patching;
mod bad_input;
mod bad_samples;
mod bake;
mod budget;
mod candle_models;
mod capture;
#[cfg(target_os = "linux")]
mod capture_faults;
mod causal_experts;
mod close;
mod conditional;
mod conditional_patches;
mod conformance;
mod defend_organism;
mod divergence;
mod dtypes;
mod experts;
mod host_copies;
mod incremental;
#[cfg(target_os = "linux")]
mod large_model;
mod measurement;
mod parity;
mod real_gguf;
mod real_gguf_bake;
mod real_gguf_exact;
mod reinforcement;
mod tapped_models;
mod wear;
mod widened;
mod worn;
