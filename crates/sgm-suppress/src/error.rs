/// What can go wrong when suppression is designed or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter of an operator is out of range.
    #[error("operator `{operator}`: {parameter} is {value}, expected {expected}")]
    Parameter {
        /// The operator's name.
        operator: String,
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// The allowed range in words.
        expected: &'static str,
    },

    /// There is no operator of this name.
    #[error("unknown operator `{name}`; expected one of {}", crate::Operator::PRESETS.join(", "))]
    UnknownPreset {
        /// The name as given.
        name: String,
    },

    /// No map can be fitted from a neuron's responses.
    #[error("{}no transport map: {reason}", .neuron.as_ref().map(|n| format!("{n}: ")).unwrap_or_default())]
    Transport {
        /// Site and index of the neuron, if it is known.
        neuron: Option<String>,
        /// Why not.
        reason: String,
    },

    /// A store of activations cannot be read.
    #[error(transparent)]
    Capture(#[from] sgm_capture::Error),

    /// A file of another software cannot be imported.
    #[error("{path}: cannot import: {reason}")]
    Import {
        /// The file or directory.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// An intervention would strengthen a neuron.
    #[error(
        "{site}: neuron {neuron} has scale {scale}, which amplifies instead of suppressing; amplification can make a model more toxic and must be allowed explicitly"
    )]
    Amplifies {
        /// The site's name.
        site: String,
        /// The neuron's index.
        neuron: usize,
        /// Its scale, above 1 or below 0.
        scale: f32,
    },

    /// An intervention does not fit the model.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),

    /// The model reports an error.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Model(#[from] sgm_models::Error),
}
