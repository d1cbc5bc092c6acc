//! The trait that every model implements.

use candle_core::Tensor;

use crate::checkpoint::model_info::ModelInfo;
use crate::decoder::cache::Cache;
use crate::error::{Error, Result};
use crate::model::partial_prefill::PartialPrefill;
use crate::model::shared_prefix::SharedPrefix;
use crate::processor::batch::Processor;
use crate::processor::model_inputs::ModelInputs;
use crate::taps::registry::TapRegistry;

/// A multimodal LLM.
///
/// A forward pass is one `prefill`, then one `decode` per further token; both return hidden states, and `logits`
/// projects those that are needed. The model itself does not change while it runs: all state is in the [`Cache`], so
/// one model can run several batches at once.
pub trait Mllm: Send + Sync {
    /// The description of the model.
    fn info(&self) -> &ModelInfo;

    /// The taps attached to the model.
    fn taps(&self) -> &TapRegistry;

    /// The tokenizer, chat template and image processor of the model.
    fn processor(&self) -> &Processor;

    /// An empty cache for one batch.
    fn new_cache(&self) -> Cache;

    /// Processes whole prompts, and given responses, into an empty cache.
    ///
    /// Returns the normalised hidden states `[batch, tokens, hidden]` of the last layer; those of padding are finite
    /// but meaningless.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`](crate::Error::Inputs) if the inputs contradict each other, the model or the cache; otherwise
    /// the error of candle or of a tap.
    fn prefill(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor>;

    /// Runs tokens of prompt text that several prompts begin with, for [`prefill_after`](Self::prefill_after). The taps of the
    /// cache, a new one, see them as one sequence.
    ///
    /// `None` if the keys and values of the tokens could depend on what follows: in models whose prompts attend to later
    /// tokens, with cross-attention to images, or with rotations that change with the length; and if other taps than those
    /// of one view are attached, which may act on whole prompts.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    fn share_prefix(&self, _tokens: &[u32], _cache: Cache) -> Result<Option<SharedPrefix>> {
        Ok(None)
    }

    /// Processes prompts that begin with a shared prefix, right-padded, into an empty cache: [`prefill`](Self::prefill)
    /// without running the tokens of the prefix again. Hidden states `[batch, tokens - prefix, hidden]` are those of the other
    /// tokens, which alone the taps see. Sums of other shapes round differently.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill), and [`Error::Inputs`](crate::Error::Inputs) if a prompt begins otherwise or a tap asks to
    /// [repeat](crate::Tap::settle) the pass.
    fn prefill_after(&self, _prefix: &SharedPrefix, _inputs: &ModelInputs, _cache: &mut Cache) -> Result<Tensor> {
        Err(Error::Inputs { reason: "this model shares no prefixes".to_owned() })
    }

    /// Starts a prefill that runs in parts: embeds whole prompts, and given responses, without running a layer.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    fn begin_prefill(&self, inputs: &ModelInputs) -> Result<PartialPrefill>;

    /// Runs the next layers, `layers` of them or all that are left. Taps see and change the same values as in
    /// [`prefill`](Self::prefill), but are not asked whether to [repeat](crate::Tap::settle) the pass.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    fn continue_prefill(&self, partial: &PartialPrefill, layers: usize) -> Result<PartialPrefill>;

    /// Runs all layers that are left; returns the hidden states that [`prefill`](Self::prefill) returns.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    fn finish_prefill(&self, partial: &PartialPrefill) -> Result<Tensor>;

    /// Processes one further token of each sequence; returns hidden states `[batch, 1, hidden]`.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`](crate::Error::Inputs) if the number of tokens is not the batch size of the cache.
    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor>;

    /// Computes the next-token logits `[.., vocabulary]` of hidden states `[.., hidden]`.
    ///
    /// # Errors
    ///
    /// candle's errors.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;
}
