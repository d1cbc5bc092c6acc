use std::sync::Arc;

use candle_core::Tensor;

use crate::cache::Pass;
use crate::{Cache, TapRegistry};

/// A batch of prompts between two layers of its prefill; [`Mllm::continue_prefill`](crate::Mllm::continue_prefill) goes on from here, as
/// often as it is called and each time with the taps that are attached then.
///
/// It holds the hidden states `[batch, tokens, hidden]` and what all layers share, but no keys and values: nothing can be decoded from it.
#[derive(Debug, Clone)]
pub struct PartialPrefill {
    pub(crate) hidden: Tensor,
    pub(crate) layers: usize,
    /// Knows the batch; the keys and values of its layers are not kept.
    pub(crate) cache: Cache,
    pub(crate) pass: Arc<Pass>,
    pub(crate) after: Arc<[Tensor]>,
}

impl PartialPrefill {
    /// The number of layers behind it, which is also the index of the next one.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The same batch, seen by these taps too.
    pub(crate) fn seen_by(&self, taps: &TapRegistry) -> Self {
        Self { cache: self.cache.clone().seen_by(taps), ..self.clone() }
    }

    /// The hidden states of a prefill that went on from here, seen by whom this one is seen by.
    pub(crate) fn went_on(&self, further: Self) -> Self {
        Self { cache: self.cache.clone(), ..further }
    }
}
