//! Code that the experiments share.
//!
//! * [`holdout`]: prompts of a trigger that calibration left out, and what glasses do at them;
//! * [`targets`]: the targets of a search for settings;
//! * [`decoding`]: the time that glasses add to the decoding of a token;
//! * [`directional_ablation`]: the directional ablation of the outputs of MLPs, a baseline.
#![allow(clippy::print_stdout, reason = "a part of binaries")]

pub mod decoding;
pub mod directional_ablation;
pub mod holdout;
pub mod targets;
