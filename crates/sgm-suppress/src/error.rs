//! The errors of this crate.

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of fitting or applying interventions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter of a suppression rule is out of range.
    #[error("suppression rule `{rule}`: {parameter} is {value}, expected {expected}")]
    Parameter {
        /// The rule's name.
        rule: String,
        /// The parameter.
        parameter: &'static str,
        /// The parameter's value.
        value: String,
        /// The allowed range in words.
        expected: String,
    },

    /// No rule, or no preset of glasses, has this name.
    #[error("unknown {kind} `{name}`; expected one of {known}")]
    UnknownPreset {
        /// The kind of preset.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The known names.
        known: String,
    },

    /// No map can be fitted to a neuron's responses.
    #[error("{}no transport map: {reason}", .neuron.as_ref().map(|n| format!("{n}: ")).unwrap_or_default())]
    Transport {
        /// Site and index of the neuron, if it is known.
        neuron: Option<String>,
        /// The reason.
        reason: String,
    },

    /// No measured strength keeps within the limits.
    #[cfg(feature = "candle")]
    #[error("no strength keeps within the limits: even at {strength}, {reason}; allow more, or fit to other samples")]
    NoDose {
        /// The smallest strength measured.
        strength: f32,
        /// The quantity beyond its limit.
        reason: String,
    },

    /// The model's own answers do not tell what makes them toxic.
    #[cfg(feature = "candle")]
    #[error("nothing is known to make answers toxic: {reason}; give more risky prompts, or other ones")]
    NoCausalEffects {
        /// What is missing.
        reason: String,
    },

    /// Scoring neurons or selecting experts failed.
    #[error(transparent)]
    Score(#[from] sgm_score::Error),

    /// The judge of the model's own answers failed.
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
        /// The defect.
        reason: String,
    },

    /// The intervention strengthens a neuron.
    #[error(
        "{site}: neuron {neuron} has scale {scale}, which amplifies instead of suppressing; amplification can make a model more toxic \
         and must be allowed explicitly"
    )]
    Amplifies {
        /// The site's name.
        site: String,
        /// The neuron's index.
        neuron: usize,
        /// The neuron's scale, above 1 or below 0.
        scale: f32,
    },

    /// The number of shifts differs from that of scales.
    #[error("there are {scales} scales and {shifts} shifts; give one of each for every neuron, or no shifts")]
    Shifts {
        /// The number of scales.
        scales: usize,
        /// The number of shifts.
        shifts: usize,
    },

    /// A strength is not finite, or it amplifies.
    #[error("the strength {}is {strength}, expected a number from 0 to 1{}", of_request(*.id), other_strengths(*.strength))]
    Strength {
        /// The request's id; none for the common strength.
        id: Option<usize>,
        /// The strength.
        strength: f32,
    },

    /// The intervention of conditional glasses has no condition.
    #[error("the intervention has no condition; fit a probe and set `Intervention::condition`, or wear it as static glasses")]
    NoCondition,

    /// A component of glasses cannot be fitted.
    #[error("cannot fit: {reason}")]
    Fit {
        /// The reason in the samples or settings.
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

fn of_request(id: Option<usize>) -> String {
    id.map(|id| format!("of request {id} ")).unwrap_or_default()
}

fn other_strengths(strength: f32) -> &'static str {
    if strength.is_finite() { "; beyond, it amplifies or turns neurons around, which must be allowed explicitly" } else { "" }
}
