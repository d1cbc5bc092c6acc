//! Integration tests of the benchmark.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

mod attacks;
#[cfg(feature = "parquet")]
mod beavertails_v;
mod builder;
#[cfg(feature = "chat")]
mod chat;
#[cfg(feature = "classifier")]
mod classifier;
mod datasets;
mod greys;
mod hostile_datasets;
mod hostile_lines;
mod html_report;
mod interval_coverage;
mod manifest;
mod metrics_golden;
mod report;
mod runs;
mod sources;
#[cfg(feature = "xlsx")]
mod spreadsheet;
#[cfg(feature = "candle")]
mod worlds;
