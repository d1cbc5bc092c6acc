//! Code that the examples and experiments share: command-line arguments, progress and calibration.
//!
//! * [`subject`]: the arguments that name model, data and judge; [`judge_arguments`] has the judges, [`compute_arguments`] the devices;
//! * [`process`] and [`progress`]: threads, logging and the progress bar of a program;
//! * [`calibration`]: from labelled samples to activations; [`answering`]: the settings of answers;
//! * [`budget_arguments`]: the limits for what glasses may change, and the neutral texts on which they are measured;
//! * [`html_report`]: the page that the example `glasses` writes;
//! * [`bad_samples`]: the arguments for samples that a model cannot be shown;
//! * [`suppress_arguments`], [`dataset_arguments`] with [`question_set_arguments`], [`plan_arguments`], [`export_arguments`]: the arguments
//!   of the examples `suppress`, `benchmark` and `evaluate`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a part of binaries")]

pub mod answering;
pub mod bad_samples;
pub mod budget_arguments;
pub mod calibration;
pub mod compute_arguments;
pub mod dataset_arguments;
pub mod export_arguments;
pub mod html_report;
pub mod judge_arguments;
pub mod plan_arguments;
pub mod process;
pub mod progress;
pub mod question_set_arguments;
pub mod subject;
pub mod suppress_arguments;
