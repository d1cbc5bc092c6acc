use std::path::PathBuf;

/// What can go wrong when activations are captured, stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A new store would overwrite another one.
    #[error("{path}: there is a store already; choose another directory or remove this one")]
    Exists {
        /// The store's directory.
        path: PathBuf,
    },

    /// A directory is not a finished store.
    #[error("{path}: not an activation store: {reason}")]
    NotAStore {
        /// The directory or file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },

    /// A shard is damaged or does not belong to its store.
    #[error("{path}: damaged shard: {reason}; capture again")]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A sample's responses are not those the store is for.
    #[error("sample `{sample}`: {reason}")]
    Sample {
        /// The sample's id.
        sample: String,
        /// What is wrong.
        reason: String,
    },

    /// A response is not a finite number.
    #[error(
        "sample `{sample}`, {site}, neuron {neuron}: the pooled response is {value}; the model overflows on this sample, leave it out or run in f32"
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

    /// The token mask chooses no token of a sample.
    #[error("sample `{sample}` has no `{mask}` tokens to pool over; choose another mask, or give responses")]
    EmptyMask {
        /// The sample's id.
        sample: String,
        /// The mask's name.
        mask: &'static str,
    },

    /// A site is unknown, or a file of the store cannot be written.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),

    /// The model reports an error.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Model(#[from] sgm_models::Error),
}
