//! The two halves of the experiment: from labelled samples to expertise, from an intervention to its effect.

#[path = "calibration.rs"]
mod calibration;

use anyhow::Result;
use sgm::capture::{ActivationStore, Capture, Examples, Pool, Pooling};
use sgm::core::{Expertise, Intervention};
use sgm::models::{GenerateOptions, Mllm, Sampling, TokenMask};
use sgm::score::score_store;
use sgm::suppress::{AdaptiveGlasses, Amplify, Glasses};
use sgm::toxic_qa::{Benchmark, EvaluateOptions, Evaluated, Judge, Sample, Source};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What probes read.
pub(crate) const PROMPT_END: Pooling = Pooling { pool: Pool::Last, mask: TokenMask::Prompt };

/// The activations of a model on calibration samples.
pub(crate) struct Calibrated {
    pub(crate) store: ActivationStore,
    _directory: TempDir,
}

impl Calibrated {
    /// Captures every `nth` of the calibration samples of one seed: pooled over tokens, and at the prompts' last token.
    pub(crate) fn capture<M: Mllm>(
        model: &M,
        source: &dyn Source,
        seed: u64,
        pooling: Pooling,
        batch_size: usize,
        nth: usize,
    ) -> Result<Self> {
        let samples: Vec<Sample> = source.calibration(seed)?.into_iter().step_by(nth).collect();
        let provenance = calibration::provenance(source, &samples)?;
        let examples = samples.iter().map(calibration::example).collect::<Result<Vec<_>>>()?;
        let directory = tempfile::tempdir()?;
        let store = directory.path().join("activations");
        let capture = Capture { batch_size, calibration: Some(provenance), ..Capture::new(vec![pooling, PROMPT_END]) };
        capture.run(model, &Examples::from_slice(&examples), &store)?;
        Ok(Self { store: ActivationStore::open(&store)?, _directory: directory })
    }

    /// The expertise of every neuron.
    pub(crate) fn expertise(&self) -> Result<Expertise> {
        Ok(score_store(&self.store)?)
    }
}

/// What the model does while it wears an intervention; answers are drawn at temperature 1.
pub(crate) fn measure<M: Mllm>(
    model: &M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    intervention: &Intervention,
    (seed, max_new_tokens, batch_size): (u64, usize, usize),
) -> Result<Evaluated> {
    let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
    let generate = GenerateOptions { max_new_tokens, batch_size, sampling, seed, ..Default::default() };
    let n_suppressed = intervention.changed_neurons();
    let sha256 = if n_suppressed == 0 { None } else { Some(sha256(intervention)?) };
    let (_static, _adaptive) = match intervention.probe {
        None => (Some(Glasses::wear(model, intervention, Amplify::Refuse)?), None),
        Some(_) => (None, Some(AdaptiveGlasses::wear(model, intervention, Amplify::Refuse)?)),
    };
    let mut evaluated =
        benchmark.evaluate(model, model, judge, &EvaluateOptions { generate, defence: None, intervention_sha256: sha256 })?;
    evaluated.outcome.n_suppressed = n_suppressed;
    Ok(evaluated)
}

/// The hash of an intervention's file.
fn sha256(intervention: &Intervention) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("glasses.sgm.safetensors");
    intervention.save(&path)?;
    Ok(Sha256::digest(std::fs::read(path)?).iter().map(|b| format!("{b:02x}")).collect())
}
