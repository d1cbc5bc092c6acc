//! The arguments for samples that a model cannot be shown.

use clap::Args;
use sgm::core::{OnBadSample, SkippedSample};
use sgm::models::Processor;
use sgm::toxic_qa::{Evaluation, Sample, without_bad_samples};

/// The arguments for samples that a model cannot be shown.
#[derive(Args, Debug, Clone)]
pub struct BadSamples {
    /// Samples whose image cannot be read, or whose prompt does not fit the model: `refuse` ends the run at the first, `skip` leaves them out
    /// and names them.
    #[arg(long, value_name = "POLICY", default_value_t)]
    on_bad_sample: OnBadSample,
    /// Take the image placeholder `<image>` out of prompts that begin or end with it, as those of LLaVA's data sets do. By default it is text
    /// like any other, which a model with this placeholder refuses.
    #[arg(long)]
    strip_image_placeholder: bool,
}

impl BadSamples {
    /// The samples to show a model, and those left out.
    pub fn filter(&self, samples: Vec<Sample>, processor: &Processor) -> (Vec<Sample>, Vec<SkippedSample>) {
        without_bad_samples(self.strip(samples), self.on_bad_sample, processor)
    }

    /// The same for all sets of an evaluation.
    pub fn filter_evaluation(&self, evaluation: Evaluation, processor: &Processor) -> (Evaluation, Vec<SkippedSample>) {
        let stripped = Evaluation {
            standard: self.strip(evaluation.standard),
            adversarial: self.strip(evaluation.adversarial),
            vqa: self.strip(evaluation.vqa),
            perplexity: self.strip(evaluation.perplexity),
            refusal: self.strip(evaluation.refusal),
        };
        stripped.without_bad_samples(self.on_bad_sample, processor)
    }

    fn strip(&self, samples: Vec<Sample>) -> Vec<Sample> {
        if self.strip_image_placeholder { samples.into_iter().map(Sample::without_image_placeholder).collect() } else { samples }
    }
}

/// The number of samples left out, with up to 20 ids; nothing if there are none.
pub fn summary(skipped: &[SkippedSample]) -> Option<String> {
    let ids: Vec<&str> = skipped.iter().take(20).map(|sample| sample.id.as_str()).collect();
    let more = if skipped.len() > ids.len() { " ..." } else { "" };
    (!skipped.is_empty()).then(|| format!("{} samples skipped: {}{more}", skipped.len(), ids.join(" ")))
}
