//! A model with taps of its own.

use candle_core::Tensor;

use crate::checkpoint::model_info::ModelInfo;
use crate::decoder::cache::Cache;
use crate::error::Result;
use crate::model::mllm::Mllm;
use crate::model::partial_prefill::PartialPrefill;
use crate::model::shared_prefix::SharedPrefix;
use crate::processor::batch::Processor;
use crate::processor::model_inputs::ModelInputs;
use crate::taps::registry::TapRegistry;

/// A view of a model with taps of its own in addition to those of the model: one set of weights, tapped in several ways
/// at once.
///
/// The taps of the view see only passes through the view, after the taps of the model itself. Two views of one model,
/// or a view and the model, may run at the same time, one with glasses and one without.
///
/// ```no_run
/// # fn example(model: &sgm_models::AutoMllm) {
/// use sgm_models::{Mllm, TappedModel};
///
/// let view = TappedModel::new(model);
/// assert!(view.taps().is_empty()); // even if taps are attached to the model
/// # }
/// ```
#[derive(Debug)]
pub struct TappedModel<'m, M: ?Sized> {
    model: &'m M,
    taps: TapRegistry,
}

impl<'m, M: Mllm + ?Sized> TappedModel<'m, M> {
    /// Creates a view without taps, which computes the same as the model.
    pub fn new(model: &'m M) -> Self {
        Self { model, taps: TapRegistry::default() }
    }
}

impl<M: Mllm + ?Sized> Mllm for TappedModel<'_, M> {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// The taps of the view.
    fn taps(&self) -> &TapRegistry {
        &self.taps
    }

    fn processor(&self) -> &Processor {
        self.model.processor()
    }

    /// An empty cache whose passes the taps of the view see.
    fn new_cache(&self) -> Cache {
        self.model.new_cache().with_taps(&self.taps)
    }

    fn prefill(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor> {
        self.model.prefill(inputs, cache)
    }

    fn share_prefix(&self, tokens: &[u32], cache: Cache) -> Result<Option<SharedPrefix>> {
        self.model.share_prefix(tokens, cache)
    }

    fn prefill_after(&self, prefix: &SharedPrefix, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor> {
        self.model.prefill_after(prefix, inputs, cache)
    }

    fn begin_prefill(&self, inputs: &ModelInputs) -> Result<PartialPrefill> {
        self.model.begin_prefill(inputs)
    }

    /// The taps of the view see these layers, and only these.
    fn continue_prefill(&self, partial: &PartialPrefill, layers: usize) -> Result<PartialPrefill> {
        Ok(partial.restore_taps(self.model.continue_prefill(&partial.with_taps(&self.taps), layers)?))
    }

    fn finish_prefill(&self, partial: &PartialPrefill) -> Result<Tensor> {
        self.model.finish_prefill(&partial.with_taps(&self.taps))
    }

    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        self.model.decode(tokens, cache)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.model.logits(hidden)
    }
}
