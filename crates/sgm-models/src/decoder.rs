//! The tapped decoder: one implementation of the language model for every family.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use candle_nn::kv_cache::KvCache;

use crate::attention::{Attention, Rotation, softcapped};
use crate::cache::Pass;
use crate::cross_attention::{CrossLayer, KeysValues};
use crate::decoder_config::{Attends, DecoderConfig};
use crate::derivative::RmsNorm;
use crate::linear::{Embedding, Linear, Weights};
use crate::mlp::Mlp;
use crate::rope::Rope;
use crate::tap::PassTaps;
use crate::{Cache, Result};

/// The decoder's weights.
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
    /// Loads the decoder from `weights`, where `embed_tokens`, `layers` and `norm` are, and its head `lm_head` from
    /// `head`, unless the embeddings serve as head or there is no other.
    pub(crate) fn new(config: &DecoderConfig, weights: &Weights<'_>, head: &Weights<'_>) -> Result<Self> {
        let DecoderConfig { vocabulary, unspoken, hidden, .. } = *config;
        let (embeddings, tied) = weights.embedding("embed_tokens", vocabulary + unspoken, hidden)?;
        let head = if config.tied || !head.has("lm_head.weight") { tied } else { head.linear("lm_head", hidden, vocabulary, false)? };
        let layer = |(index, attends): (usize, &Attends)| Layer::new(config, index, *attends, &weights.pp("layers").pp(index));
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

    /// The embeddings `[.., hidden]` of token ids `[..]`.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let embeddings = self.embeddings.forward(ids)?;
        Ok(match self.embedding_scale {
            None => embeddings,
            Some(scale) => (embeddings * scale)?,
        })
    }

    /// Whether this pass is the one in which the rotation changes, so that all before it must be computed anew.
    pub(crate) fn begins_anew(&self, pass: &Pass) -> bool {
        self.rope.changes_at().is_some_and(|at| pass.reached_before < at && at <= pass.reached)
    }

    pub(crate) fn window(&self) -> Option<usize> {
        self.window
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn new_cache(&self) -> Cache {
        Cache::new(self.layers.len(), self.rope.changes_at().is_some())
    }

    /// What the layers that attend to images make of image states `[batch, states, hidden]`, layer by layer.
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
    /// `after` has what is added to the hidden states after each of the first layers.
    pub(crate) fn forward(&self, embeddings: Tensor, pass: &Pass, cache: &mut Cache, taps: &PassTaps, after: &[Tensor]) -> Result<Tensor> {
        Ok(self.norm.forward(&self.through(0..self.layers(), embeddings, pass, cache, taps, after)?)?)
    }

    /// Runs a range of the layers over the hidden states `[batch, new tokens, hidden]` that enter the first of them; returns those that
    /// leave the last.
    pub(crate) fn through(
        &self,
        layers: Range<usize>,
        mut hidden: Tensor,
        pass: &Pass,
        cache: &mut Cache,
        taps: &PassTaps,
        after: &[Tensor],
    ) -> Result<Tensor> {
        let dtype = hidden.dtype();
        let rotation = |rope: &Rope| -> Result<Rotation> {
            let (cos, sin) = rope.tables(pass, dtype, &self.device)?;
            Ok(Rotation { cos, sin })
        };
        let (everywhere, in_window) = (rotation(&self.rope)?, self.window_rope.as_ref().map(rotation).transpose()?);
        let mask = |mask: &Option<Tensor>| mask.as_ref().map(|m| m.to_dtype(dtype)).transpose();
        let (causal, windowed) = (mask(&pass.mask)?, mask(&pass.window_mask)?);
        for (i, layer) in self.layers.iter().enumerate().take(layers.end).skip(layers.start) {
            hidden = match (layer, &pass.sight) {
                (Layer::Tokens(layer), _) => {
                    let context = match layer.attends {
                        Attends::Window => Context { rotation: in_window.as_ref().unwrap_or(&everywhere), mask: windowed.as_ref() },
                        _ => Context { rotation: &everywhere, mask: causal.as_ref() },
                    };
                    layer.forward(hidden, &context, cache.layer(i)?, taps)?
                }
                (Layer::Image(layer), Some(sight)) => layer.forward(hidden, sight, taps)?,
                // Without images the model does without these layers.
                (Layer::Image(_), None) => hidden,
            };
            if let Some(added) = after.get(i) {
                hidden = (hidden + added)?;
            }
        }
        Ok(hidden)
    }

    /// Logits `[.., vocabulary]` of hidden states `[.., hidden]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.head.forward(hidden)?;
        match self.logit_softcap {
            None => Ok(logits),
            Some(cap) => softcapped(&logits, cap),
        }
    }
}

/// What a layer's attention sees of the pass.
struct Context<'a> {
    rotation: &'a Rotation,
    mask: Option<&'a Tensor>,
}

#[derive(Debug)]
enum Layer {
    /// Attends to the tokens before.
    Tokens(TokenLayer),
    /// Attends to the images.
    Image(CrossLayer),
}

impl Layer {
    fn new(config: &DecoderConfig, index: usize, attends: Attends, weights: &Weights<'_>) -> Result<Self> {
        Ok(match attends {
            Attends::Image => Self::Image(CrossLayer::new(config, index, weights)?),
            _ => Self::Tokens(TokenLayer::new(config, index, attends, weights)?),
        })
    }
}

#[derive(Debug)]
struct TokenLayer {
    attends: Attends,
    input_norm: RmsNorm,
    attention: Attention,
    /// Of the attention's output, before it is added.
    attention_output_norm: Option<RmsNorm>,
    mlp_norm: RmsNorm,
    mlp: Mlp,
    /// Of the MLP's output, before it is added.
    mlp_output_norm: Option<RmsNorm>,
}

impl TokenLayer {
    fn new(config: &DecoderConfig, index: usize, attends: Attends, weights: &Weights<'_>) -> Result<Self> {
        let norm = |name: &str| weights.rms_norm(name, config.hidden, config.rms_eps, config.norm_offset);
        let (after_attention, mlp_norm, after_mlp) = if config.output_norms {
            (Some(norm("post_attention_layernorm")?), "pre_feedforward_layernorm", Some(norm("post_feedforward_layernorm")?))
        } else {
            (None, "post_attention_layernorm", None)
        };
        Ok(Self {
            attends,
            input_norm: norm("input_layernorm")?,
            attention: Attention::new(config, &weights.pp("self_attn"))?,
            attention_output_norm: after_attention,
            mlp_norm: norm(mlp_norm)?,
            mlp: Mlp::new(config, index, &weights.pp("mlp"))?,
            mlp_output_norm: after_mlp,
        })
    }

    fn forward(&self, hidden: Tensor, context: &Context<'_>, cache: &mut KvCache, taps: &PassTaps) -> Result<Tensor> {
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

/// The dtype in which a checkpoint computes on a device: f32 on CPUs, where 16-bit arithmetic is slower.
pub(crate) fn compute_dtype(device: &Device, stored: DType) -> DType {
    if device.is_cpu() { DType::F32 } else { stored }
}
