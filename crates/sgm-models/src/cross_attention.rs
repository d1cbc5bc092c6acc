//! Decoder layers that attend to the image instead of the text, as in Llama 3.2 Vision.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::Module;

use crate::attention::attend;
use crate::decoder_config::DecoderConfig;
use crate::derivative::RmsNorm;
use crate::linear::{Linear, Weights};
use crate::mlp::Mlp;
use crate::tap::PassTaps;
use crate::{Error, Result};

/// Keys and values `[batch, kv_heads, states, head_dim]` of image states.
pub(crate) type KeysValues = (Tensor, Tensor);

/// What the tokens of a batch see of its images. Its tensors never change, so clones may share them.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    /// By layer.
    keys_values: BTreeMap<usize, KeysValues>,
    /// Added to the scores, `[batch, 1, tokens, states]`.
    mask: Tensor,
    /// `[batch, tokens, 1]`: 1 where a token sees something, 0 elsewhere.
    seeing: Tensor,
}

impl Sight {
    /// What `tokens` tokens see by a `mask [batch, tokens, tiles]`, which is 1 where a token sees the states of a tile.
    ///
    /// Further tokens than the mask has see what its last one sees. A token that sees nothing attends to everything, as
    /// in the reference, but its MLP adds nothing.
    pub(crate) fn new(keys_values: BTreeMap<usize, KeysValues>, mask: &Tensor, tokens: usize, states_per_tile: usize) -> Result<Self> {
        let (batch, masked, tiles) = mask.dims3()?;
        let states = keys_values.values().next().map_or(Ok(tiles * states_per_tile), |(keys, _)| keys.dim(2))?;
        if masked == 0 || masked > tokens || tiles * states_per_tile != states {
            let reason =
                format!("a cross-attention mask of {masked} tokens and {tiles} tiles for {tokens} tokens and {states} image states");
            return Err(Error::Inputs { reason });
        }
        let (mut scores, mut seeing) = (Vec::with_capacity(batch * tokens * tiles), Vec::with_capacity(batch * tokens));
        for row in mask.to_dtype(DType::F32)?.to_vec3::<f32>()? {
            let last = row.last().into_iter().cycle().take(tokens - masked);
            for token in row.iter().chain(last) {
                let sees = token.contains(&1.0);
                scores.extend(token.iter().map(|tile| if *tile == 1.0 || !sees { 0.0 } else { f32::NEG_INFINITY }));
                seeing.push(if sees { 1f32 } else { 0.0 });
            }
        }
        let scores = Tensor::from_vec(scores, (batch, 1, tokens, tiles, 1), mask.device())?;
        Ok(Self {
            mask: scores.broadcast_as((batch, 1, tokens, tiles, states_per_tile))?.reshape((batch, 1, tokens, states))?,
            seeing: Tensor::from_vec(seeing, (batch, tokens, 1), mask.device())?,
            keys_values,
        })
    }

    /// What the token after the given one of each sequence sees: the same as that.
    pub(crate) fn after(&self, tokens: &[usize]) -> Result<Self> {
        let of = |table: &Tensor, axis: usize| -> Result<Tensor> {
            let rows = tokens.iter().enumerate().map(|(row, token)| table.narrow(0, row, 1)?.narrow(axis, *token, 1));
            Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
        };
        Ok(Self { keys_values: self.keys_values.clone(), mask: of(&self.mask, 2)?, seeing: of(&self.seeing, 1)? })
    }

    pub(crate) fn device(&self) -> &Device {
        self.mask.device()
    }

    /// What the given sequences see, in the given order.
    pub(crate) fn of(&self, sequences: &Tensor) -> Result<Self> {
        let kept = |table: &Tensor| table.index_select(sequences, 0);
        let keys_values = self.keys_values.iter().map(|(layer, (keys, values))| Ok((*layer, (kept(keys)?, kept(values)?))));
        Ok(Self { keys_values: keys_values.collect::<Result<_>>()?, mask: kept(&self.mask)?, seeing: kept(&self.seeing)? })
    }
}

/// A layer whose attention and MLP both come through a gate.
#[derive(Debug)]
pub(crate) struct CrossLayer {
    layer: usize,
    input_norm: RmsNorm,
    attention: CrossAttention,
    /// `[1]`, between -1 and 1, like that of the MLP.
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

    /// Keys and values of image states `[batch, states, hidden]`.
    pub(crate) fn keys_values(&self, states: &Tensor) -> Result<KeysValues> {
        self.attention.keys_values(states)
    }

    pub(crate) fn forward(&self, hidden: Tensor, sight: &Sight, taps: &PassTaps) -> Result<Tensor> {
        let keys_values = sight.keys_values.get(&self.layer);
        let keys_values =
            keys_values.ok_or_else(|| Error::Inputs { reason: format!("the cache has no image for layer {}", self.layer) })?;
        let attended = self.attention.forward(&self.input_norm.forward(&hidden)?, keys_values, &sight.mask)?;
        let hidden = (hidden + attended.broadcast_mul(&self.attention_gate)?)?;
        let transformed = self.mlp.forward(&self.mlp_norm.forward(&hidden)?, None, taps)?;
        let transformed = transformed.broadcast_mul(&sight.seeing.to_dtype(hidden.dtype())?)?;
        Ok((hidden + transformed.broadcast_mul(&self.mlp_gate)?)?)
    }
}

/// Grouped-query attention without positions, queries and keys normalised head by head.
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

    /// `[batch, n, heads * head_dim]` as `[batch, heads, n, head_dim]`.
    fn heads(&self, y: &Tensor) -> Result<Tensor> {
        let (batch, n, _) = y.dims3()?;
        let heads = y.dim(D::Minus1)? / self.head_dim;
        Ok(y.reshape((batch, n, heads, self.head_dim))?.transpose(1, 2)?.contiguous()?)
    }
}
