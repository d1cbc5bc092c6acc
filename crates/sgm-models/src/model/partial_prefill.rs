//! A prefill that runs in parts.

use std::sync::Arc;

use candle_core::Tensor;

use crate::decoder::cache::Cache;
use crate::decoder::pass::Pass;
use crate::taps::registry::TapRegistry;

/// A batch of prompts between two layers of its prefill. [`Mllm::continue_prefill`](crate::Mllm::continue_prefill)
/// continues from here, any number of times and each time with the taps that are attached then.
///
/// It holds the hidden states `[batch, tokens, hidden]` and the data that all layers share, but no keys and values, so
/// it cannot be decoded from.
#[derive(Debug, Clone)]
pub struct PartialPrefill {
    pub(crate) hidden: Tensor,
    pub(crate) layers: usize,
    /// Describes the batch; keys and values are not kept.
    pub(crate) cache: Cache,
    pub(crate) pass: Arc<Pass>,
    pub(crate) additions: Arc<[Tensor]>,
}

impl PartialPrefill {
    /// The number of layers that have run, which is also the index of the next one.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Adds taps that see further layers of this batch. A view of a view adds its own before it asks the inner one, whose taps come first.
    pub(crate) fn with_taps(&self, taps: &TapRegistry) -> Self {
        Self { cache: self.cache.clone().with_taps_first(taps), ..self.clone() }
    }

    /// Gives a continuation of this prefill the taps of this one again.
    pub(crate) fn restore_taps(&self, continued: Self) -> Self {
        Self { cache: self.cache.clone(), ..continued }
    }
}
