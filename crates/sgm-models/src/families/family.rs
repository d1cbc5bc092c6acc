//! The interface between a family and the shared decoder.

use std::fmt;

use candle_core::Tensor;

use crate::decoder::config::DecoderConfig;
use crate::decoder::image_context::ImageContext;
use crate::decoder::pass::{AttentionPattern, Positions, TokenOrder};
use crate::decoder::transformer::Decoder;
use crate::error::Result;
use crate::processor::batch::Processor;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;

/// A model family: the way in which its images enter the decoder.
pub(crate) trait Family: fmt::Debug + Send + Sync {
    /// Turns a batch of prompts into the input of the decoder. Pixels and all other inputs are on the host; `images` moves
    /// pixels to the device.
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput>;

    /// Whether the text of a prompt attends to later tokens, as in a prefix language model.
    fn attends_to_later_text(&self) -> bool {
        false
    }

    /// Computes the image context, for decoders with cross-attention.
    fn image_context(&self, _decoder: &Decoder, _images: &FeatureCache, _inputs: &ModelInputs) -> Result<Option<ImageContext>> {
        Ok(None)
    }
}

/// The input of the decoder for a batch of prompts.
#[derive(Debug)]
pub(crate) struct DecoderInput {
    /// The embeddings `[batch, tokens, hidden]`, with image features in place.
    pub(crate) embeddings: Tensor,
    /// The positions and the attention pattern of the tokens.
    pub(crate) order: TokenOrder,
    /// Tensors `[batch, tokens, hidden]` that are added to the hidden states after each of the first layers.
    pub(crate) additions: Vec<Tensor>,
}

impl DecoderInput {
    /// The input of a causal sequence with positions from 0.
    pub(crate) fn causal(embeddings: Tensor) -> Self {
        let order = TokenOrder { positions: Positions::Consecutive(0), attention: AttentionPattern::Causal };
        Self { embeddings, order, additions: Vec::new() }
    }
}

/// The parts of a loaded model.
pub(crate) struct FamilyParts {
    pub(crate) text: DecoderConfig,
    pub(crate) decoder: Decoder,
    pub(crate) processor: Processor,
    pub(crate) family: Box<dyn Family>,
}
