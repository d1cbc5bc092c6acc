//! The image states that cross-attention layers attend to, and their visibility.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// The keys and values of image states, `[batch, kv_heads, states, head_dim]` each.
pub(crate) type KeysValues = (Tensor, Tensor);

/// The image states of a batch and their visibility to its tokens. The tensors never change, so clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ImageContext {
    /// The keys and values of each cross-attention layer.
    pub(crate) keys_values: BTreeMap<usize, KeysValues>,
    /// Added to the attention scores, `[batch, 1, tokens, states]`.
    pub(crate) mask: Tensor,
    /// `[batch, tokens, 1]`: 1 where a token sees any image state, 0 elsewhere.
    pub(crate) sees_images: Tensor,
}

impl ImageContext {
    /// Builds the context of `tokens` tokens from a `mask [batch, tokens, tiles]`, which is 1 where a token sees the
    /// states of a tile.
    ///
    /// Tokens beyond the mask see the same as its last token. A token that sees no tile attends to all states, as in
    /// the reference, but its MLP output is dropped.
    pub(crate) fn new(keys_values: BTreeMap<usize, KeysValues>, mask: &Tensor, tokens: usize, states_per_tile: usize) -> Result<Self> {
        let device = keys_values.values().next().map_or(mask.device(), |(keys, _)| keys.device()).clone();
        let (batch, masked, tiles) = mask.dims3()?;
        let states = keys_values.values().next().map_or(Ok(tiles * states_per_tile), |(keys, _)| keys.dim(2))?;
        if masked == 0 || masked > tokens || tiles * states_per_tile != states {
            let reason =
                format!("a cross-attention mask of {masked} tokens and {tiles} tiles for {tokens} tokens and {states} image states");
            return Err(Error::Inputs { reason });
        }
        let (mut scores, mut sees_images) = (Vec::with_capacity(batch * tokens * tiles), Vec::with_capacity(batch * tokens));
        for row in mask.to_dtype(DType::F32)?.to_vec3::<f32>()? {
            let last = row.last().into_iter().cycle().take(tokens - masked);
            for token in row.iter().chain(last) {
                let sees = token.contains(&1.0);
                scores.extend(token.iter().map(|tile| if *tile == 1.0 || !sees { 0.0 } else { f32::NEG_INFINITY }));
                sees_images.push(if sees { 1f32 } else { 0.0 });
            }
        }
        let scores = Tensor::from_vec(scores, (batch, 1, tokens, tiles, 1), &device)?;
        Ok(Self {
            mask: scores.broadcast_as((batch, 1, tokens, tiles, states_per_tile))?.reshape((batch, 1, tokens, states))?,
            sees_images: Tensor::from_vec(sees_images, (batch, tokens, 1), &device)?,
            keys_values,
        })
    }

    /// The context of the tokens that follow the given token of each sequence, which see the same as that token.
    pub(crate) fn for_next_tokens(&self, tokens: &[usize]) -> Result<Self> {
        let of = |table: &Tensor, axis: usize| -> Result<Tensor> {
            let rows = tokens.iter().enumerate().map(|(row, token)| table.narrow(0, row, 1)?.narrow(axis, *token, 1));
            Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
        };
        Ok(Self { keys_values: self.keys_values.clone(), mask: of(&self.mask, 2)?, sees_images: of(&self.sees_images, 1)? })
    }

    pub(crate) fn device(&self) -> &Device {
        self.mask.device()
    }

    /// The context of the given sequences, in the given order.
    pub(crate) fn select(&self, sequences: &Tensor) -> Result<Self> {
        let kept = |table: &Tensor| table.index_select(sequences, 0);
        let keys_values = self.keys_values.iter().map(|(layer, (keys, values))| Ok((*layer, (kept(keys)?, kept(values)?))));
        Ok(Self { keys_values: keys_values.collect::<Result<_>>()?, mask: kept(&self.mask)?, sees_images: kept(&self.sees_images)? })
    }
}
