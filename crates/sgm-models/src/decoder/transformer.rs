//! The decoder: embeddings, layers, final norm and head.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};
use candle_nn::Module;
use candle_nn::kv_cache::KvCache;

use crate::decoder::attention::{Attention, Rotation};
use crate::decoder::cache::Cache;
use crate::decoder::config::{DecoderConfig, LayerAttention};
use crate::decoder::cross_attention::CrossLayer;
use crate::decoder::image_context::KeysValues;
use crate::decoder::mixture::Mixture;
use crate::decoder::mlp::Mlp;
use crate::decoder::pass::Pass;
use crate::decoder::rope::Rope;
use crate::error::{Error, Result};
use crate::layers::attend::soft_cap;
use crate::layers::derivative::RmsNorm;
use crate::layers::linear::{Embedding, Linear, Weights};
use crate::taps::registry::PassTaps;

/// The possible names of the head.
const HEADS: [&str; 4] = ["lm_head", "language_model.lm_head", "model.lm_head", "model.language_model.lm_head"];

/// A decoder with its weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    embeddings: Embedding,
    embedding_scale: Option<f64>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    logit_softcap: Option<f64>,
    rope: Rope,
    window_rope: Option<Rope>,
    window: Option<usize>,
    device: Device,
}

impl Decoder {
    /// Loads the decoder. `weights` holds `embed_tokens`, `layers` and `norm`; the head is found below `root`.
    pub(crate) fn new(config: &DecoderConfig, weights: &Weights<'_>, root: &Weights<'_>) -> Result<Self> {
        let DecoderConfig { vocabulary, extra_embeddings, hidden, .. } = *config;
        let (embeddings, tied) = weights.embedding("embed_tokens", vocabulary + extra_embeddings, hidden)?;
        let head = head(config, root, tied)?;
        let layer =
            |(index, attention_kind): (usize, &LayerAttention)| Layer::new(config, index, *attention_kind, &weights.pp("layers").pp(index));
        Ok(Self {
            embeddings,
            embedding_scale: config.embedding_scale,
            layers: config.layers.iter().enumerate().map(layer).collect::<Result<_>>()?,
            norm: weights.rms_norm("norm", hidden, config.rms_eps, config.norm_offset)?,
            head,
            logit_softcap: config.logit_softcap,
            rope: config.rope.clone(),
            window_rope: config.window_rope.clone(),
            window: config.window,
            device: weights.vb().device().clone(),
        })
    }

