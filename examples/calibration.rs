//! Calibration samples as capture takes them.

use anyhow::Result;
use sgm::capture::Example;
use sgm::core::Calibration;
use sgm::toxic_qa::{Sample, Source, manifest};

/// Where the samples come from.
pub(crate) fn provenance(source: &dyn Source, samples: &[Sample]) -> Result<Calibration> {
    let toxic = samples.iter().filter(|s| s.label == Some(true)).count();
    Ok(Calibration {
        dataset: source.name(),
        sha256: manifest::sha256(samples)?,
        n_toxic: toxic,
        n_non_toxic: samples.len() - toxic,
        label_source: "the data set".to_owned(),
    })
}

/// A sample with its image decoded.
pub(crate) fn example(sample: &Sample) -> Result<Example> {
    Ok(Example {
        id: sample.id.clone(),
        prompt: sample.as_prompt()?,
        response: sample.response.clone().unwrap_or_default(),
        toxic: sample.label == Some(true),
    })
}
