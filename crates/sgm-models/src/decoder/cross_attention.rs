//! Decoder layers that attend to images instead of text, as in Llama 3.2 Vision.

use candle_core::{D, Tensor};
use candle_nn::Module;

use crate::decoder::config::DecoderConfig;
use crate::decoder::image_context::{ImageContext, KeysValues};
use crate::decoder::mlp::Mlp;
use crate::error::{Error, Result};
use crate::layers::attend::attend;
use crate::layers::derivative::RmsNorm;
use crate::layers::linear::{Linear, Weights};
use crate::taps::registry::PassTaps;

/// A layer whose attention and MLP outputs are multiplied by gates.
#[derive(Debug)]
pub(crate) struct CrossLayer {
    layer: usize,
    input_norm: RmsNorm,
    attention: CrossAttention,
    /// The gate of the attention output, `[1]`, between -1 and 1. The same holds for the gate of the MLP output.
    attention_gate: Tensor,
    mlp_norm: RmsNorm,
    mlp: Mlp,
    mlp_gate: Tensor,
}

impl CrossLayer {
    pub(crate) fn new(config: &DecoderConfig, layer: usize, weights: &Weights<'_>) -> Result<Self> {
        let norm = |name: &str| weights.rms_norm(name, config.hidden, config.rms_eps, config.norm_offset);
        let gate = |name: &str| weights.get(1, name)?.tanh();
        Ok(Self {
            layer,
            input_norm: norm("input_layernorm")?,
            attention: CrossAttention::new(config, &weights.pp("cross_attn"))?,
            attention_gate: gate("cross_attn_attn_gate")?,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(config, layer, &weights.pp("mlp"))?,
            mlp_gate: gate("cross_attn_mlp_gate")?,
        })
    }

    /// Computes the keys and values of image states `[batch, states, hidden]`.
    pub(crate) fn keys_values(&self, states: &Tensor) -> Result<KeysValues> {
        self.attention.keys_values(states)
    }

    pub(crate) fn forward(&self, hidden: Tensor, image_context: &ImageContext, taps: &PassTaps) -> Result<Tensor> {
        let keys_values = image_context.keys_values.get(&self.layer);
        let keys_values =
            keys_values.ok_or_else(|| Error::Inputs { reason: format!("the cache has no image for layer {}", self.layer) })?;
        let attended = self.attention.forward(&self.input_norm.forward(&hidden)?, keys_values, &image_context.mask)?;
        let hidden = (hidden + attended.broadcast_mul(&self.attention_gate)?)?;
        let transformed = self.mlp.forward(&self.mlp_norm.forward(&hidden)?, None, taps)?;
        let transformed = transformed.broadcast_mul(&image_context.sees_images.to_dtype(hidden.dtype())?)?;
        Ok((hidden + transformed.broadcast_mul(&self.mlp_gate)?)?)
    }
}

/// Grouped-query attention without positions; queries and keys are normalised per head.
#[derive(Debug)]
struct CrossAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    head_dim: usize,
    scale: f64,
}

impl CrossAttention {
    fn new(config: &DecoderConfig, weights: &Weights<'_>) -> Result<Self> {
        let DecoderConfig { hidden, heads, kv_heads, head_dim, .. } = *config;
        let linear = |name: &str, inputs: usize, outputs: usize| weights.linear(name, inputs, outputs, false);
        let norm = |name: &str| weights.rms_norm(name, head_dim, config.rms_eps, config.norm_offset);
        Ok(Self {
            q: linear("q_proj", hidden, heads * head_dim)?,
            k: linear("k_proj", hidden, kv_heads * head_dim)?,
            v: linear("v_proj", hidden, kv_heads * head_dim)?,
            o: linear("o_proj", heads * head_dim, hidden)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            head_dim,
            scale: config.attention_scale,
        })
    }

    fn keys_values(&self, states: &Tensor) -> Result<KeysValues> {
        Ok((self.k_norm.forward(&self.heads(&self.k.forward(states)?)?)?, self.heads(&self.v.forward(states)?)?))
    }

    fn forward(&self, x: &Tensor, (keys, values): &KeysValues, mask: &Tensor) -> Result<Tensor> {
        let q = self.q_norm.forward(&self.heads(&self.q.forward(x)?)?)?;
        Ok(self.o.forward(&attend(&(q * self.scale)?, keys, values, Some(&mask.to_dtype(x.dtype())?), None)?)?)
    }

    /// Reshapes `[batch, n, heads * head_dim]` to `[batch, heads, n, head_dim]`.
    fn heads(&self, y: &Tensor) -> Result<Tensor> {
        let (batch, n, _) = y.dims3()?;
        let heads = y.dim(D::Minus1)? / self.head_dim;
        Ok(y.reshape((batch, n, heads, self.head_dim))?.transpose(1, 2)?.contiguous()?)
    }
}
