use std::path::PathBuf;

/// What can go wrong when neurons are scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// All samples have the same label.
    #[error("AUROC needs both classes: {toxic} toxic and {non_toxic} non-toxic samples; add samples of the missing class")]
    SingleClass {
        /// Toxic samples.
        toxic: usize,
        /// Non-toxic samples.
        non_toxic: usize,
    },

    /// There is not one label for each sample.
    #[error("{labels} labels for {samples} samples; give one label per row")]
    Labels {
        /// Labels given.
        labels: usize,
        /// Samples given.
        samples: usize,
    },

    /// There are more samples than the exact arithmetic holds.
    #[error("{0} samples are too many: fewer than 2^31 are scored at once")]
    TooManySamples(usize),

    /// A response is not a number.
    #[error("{}the response of neuron {neuron} to sample {sample} is NaN; remove the sample or find out why the model overflows on it", .site.as_ref().map(|s| format!("{s}: ")).unwrap_or_default())]
    NotANumber {
        /// The site's name, where a store is scored.
        site: Option<String>,
        /// The neuron's index: the column.
        neuron: usize,
        /// The sample's index: the row.
        sample: usize,
    },

    /// The working memory does not hold one neuron for each thread.
    #[error("scoring one neuron on each thread takes {needed} bytes, but {budget} are allowed; allow more or use fewer threads")]
    Memory {
        /// Bytes allowed.
        budget: usize,
        /// Bytes needed.
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
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },

    /// Standard errors are needed and the expertise has none.
    #[error("{site} has no standard errors, which {purpose} needs; score with at least two samples of each class")]
    NoStandardErrors {
        /// The site's name.
        site: String,
        /// What needs them.
        purpose: &'static str,
    },

    /// Expertise sets that should describe the same neurons do not.
    #[error("{site} has {got} neurons in one expertise and {expected} in another; score the same sites of the same model")]
    Sites {
        /// The site's name.
        site: String,
        /// Its neurons in the first expertise.
        expected: usize,
        /// Its neurons in the other.
        got: usize,
    },

    /// Data have the wrong shape or dtype.
    #[error("{name}: {reason}")]
    Shape {
        /// Which data.
        name: String,
        /// What is wrong.
        reason: String,
    },

    /// A file of responses cannot be read.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// The store reports an error.
    #[error(transparent)]
    Store(#[from] sgm_capture::Error),

    /// The scores cannot be kept.
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
