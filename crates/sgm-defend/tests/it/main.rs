//! Integration tests of the defences, with scripted generators and scorers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

mod ecso;
mod eta;
mod filter;
mod prompts;
mod scripted;
