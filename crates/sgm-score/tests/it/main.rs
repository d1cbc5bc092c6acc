//! Integration tests of scoring.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "test code")]

mod exact;
mod files;
mod logistic;
mod risk_control;
mod sklearn;