    /// Looks up the embeddings `[.., hidden]` of token ids `[..]` on any device.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let embeddings = self.embeddings.forward(&ids.to_device(&self.device)?)?;
        Ok(match self.embedding_scale {
            None => embeddings,
            Some(scale) => (embeddings * scale)?,
        })
    }

    /// Whether the rotation changes in this pass, so that all earlier tokens have to be computed again.
    pub(crate) fn must_restart(&self, pass: &Pass) -> bool {
        self.rope.long_from().is_some_and(|at| pass.previous_max_position < at && at <= pass.max_position)
    }

    /// Whether the keys and values of a token are the same whatever follows it, if it attends to no later token.
    pub(crate) fn can_share_prefix(&self) -> bool {
        self.rope.long_from().is_none() && !self.layers.iter().any(|layer| matches!(layer, Layer::Image(_)))
    }

    pub(crate) fn window(&self) -> Option<usize> {
        self.window
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn new_cache(&self) -> Cache {
        Cache::new(self.layers.len(), self.rope.long_from().is_some())
    }

    /// Computes the keys and values of image states `[batch, states, hidden]` for each cross-attention layer.
    pub(crate) fn keys_values(&self, states: &Tensor) -> Result<BTreeMap<usize, KeysValues>> {
        let cross = self.layers.iter().enumerate().filter_map(|(i, layer)| match layer {
            Layer::Image(layer) => Some((i, layer)),
            Layer::Tokens(_) => None,
        });
        cross.map(|(i, layer)| Ok((i, layer.keys_values(states)?))).collect()
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Runs all layers over embeddings `[batch, new tokens, hidden]`; returns the normalised hidden states.
    ///
    /// `additions` are added to the hidden states after each of the first layers.
    pub(crate) fn forward(
        &self,
        embeddings: Tensor,
        pass: &Pass,
        cache: &mut Cache,
        taps: &PassTaps,
        additions: &[Tensor],
    ) -> Result<Tensor> {
        self.normalise(&self.run_layers(0..self.layers(), embeddings, pass, cache, taps, additions)?)
    }

    /// Applies the final norm to the hidden states after the last layer.
    pub(crate) fn normalise(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(hidden)?)
    }

    /// Runs a range of layers over the hidden states `[batch, new tokens, hidden]` before the first of them; returns
    /// the hidden states after the last.
    pub(crate) fn run_layers(
        &self,
        layers: Range<usize>,
        mut hidden: Tensor,
        pass: &Pass,
        cache: &mut Cache,
        taps: &PassTaps,
        additions: &[Tensor],
    ) -> Result<Tensor> {
        let dtype = hidden.dtype();
        let rotation = |rope: &Rope| -> Result<Rotation> {
            let (cos, sin) = rope.tables(pass, dtype, &self.device)?;
            Ok(Rotation { cos, sin })
        };
        let (full_rotation, window_rotation) = (rotation(&self.rope)?, self.window_rope.as_ref().map(rotation).transpose()?);
        let mask = |mask: &Option<Tensor>| mask.as_ref().map(|m| m.to_dtype(dtype)).transpose();
        let (full_mask, window_mask) = (mask(&pass.mask)?, mask(&pass.window_mask)?);
        for (i, layer) in self.layers.iter().enumerate().take(layers.end).skip(layers.start) {
            hidden = match (layer, &pass.image_context) {
                (Layer::Tokens(layer), _) => {
                    let context = match layer.attention_kind {
                        LayerAttention::Window => {
                            AttentionContext { rotation: window_rotation.as_ref().unwrap_or(&full_rotation), mask: window_mask.as_ref() }
                        }
                        _ => AttentionContext { rotation: &full_rotation, mask: full_mask.as_ref() },
                    };
                    layer.forward(hidden, &context, cache.layer(i)?, taps)?
                }
                (Layer::Image(layer), Some(image_context)) => layer.forward(hidden, image_context, taps)?,
                // Without images, cross-attention layers are skipped.
                (Layer::Image(_), None) => hidden,
            };
            if let Some(added) = additions.get(i) {
                hidden = (hidden + added)?;
            }
        }
        Ok(hidden)
    }

    /// Computes the logits `[.., vocabulary]` of hidden states `[.., hidden]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.head.forward(hidden)?;
        match self.logit_softcap {
            None => Ok(logits),
            Some(cap) => soft_cap(&logits, cap),
        }
    }
}

/// Loads the head. The file decides: a head in it is used, whatever the configuration says, as in transformers; only
/// without one do the embeddings, `tied`, serve as head, if the configuration says so.
fn head(config: &DecoderConfig, root: &Weights<'_>, tied: Linear) -> Result<Linear> {
    let Some(name) = HEADS.into_iter().find(|name| root.has(&format!("{name}.weight"))) else {
        return if config.tied { Ok(tied) } else { Err(Error::NoHead { names: HEADS.map(|name| format!("{name}.weight")).into() }) };
    };
    let own = root.linear(name, config.hidden, config.vocabulary, false)?;
    if config.tied {
        if own.same_weights(&tied)? {
            return Ok(tied);
        }
        tracing::warn!(
            head = name,
            "the configuration ties the head to the embeddings (tie_word_embeddings), but the checkpoint has a head with other values, \
             which is used"
        );
    }
    Ok(own)
}

