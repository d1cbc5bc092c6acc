//! Dot-product attention over grouped queries, with an additive mask and soft-capped scores.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::layers::derivative::softmax;
use crate::layers::fused_attention::FusedAttention;

/// Attends from queries `[batch, heads, tokens, head_dim]`, already scaled, to keys and values `[batch, kv_heads, seen,
/// head_dim]`; returns `[batch, tokens, heads * head_dim]`.
///
/// `mask` is added to the scores; its shape must broadcast to `[batch, heads, tokens, seen]`.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, softcap: Option<f64>) -> Result<Tensor> {
    let dtype = q.dtype();
    if matches!(dtype, DType::F16 | DType::BF16) && q.device().is_cpu() {
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let mask = mask.map(wide).transpose()?;
        return Ok(attend(&wide(q)?, &wide(k)?, &wide(v)?, mask.as_ref(), softcap)?.to_dtype(dtype)?);
    }
    if let Some(fused) = FusedAttention::new(q, k, v, mask, softcap)? {
        return Ok(by_rows(q)?.apply_op3(&by_rows(k)?, &by_rows(v)?, fused)?);
    }
    all_scores(q, k, v, mask, softcap)
}

/// The tensor, copied if its rows are not stored one after another.
fn by_rows(x: &Tensor) -> Result<Tensor> {
    Ok(match x.stride() {
        [.., row, 1] if *row == x.dim(3)? => x.clone(),
        _ => x.contiguous()?,
    })
}

/// Attention with a table of all scores.
fn all_scores(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, softcap: Option<f64>) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// The mask of a causal decoder whose first row begins with padding.
    fn causal(batch: usize, tokens: usize, seen: usize, window: usize) -> Tensor {
        let may = |row: usize, query: usize, key: usize| {
            let at = query + seen - tokens;
            key <= at && at < key + window && (row > 0 || key >= 3 || at < 3)
        };
        let mut values = Vec::new();
        for row in 0..batch {
            for query in 0..tokens {
                values.extend((0..seen).map(|key| if may(row, query, key) { 0.0 } else { f32::NEG_INFINITY }));
            }
        }
        Tensor::from_vec(values, (batch, 1, tokens, seen), &Device::Cpu).unwrap()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn blocks_of_queries_give_the_attention_of_all_scores() {
        let random = |shape: (usize, usize, usize, usize)| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        for (batch, heads, kv_heads, tokens, seen) in
            [(1, 4, 4, 150, 150), (2, 6, 2, 70, 75), (2, 4, 1, 1, 90), (3, 2, 2, 5, 5), (1, 2, 1, 16, 40)]
        {
            let q = random((batch, heads, tokens, 8));
            // Keys as they lie in a cache with room for more.
            let [k, v] = [(); 2].map(|()| random((batch, kv_heads, seen + 9, 8)).narrow(2, 0, seen).unwrap());
            for mask in
                [None, Some(causal(batch, tokens, seen, seen)), Some(causal(batch, tokens, seen, 7)), Some(causal(1, tokens, seen, seen))]
            {
                for softcap in [None, Some(3.0)] {
                    let [q, k, v] = [&q, &k, &v].map(|x| Var::from_tensor(x).unwrap());
                    let ours = attend(&q, &k, &v, mask.as_ref(), softcap).unwrap();
                    let all = all_scores(&q, &k, &v, mask.as_ref(), softcap).unwrap();
                    assert!(difference(&ours, &all) < 5e-6, "{batch} {heads} {tokens} {seen}: {}", difference(&ours, &all));
                    assert_eq!(difference(&ours, &attend(&q.detach(), &k.detach(), &v.detach(), mask.as_ref(), softcap).unwrap()), 0.0);
                    let [ours, all] = [ours, all].map(|y| y.sin().unwrap().backward().unwrap());
                    for x in [&q, &k, &v] {
                        let (ours, all) = (ours.get(x).unwrap(), all.get(x).unwrap());
                        assert!(difference(ours, all) < 2e-5, "gradients {batch} {heads} {tokens} {seen}: {}", difference(ours, all));
                    }
                }
            }
        }
    }
}
