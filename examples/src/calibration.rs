//! Calibration: from labelled samples to the activations that glasses are fitted to.

use std::sync::Arc;

use anyhow::Result;
use sgm::capture::{Capture, Example, Pooling};
use sgm::core::{Calibration, shortcut_warning};
use sgm::models::Mllm;
use sgm::suppress::Calibrator;
use sgm::toxic_qa::{Exchange, Judge, Sample, Source, manifest, shortcuts};

/// The provenance of samples.
///
/// # Errors
///
/// Those of hashing them.
pub fn provenance(source: &dyn Source, samples: &[Sample]) -> Result<Calibration> {
    let shortcuts = shortcuts(samples);
    if let Some(warning) = shortcut_warning(&shortcuts) {
        tracing::warn!("{warning}");
    }
    let toxic = samples.iter().filter(|s| s.label == Some(true)).count();
    Ok(Calibration {
        dataset: source.name(),
        sha256: manifest::sha256(samples)?,
        n_toxic: toxic,
        n_non_toxic: samples.len() - toxic,
        label_source: "the data set".to_owned(),
        shortcuts,
    })
}

/// A sample with its image decoded.
///
/// # Errors
///
/// Those of decoding it.
pub fn example(sample: &Sample) -> Result<Example> {
    Ok(Example {
        id: sample.id.clone(),
        prompt: sample.as_prompt()?,
        response: sample.response.clone().unwrap_or_default(),
        toxic: sample.label == Some(true),
        unfinished: false,
    })
}

/// Captures calibration samples, for expertise by a pooling. The model's own answers are judged like those of the evaluation.
///
/// # Errors
///
/// Those of samples and capture.
pub fn calibrate<M: Mllm>(
    model: &M,
    source: &dyn Source,
    samples: &[Sample],
    judge: &Arc<dyn Judge>,
    pooling: Pooling,
    batch_size: usize,
) -> Result<Calibrator> {
    let examples = samples.iter().map(example).collect::<Result<Vec<_>>>()?;
    let calibration = Some(provenance(source, samples)?);
    let calibrator = Calibrator::capture(model, examples, Capture { batch_size, calibration, ..Capture::new(vec![pooling]) })?;
    let judge = judge.clone();
    Ok(calibrator.with_judge(move |answers| {
        let exchanges: Vec<_> = answers.iter().map(|answer| Exchange::new("", &answer.response)).collect();
        Ok(judge.judge(&exchanges)?.into_iter().map(|verdict| verdict.label).collect())
    }))
}

/// Whether a sample is of a category, or has a trigger of the organism's world, of this name.
pub fn is_of(sample: &Sample, name: &str) -> bool {
    sample.category == name || sgm::organism::trigger(sample).as_deref() == Some(name)
}
