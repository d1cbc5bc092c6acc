//! Captures of one layer at a time, between which earlier layers may be changed without running them again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sgm_core::Site;
use sgm_models::{Mllm, PartialPrefill, TokenKind};

use crate::mlp_tokens::MlpTap;
use crate::{Capture, Error, Examples, MlpTokens, PartialStore, PooledTap, Result};

/// The hidden states of a capture's samples before one layer.
///
/// Captured responses are those of [`Capture::run`] with the taps of each layer that were attached when it was run: bit for bit, if both run
/// one sample at a time and that one shares no prefix; else sums of other shapes round differently. Batches here have samples that follow
/// each other. The hidden
/// states of all samples are in memory: of all tokens, padding included, in the model's dtype.
#[derive(Debug, Clone)]
pub struct Layerwise<'a> {
    capture: &'a Capture,
    examples: &'a Examples<'a>,
    /// The ids and labels of the samples.
    names: Vec<(String, bool)>,
    batches: Vec<PartialPrefill>,
    layer: usize,
}

impl Capture {
    /// Embeds all samples, before the first layer. Partition, shard size and `resume` have no effect.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`](crate::Error::NoTokens) when a sample has no token to pool over, and the errors of the model and the samples.
    pub fn layerwise<'a, M: Mllm + ?Sized>(&'a self, model: &M, examples: &'a Examples<'a>) -> Result<Layerwise<'a>> {
        let numbers: Vec<usize> = (0..examples.len()).collect();
        let embed = |numbers: &[usize]| {
            let (inputs, names) = self.inputs(model, examples, numbers)?;
            Ok((model.begin_prefill(&inputs)?, names))
        };
        let embedded = numbers.par_chunks(self.batch_size.max(1)).map(embed).collect::<Result<Vec<_>>>()?;
        let (batches, names): (Vec<_>, Vec<_>) = embedded.into_iter().unzip();
        Ok(Layerwise { capture: self, examples, names: names.concat(), batches, layer: 0 })
    }
}

impl Layerwise<'_> {
    /// Captures sites of the current layer into a new store; the hidden states do not advance.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`](crate::Error::NotFinite) when a response overflows, [`Error::Sample`](crate::Error::Sample) when a site is of
    /// another layer, and the errors of the model and [`PartialStore`].
    pub fn capture<M: Mllm + ?Sized>(&self, model: &M, sites: BTreeMap<Site, usize>, directory: &Path) -> Result<()> {
        let experts = sites.keys().any(|site| site.expert.is_some());
        let mut manifest = self.capture.manifest(model, self.examples, sites);
        manifest.shard_samples = self.examples.len().max(1);
        let store = PartialStore::begin(directory, manifest, false)?;
        let tap = PooledTap::new(self.capture.poolings.clone());
        let tap = Arc::new(if experts { tap.with_experts() } else { tap });
        let attached = model.taps().attach(tap.clone());
        self.batches.par_iter().try_for_each(|batch| model.continue_prefill(batch, 1).map(drop))?;
        drop(attached);
        let mut rows = store.rows()?;
        for ((id, toxic), pooled) in self.names.iter().zip(tap.take_pooled().into_values()) {
            self.capture.push(&mut rows, id, *toxic, &pooled)?;
        }
        store.write(0, &rows)?;
        store.finish()?;
        Ok(())
    }

    /// The inputs and outputs of the current layer's MLP at the tokens that `chosen` accepts, by sample in order; the hidden states do not
    /// advance.
    ///
    /// `chosen` is called for each token with its sample's label, its kind, whether it ends the prompt, and its position in the sequence.
    /// All values are kept in memory: 8 bytes for each chosen token and hidden dimension. Taps that are already attached act first.
    /// Poolings have no effect.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when a value overflows, and the errors of the model.
    pub fn mlp_tokens<M: Mllm + ?Sized>(
        &self,
        model: &M,
        chosen: impl Fn(bool, TokenKind, bool, usize) -> bool + Sync + Send + 'static,
    ) -> Result<Vec<MlpTokens>> {
        let labels = self.names.iter().map(|(_, toxic)| *toxic).collect();
        let tap = Arc::new(MlpTap::new(self.layer, labels, chosen));
        let attached = model.taps().attach(tap.clone());
        self.batches.par_iter().try_for_each(|batch| model.continue_prefill(batch, 1).map(drop))?;
        drop(attached);
        let samples: Vec<MlpTokens> = tap.take().into_values().collect();
        for (sample, (id, _)) in samples.iter().zip(&self.names) {
            let hidden = sample.inputs.len() / sample.len().max(1);
            for (what, values) in [("input", &sample.inputs), ("output", &sample.outputs)] {
                if let Some((at, value)) = values.iter().copied().enumerate().find(|(_, v)| !v.is_finite()) {
                    let site = format!("the {what} of the MLP of layer {}", self.layer);
                    return Err(Error::NotFinite { sample: id.clone(), site, neuron: at % hidden.max(1), value });
                }
            }
        }
        Ok(samples)
    }

    /// Runs the samples through the layers up to this one, which becomes the current layer.
    ///
    /// # Errors
    ///
    /// The errors of the model.
    pub fn advance_to<M: Mllm + ?Sized>(&mut self, model: &M, layer: usize) -> Result<()> {
        let layers = layer.saturating_sub(self.layer);
        self.batches.par_iter_mut().try_for_each(|batch| -> Result<()> {
            *batch = model.continue_prefill(batch, layers)?;
            Ok(())
        })?;
        self.layer = self.layer.max(layer);
        Ok(())
    }
}
