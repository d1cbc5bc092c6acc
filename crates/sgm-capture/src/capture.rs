use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sgm_core::Calibration;
use sgm_models::{Mllm, Padding, Prompt};

use crate::{Error, Manifest, PooledTap, Pooling, Result, StoreWriter};

/// A labelled calibration sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The sample's id.
    pub id: String,
    /// What the model is asked.
    pub prompt: Prompt,
    /// The response, whose tokens are run after the prompt's.
    pub response: String,
    /// Whether the sample is toxic.
    pub toxic: bool,
}

/// Runs a model over labelled samples and keeps their pooled activations in a new store.
///
/// Samples are run `batch_size` at a time, right-padded, and stored in order; padding is never pooled.
/// As many batches are in flight as rayon has threads. Taps that are attached already act first, so a
/// model that wears glasses is captured with them on.
///
/// # Errors
///
/// [`Error::EmptyMask`] when a sample has no token to pool over, [`Error::NotFinite`] when a response
/// overflows, and what model and store report. No store is finished then.
pub fn capture<M: Mllm + ?Sized>(
    model: &M,
    examples: &[Example],
    pooling: Pooling,
    calibration: Option<Calibration>,
    directory: &Path,
    batch_size: usize,
) -> Result<()> {
    let info = model.info();
    let mut manifest = Manifest::new(&info.name, &info.config_sha256, &pooling.to_string(), info.widths());
    manifest.calibration = calibration;
    let mut writer = StoreWriter::create(directory, manifest)?;
    let tap = Arc::new(PooledTap::new(vec![pooling]));
    let _attached = model.taps().attach(tap.clone());
    let numbered: Vec<(usize, &Example)> = examples.iter().enumerate().collect();
    // A round is what runs in parallel: its responses are written before the next one's are made.
    for round in numbered.chunks(batch_size.max(1).saturating_mul(rayon::current_num_threads())) {
        round.par_chunks(batch_size.max(1)).map(|batch| run(model, batch, pooling)).collect::<Result<Vec<()>>>()?;
        for ((_, example), pooled) in round.iter().zip(tap.take().into_values()) {
            for responses in &pooled {
                writer.push(&example.id, example.toxic, responses)?;
            }
        }
    }
    writer.finish()
}

/// Runs one batch past the tap, which tells its samples by their numbers.
fn run<M: Mllm + ?Sized>(model: &M, batch: &[(usize, &Example)], pooling: Pooling) -> Result<()> {
    let mut inputs = model.processor().responses(batch.iter().map(|(_, e)| (&e.prompt, e.response.as_str())), Padding::Right)?;
    for ((_, example), kinds) in batch.iter().zip(&inputs.kinds) {
        if !kinds.iter().any(|kind| pooling.mask.includes(*kind)) {
            return Err(Error::EmptyMask { sample: example.id.clone(), mask: pooling.mask.name() });
        }
    }
    inputs.rows = batch.iter().map(|(number, _)| *number).collect();
    model.prefill(&inputs, &mut model.new_cache())?;
    Ok(())
}
