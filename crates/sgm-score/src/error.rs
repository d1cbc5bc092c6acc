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
    #[error("{0} samples are too many: at most 2^31 are scored at once")]
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

    /// The store reports an error.
    #[error(transparent)]
    Store(#[from] sgm_capture::Error),

    /// The scores cannot be kept.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),
}