/// The rotation and mask of a layer's attention.
struct AttentionContext<'a> {
    rotation: &'a Rotation,
    mask: Option<&'a Tensor>,
}

#[derive(Debug)]
enum Layer {
    /// Attends to tokens.
    Tokens(TokenLayer),
    /// Attends to images.
    Image(CrossLayer),
}

impl Layer {
    fn new(config: &DecoderConfig, index: usize, attention_kind: LayerAttention, weights: &Weights<'_>) -> Result<Self> {
        Ok(match attention_kind {
            LayerAttention::Image => Self::Image(CrossLayer::new(config, index, weights)?),
            _ => Self::Tokens(TokenLayer::new(config, index, attention_kind, weights)?),
        })
    }
}

/// The part of a layer that works on each token alone.
#[derive(Debug)]
enum FeedForward {
    Mlp(Mlp),
    Mixture(Mixture),
}

impl FeedForward {
    fn new(config: &DecoderConfig, index: usize, weights: &Weights<'_>) -> Result<Self> {
        Ok(match config.mixture.as_ref().filter(|_| config.has_mixture(index)) {
            None => Self::Mlp(Mlp::new(config, index, &weights.pp("mlp"))?),
            // The second name is Mixtral's.
            Some(mixture) => {
                let weights = weights.first(&["mlp", "block_sparse_moe"], "gate.weight", "mixture of experts")?;
                Self::Mixture(Mixture::new(config, mixture, index, &weights)?)
            }
        })
    }

    fn forward(&self, x: &Tensor, residual: Option<&Tensor>, taps: &PassTaps) -> Result<Tensor> {
        match self {
            Self::Mlp(mlp) => mlp.forward(x, residual, taps),
            Self::Mixture(mixture) => mixture.forward(x, residual, taps),
        }
    }
}

#[derive(Debug)]
struct TokenLayer {
    attention_kind: LayerAttention,
    input_norm: RmsNorm,
    attention: Attention,
    /// Applied to the attention output before the residual is added.
    attention_output_norm: Option<RmsNorm>,
    mlp_norm: RmsNorm,
    mlp: FeedForward,
    /// Applied to the MLP output before the residual is added.
    mlp_output_norm: Option<RmsNorm>,
}

impl TokenLayer {
    fn new(config: &DecoderConfig, index: usize, attention_kind: LayerAttention, weights: &Weights<'_>) -> Result<Self> {
        let norm = |name: &str| weights.rms_norm(name, config.hidden, config.rms_eps, config.norm_offset);
        let (after_attention, mlp_norm, after_mlp) = if config.output_norms {
            (Some(norm("post_attention_layernorm")?), "pre_feedforward_layernorm", Some(norm("post_feedforward_layernorm")?))
        } else {
            (None, "post_attention_layernorm", None)
        };
        Ok(Self {
            attention_kind,
            input_norm: norm("input_layernorm")?,
            attention: Attention::new(config, &weights.pp("self_attn"))?,
            attention_output_norm: after_attention,
            mlp_norm: norm(mlp_norm)?,
            mlp: FeedForward::new(config, index, weights)?,
            mlp_output_norm: after_mlp,
        })
    }

    fn forward(&self, hidden: Tensor, context: &AttentionContext<'_>, cache: &mut KvCache, taps: &PassTaps) -> Result<Tensor> {
        let normed = |y: Tensor, norm: &Option<RmsNorm>| norm.as_ref().map_or(Ok(y.clone()), |norm| norm.forward(&y));
        let attended = self.attention.forward(&self.input_norm.forward(&hidden)?, context.rotation, context.mask, cache)?;
        let hidden = (hidden + normed(attended, &self.attention_output_norm)?)?;
        let x = self.mlp_norm.forward(&hidden)?;
        match &self.mlp_output_norm {
            None => self.mlp.forward(&x, Some(&hidden), taps),
            Some(norm) => Ok((hidden + norm.forward(&self.mlp.forward(&x, None, taps)?)?)?),
        }
    }
}
