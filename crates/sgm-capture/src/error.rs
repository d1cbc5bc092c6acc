//! The errors of this crate.

use std::path::PathBuf;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of capturing, storing or reading activations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A new store would overwrite another one.
    #[error("{path}: there is a store already, finished or not; resume it, choose another directory or remove this one")]
    Exists {
        /// The store's directory.
        path: PathBuf,
    },

    /// A directory is not a finished store.
    #[error("{path}: not an activation store: {reason}")]
    NotAStore {
        /// The directory or file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// An existing store has another model, other samples or other settings.
    #[error("{path}: the store is another one: {what}; use the settings it was begun with, or another directory")]
    Differs {
        /// The store's manifest.
        path: PathBuf,
        /// The entries that differ, with the values in the store and in the given manifest.
        what: String,
    },

    /// A shard is damaged or does not belong to its store.
    #[error("{path}: damaged shard: {reason}; remove its two files and capture it again")]
    Shard {
        /// The shard.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// A sample's responses do not fit the store.
    #[error("sample `{sample}`: {reason}")]
    Sample {
        /// The sample's id.
        sample: String,
        /// The defect.
        reason: String,
    },

    /// The model cannot be shown a sample, or fails at it.
    #[cfg(feature = "candle")]
    #[error("sample `{sample}`: {source}")]
    Shown {
        /// The sample's id.
        sample: String,
        /// The model's error.
        source: Box<sgm_models::Error>,
    },

    /// A sample cannot be loaded from its source.
    #[error("sample {number}: {source}")]
    Source {
        /// The sample's number, from 0.
        number: usize,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A response is not a finite number.
    #[error(
        "sample `{sample}`, {site}, neuron {neuron}: the response is {value}; the model, or the store's dtype, overflows on this sample: \
         leave it out, run or store in f32, or keep such samples"
    )]
    NotFinite {
        /// The sample's id.
        sample: String,
        /// The site's name.
        site: String,
        /// The neuron's index.
        neuron: usize,
        /// The response.
        value: f32,
    },

    /// A token selection selects no token of a sample.
    #[error("sample `{sample}` has no `{tokens}` tokens to pool over; choose another selection, or give responses")]
    NoTokens {
        /// The sample's id.
        sample: String,
        /// The selection.
        tokens: sgm_core::TokenSelection,
    },

    /// A store has no such pooling.
    #[error("the store has no pooling `{name}`; it has {}", .known.join(", "))]
    UnknownPooling {
        /// The name as given.
        name: String,
        /// The poolings of the store.
        known: Vec<String>,
    },

    /// A worker's part of the work is not defined.
    #[error("no part of the work: {reason}")]
    Partition {
        /// The reason.
        reason: String,
    },

    /// A file of another software's capture cannot be imported.
    #[error("{path}: cannot import: {reason}")]
    Import {
        /// The file or directory.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// A site is unknown, or a file of the store cannot be written.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),

    /// The model reports an error.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Model(#[from] sgm_models::Error),
}
