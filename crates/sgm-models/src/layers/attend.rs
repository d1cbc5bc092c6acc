//! Dot-product attention over grouped queries, with an additive mask and soft-capped scores.

use candle_core::Tensor;

use crate::error::Result;
use crate::layers::derivative::softmax;

/// Attends from queries `[batch, heads, tokens, head_dim]`, already scaled, to keys and values `[batch, kv_heads, seen,
/// head_dim]`; returns `[batch, tokens, heads * head_dim]`.
///
/// `mask` is added to the scores; its shape must broadcast to `[batch, heads, tokens, seen]`.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, softcap: Option<f64>) -> Result<Tensor> {
    let ((batch, heads, tokens, head_dim), (_, kv_heads, seen, _)) = (q.dims4()?, k.dims4()?);
    // The query heads of a group share one key head. They are stacked as its rows, so that no key is repeated.
    let group = heads / kv_heads * tokens;
    let mut scores = q.reshape((batch, kv_heads, group, head_dim))?.matmul(&k.t()?)?;
    if let Some(cap) = softcap {
        scores = soft_cap(&scores, cap)?;
    }
    let scores = match mask {
        None => scores,
        Some(mask) => scores.reshape((batch, heads, tokens, seen))?.broadcast_add(mask)?.reshape((batch, kv_heads, group, seen))?,
    };
    let y = softmax(&scores)?.matmul(v)?.reshape((batch, heads, tokens, head_dim))?;
    Ok(y.transpose(1, 2)?.reshape((batch, tokens, heads * head_dim))?)
}

/// Soft-caps values: `cap * tanh(x / cap)`.
pub(crate) fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    Ok(((x / cap)?.tanh()? * cap)?)
}
