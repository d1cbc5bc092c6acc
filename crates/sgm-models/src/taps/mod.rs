//! Taps: hooks on the output of every MLP projection.
//!
//! The files hold the [`Tap`](tap::Tap) trait, the registry of the taps that are attached to a model, the token kinds
//! that taps receive, and the state that taps keep for each sequence.

pub(crate) mod registry;
pub(crate) mod sequence_state;
pub(crate) mod tap;
pub(crate) mod token_spans;
