use candle_core::Tensor;

use crate::{Cache, Mllm, ModelInfo, ModelInputs, PartialPrefill, Processor, Result, TapRegistry};

/// A model with taps of its own beside those of the model: one set of weights, tapped in several ways at once.
///
/// The view's taps see what is computed through the view and nothing else, after the taps of the model itself. So two views of
/// one model, or a view and the model, may run at the same time, one wearing glasses and one not.
///
/// ```no_run
/// # fn example(model: &sgm_models::AutoMllm) {
/// use sgm_models::{Mllm, View};
///
/// let view = View::new(model);
/// assert!(view.taps().is_empty()); // whatever is attached to the model
/// # }
/// ```
#[derive(Debug)]
pub struct View<'m, M: ?Sized> {
    model: &'m M,
    taps: TapRegistry,
}

impl<'m, M: Mllm + ?Sized> View<'m, M> {
    /// A view without taps, which computes what the model does.
    pub fn new(model: &'m M) -> Self {
        Self { model, taps: TapRegistry::default() }
    }
}

impl<M: Mllm + ?Sized> Mllm for View<'_, M> {
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

    /// An empty cache, whose passes the view's taps see.
    fn new_cache(&self) -> Cache {
        self.model.new_cache().seen_by(&self.taps)
    }

    fn prefill(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor> {
        self.model.prefill(inputs, cache)
    }

    fn begin_prefill(&self, inputs: &ModelInputs) -> Result<PartialPrefill> {
        self.model.begin_prefill(inputs)
    }

    /// The view's taps see these layers, and none that are run otherwise.
    fn continue_prefill(&self, partial: &PartialPrefill, layers: usize) -> Result<PartialPrefill> {
        Ok(partial.went_on(self.model.continue_prefill(&partial.seen_by(&self.taps), layers)?))
    }

    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        self.model.decode(tokens, cache)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.model.logits(hidden)
    }
}
