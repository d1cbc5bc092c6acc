//! The errors of this crate.

use std::path::PathBuf;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of scoring or selecting neurons.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// All samples have the same label.
    #[error("AUROC needs both classes: {toxic} toxic and {non_toxic} non-toxic samples; add samples of the missing class")]
    SingleClass {
        /// The number of toxic samples.
        toxic: usize,
        /// The number of non-toxic samples.
        non_toxic: usize,
    },

    /// The number of labels differs from the number of samples.
    #[error("{labels} labels for {samples} samples; give one label per row")]
    Labels {
        /// The number of labels.
        labels: usize,
        /// The number of samples.
        samples: usize,
    },

    /// There are too many samples for the exact arithmetic.
    #[error("{0} samples are too many: fewer than 2^31 are scored at once")]
    TooManySamples(usize),

    /// A response is not a number.
    #[error(
        "{}the response of neuron {neuron} to sample {sample} is NaN; remove the sample or find out why the model overflows on it",
        .site.as_ref().map(|s| format!("{s}: ")).unwrap_or_default()
    )]
    NotANumber {
        /// The site's name, if a store is scored.
        site: Option<String>,
        /// The neuron's index: the column.
        neuron: usize,
        /// The sample's index: the row.
        sample: usize,
    },

    /// The memory limit is below the need of one neuron per thread.
    #[error("scoring one neuron on each thread takes {needed} bytes, but {budget} are allowed; allow more or use fewer threads")]
    Memory {
        /// The allowed bytes.
        budget: usize,
        /// The needed bytes.
        needed: usize,
    },

    /// No stratum has samples of both classes.
    #[error("no stratum has both toxic and non-toxic samples, so there is no pair to compare; use coarser strata")]
    NoPairs,

    /// A parameter is out of range.
    #[error("{parameter} is {value}, expected {expected}")]
    Parameter {
        /// The parameter's name.
        parameter: &'static str,
        /// The parameter's value.
        value: String,
        /// The allowed values in words.
        expected: String,
    },

    /// The expertise lacks standard errors, which are needed.
    #[error("{site} has no standard errors, which {purpose} needs; score with at least two samples of each class")]
    NoStandardErrors {
        /// The site's name.
        site: String,
        /// The operation that needs them.
        purpose: &'static str,
    },

    /// Two expertise sets describe different neurons.
    #[error("{site} has {got} neurons in one expertise and {expected} in another; score the same sites of the same model")]
    Sites {
        /// The site's name.
        site: String,
        /// The number of neurons in the first expertise.
        expected: usize,
        /// The number of neurons in the other.
        got: usize,
    },

    /// Data have a wrong shape or dtype.
    #[error("{name}: {reason}")]
    Shape {
        /// The name of the data.
        name: String,
        /// The defect.
        reason: String,
    },

    /// A file of responses cannot be read.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// A probe or another logistic regression cannot be fitted.
    #[error("no logistic regression can be fitted: {reason}")]
    Fit {
        /// The reason in the samples or settings.
        reason: String,
    },

    /// The store reports an error.
    #[error(transparent)]
    Store(#[from] sgm_capture::Error),

    /// The scores cannot be stored in an expertise.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),
}

impl Error {
    /// Names the site of a response that is not a number.
    pub(crate) fn at(self, name: &str) -> Self {
        match self {
            Self::NotANumber { neuron, sample, .. } => Self::NotANumber { site: Some(name.to_owned()), neuron, sample },
            other => other,
        }
    }
}
