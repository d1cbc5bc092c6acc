//! Samples that a model cannot be shown.

use sgm_core::{OnBadSample, SkippedSample};
use sgm_models::Processor;

use crate::{Error, Evaluation, Result, Sample};

/// The samples that a model can be shown, and those that it cannot, both in their order.
///
/// A sample is bad when its image cannot be read, or its prompt does not fit the model: another number of image placeholders than images,
/// an image for a model of text, a message that the chat template refuses or loses. With [`OnBadSample::Refuse`] nothing is checked, and
/// the first bad sample is an error when the model is shown it. With [`OnBadSample::Skip`] every sample is prepared once for the check. The
/// result depends on the samples and the processor alone.
pub fn without_bad_samples(samples: Vec<Sample>, policy: OnBadSample, processor: &Processor) -> (Vec<Sample>, Vec<SkippedSample>) {
    if policy == OnBadSample::Refuse {
        return (samples, Vec::new());
    }
    let mut skipped = Vec::new();
    let mut good = Vec::with_capacity(samples.len());
    for sample in samples {
        match check(&sample, processor) {
            Ok(()) => good.push(sample),
            Err(reason) => {
                tracing::warn!(sample = sample.id, %reason, "skipped");
                skipped.push(SkippedSample { id: sample.id, reason: reason.to_string() });
            }
        }
    }
    (good, skipped)
}

fn check(sample: &Sample, processor: &Processor) -> Result<()> {
    let prompt = sample.as_prompt()?;
    processor.check(&prompt, sample.response.as_deref()).map_err(|e| Error::Model(Box::new(e)))
}

impl Evaluation {
    /// The samples that a model can be shown, and those that it cannot: [`without_bad_samples`] of all five sets.
    #[must_use]
    pub fn without_bad_samples(self, policy: OnBadSample, processor: &Processor) -> (Self, Vec<SkippedSample>) {
        let mut skipped = Vec::new();
        let mut filter = |samples| {
            let (good, mut bad) = without_bad_samples(samples, policy, processor);
            skipped.append(&mut bad);
            good
        };
        let good = Self {
            standard: filter(self.standard),
            adversarial: filter(self.adversarial),
            vqa: filter(self.vqa),
            perplexity: filter(self.perplexity),
            refusal: filter(self.refusal),
        };
        (good, skipped)
    }
}
