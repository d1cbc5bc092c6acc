//! Integration tests of rules, transport and imports.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "test code")]

mod import;
mod published_rules;
mod transport;
