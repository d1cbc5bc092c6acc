//! Errors of a comparison.

use std::path::PathBuf;

/// Errors of rows, of the glasses that they wear, and of measuring them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name is that of no row.
    #[error("no row `{name}`: it is none of {known}, and no stack of defences: {source}")]
    UnknownRow {
        /// The name.
        name: String,
        /// All names.
        known: String,
        /// What is wrong with it as a stack of defences.
        source: Box<sgm_defend::Error>,
    },

    /// A row that wears no glasses of its own has a budget.
    #[error("`{name}@{nats}` has a budget, but `{name}` is no row of glasses; leave `@{nats}` out")]
    BudgetWithoutGlasses {
        /// The row.
        name: String,
        /// The budget.
        nats: String,
    },

    /// A budget is no number.
    #[error("a budget of {0:?} nats; expected a finite number above 0")]
    Budget(String),

    /// There is no file of glasses.
    #[error("there are no glasses `{name}` in {directory}; leave the row out, or take fewer seeds")]
    NoGlasses {
        /// The name of the glasses.
        name: String,
        /// Where they were looked for.
        directory: PathBuf,
    },

    /// The calibration samples of a seed cannot be captured.
    #[cfg(feature = "benchmark")]
    #[error("calibration of seed {seed}: {source}")]
    Calibration {
        /// The seed.
        seed: u64,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The directory of the glasses cannot be created.
    #[cfg(feature = "benchmark")]
    #[error("creating {directory}: {source}; choose a directory that you may write to")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },

    /// A row cannot be measured.
    #[cfg(feature = "benchmark")]
    #[error(transparent)]
    Measurement(#[from] Box<crate::measurement::Error>),

    /// The scorers of defences cannot be calibrated.
    #[cfg(feature = "benchmark")]
    #[error(transparent)]
    Defence(#[from] Box<sgm_defend::Error>),

    /// Answers cannot be written, or results summarised.
    #[cfg(feature = "benchmark")]
    #[error(transparent)]
    Benchmark(#[from] Box<mm_toxic_qa::Error>),

    /// Glasses cannot be fitted.
    #[error(transparent)]
    Suppress(#[from] sgm_suppress::Error),

    /// A file of glasses cannot be read or written.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),
}

pub(super) type Result<T> = std::result::Result<T, Error>;
