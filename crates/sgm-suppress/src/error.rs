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

    /// There is no operator, or no preset of glasses, of this name.
    #[error("unknown {kind} `{name}`; expected one of {known}")]
    UnknownPreset {
        /// What was asked for.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The names that there are.
        known: String,
    },

    /// No map can be fitted from a neuron's responses.
    #[error("{}no transport map: {reason}", .neuron.as_ref().map(|n| format!("{n}: ")).unwrap_or_default())]
    Transport {
        /// Site and index of the neuron, if it is known.
        neuron: Option<String>,
        /// Why not.
        reason: String,
    },

    /// Neurons cannot be scored.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Score(#[from] sgm_score::Error),

    /// The model's own answers were not judged.
    #[cfg(feature = "candle")]
    #[error("the judge of the model's own answers failed: {0}")]
    Judge(#[source] Box<dyn std::error::Error + Send + Sync>),

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

    /// There are shifts for some neurons only.
    #[error("there are {scales} scales and {shifts} shifts; give one of each for every neuron, or no shifts")]
    Shifts {
        /// The number of scales.
        scales: usize,
        /// The number of shifts.
        shifts: usize,
    },

    /// An intervention names token positions that are not known.
    #[error("the intervention acts on `{positions}` token positions; known are {known}", known = crate::Positions::NAMES.join(", "))]
    Positions {
        /// What its metadata name.
        positions: String,
    },

    /// A strength is no finite number, or it would amplify.
    #[error("the strength {}is {strength}, expected a number from 0 to 1{}", of_row(*.row), other_strengths(*.strength))]
    Strength {
        /// The request's number; none for the strength of all that have none of their own.
        row: Option<usize>,
        /// The strength.
        strength: f32,
    },

    /// Adaptive glasses need a probe.
    #[error("the intervention has no probe to switch it on; fit one and set `Intervention::probe`, or wear it as static glasses")]
    NoProbe,

    /// A probe cannot be fitted.
    #[error("no probe can be fitted: {reason}")]
    Fit {
        /// What is wrong with the samples or the settings.
        reason: String,
    },

    /// An intervention does not fit the model.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),

    /// The model reports an error.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Model(#[from] sgm_models::Error),
}

fn of_row(row: Option<usize>) -> String {
    row.map(|row| format!("of row {row} ")).unwrap_or_default()
}

fn other_strengths(strength: f32) -> &'static str {
    if strength.is_finite() { "; beyond, it amplifies or turns neurons around, which must be allowed explicitly" } else { "" }
}
