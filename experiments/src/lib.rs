//! Code that the experiments share.
//!
//! * [`holdout`]: prompts of a trigger that calibration left out, and what glasses do at them;
//! * [`space`] and [`targets`]: the search space of presets, and the targets that a search approaches;
//! * [`decoding`]: the time that glasses add to the decoding of a token.
#![allow(clippy::print_stdout, reason = "a part of binaries")]

pub mod decoding;
pub mod holdout;
pub mod space;
pub mod targets;
