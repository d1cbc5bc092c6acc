//! Grouped-query attention with rotary positions.

use candle_core::{D, Tensor};
use candle_nn::Module;
use candle_nn::kv_cache::KvCache;

use crate::decoder::config::DecoderConfig;
use crate::error::Result;
use crate::layers::attend::attend;
use crate::layers::derivative::{RmsNorm, rotate};
use crate::layers::linear::{Linear, Weights};

/// The cosines and sines of the positions of one pass, `[rows, tokens, rotated / 2]` or `[tokens, rotated / 2]`.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
}

impl Rotation {
    /// Rotates the first dimensions of heads `[batch, heads, tokens, head_dim]`.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let Self { cos, sin } = self;
        let (rotated, head_dim) = (2 * cos.dim(D::Minus1)?, x.dim(3)?);
        if rotated == head_dim {
            return Ok(rotate(x, cos, sin)?);
        }
        let turned = rotate(&x.narrow(3, 0, rotated)?.contiguous()?, cos, sin)?;
        Ok(Tensor::cat(&[&turned, &x.narrow(3, rotated, head_dim - rotated)?], 3)?.contiguous()?)
    }
}

#[derive(Debug)]
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    softcap: Option<f64>,
}

impl Attention {
    pub(crate) fn new(config: &DecoderConfig, weights: &Weights<'_>) -> Result<Self> {
        let DecoderConfig { hidden, heads, kv_heads, head_dim, qkv_bias, .. } = *config;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let [q, k, v] = if config.fused_projections {
            let parts = weights.fused("qkv_proj", hidden, &[queries, keys, keys])?;
            <[Linear; 3]>::try_from(parts).map_err(|_| candle_core::Error::Msg("qkv_proj has three parts".to_owned()))?
        } else {
            [
                weights.linear("q_proj", hidden, queries, qkv_bias)?,
                weights.linear("k_proj", hidden, keys, qkv_bias)?,
                weights.linear("v_proj", hidden, keys, qkv_bias)?,
            ]
        };
        let norm = |name: &str| -> Result<Option<RmsNorm>> {
            Ok(if config.qk_norm { Some(weights.rms_norm(name, head_dim, config.rms_eps, config.norm_offset)?) } else { None })
        };
        Ok(Self {
            q,
            k,
            v,
            o: weights.linear("o_proj", queries, hidden, config.output_bias)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            heads,
            kv_heads,
            head_dim,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, rotation: &Rotation, mask: Option<&Tensor>, cache: &mut KvCache) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let Self { heads, kv_heads, head_dim, .. } = *self;
        let split = |y: Tensor, heads: usize| y.reshape((batch, tokens, heads, head_dim))?.transpose(1, 2)?.contiguous();
        let normed = |y: Tensor, norm: &Option<RmsNorm>| norm.as_ref().map_or(Ok(y.clone()), |norm| norm.forward(&y));
        let q = rotation.apply(&normed(split(self.q.forward(x)?, heads)?, &self.q_norm)?)?;
        let k = normed(split(self.k.forward(x)?, kv_heads)?, &self.k_norm)?;
        let v = split(self.v.forward(x)?, kv_heads)?;
        let (k, v) = append(cache, &rotation.apply(&k)?, &v)?;
        Ok(self.o.forward(&attend(&(q * self.scale)?, &k, &v, mask, self.softcap)?)?)
    }
}

/// Appends keys and values to a cache; returns all keys and values in it.
///
/// The cache is written in place and carries no gradients. Gradients reach the keys and values of a pass that starts
/// the cache, but not those cached before.
fn append(cache: &mut KvCache, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
    let first = cache.current_seq_len() == 0;
    let cached = cache.append(&k.detach(), &v.detach())?;
    Ok(if first && k.track_op() { (k.clone(), v.clone()) } else { cached })
}
