//! Attention within the segments of one long sequence: images, or windows of images.

use candle_core::Tensor;

use crate::error::Result;

/// The maximum number of attention scores in memory at once: 128 MiB of f32.
pub(crate) const SCORES: usize = 1 << 25;

/// Attention within segments of `[heads, patches, head_dim]`, queries already scaled, in chunks of queries such that at
/// most `scores` attention scores are in memory at once.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &[usize], scores: usize) -> Result<Tensor> {
    let heads = q.dim(0)?;
    let mut attended = Vec::new();
    let mut start = 0;
    for segment in segments {
        let (k, v) = (k.narrow(1, start, *segment)?.t()?, v.narrow(1, start, *segment)?);
        let queries = (scores / heads / segment).max(1);
        for first in (0..*segment).step_by(queries) {
            let q = q.narrow(1, start + first, queries.min(segment - first))?;
            attended.push(candle_nn::ops::softmax_last_dim(&q.matmul(&k)?)?.matmul(&v)?);
        }
        start += segment;
    }
    Ok(Tensor::cat(&attended, 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn attention_in_chunks_equals_attention_per_segment() {
        let random = || Tensor::randn(0f32, 1.0, (2, 10, 4), &Device::Cpu).unwrap();
        let (q, k, v) = (random(), random(), random());
        let apart = |x: &Tensor, start, count| x.narrow(1, start, count).unwrap().contiguous().unwrap();
        let alone = |start, count| {
            let scores = apart(&q, start, count).matmul(&apart(&k, start, count).t().unwrap()).unwrap();
            candle_nn::ops::softmax_last_dim(&scores).unwrap().matmul(&apart(&v, start, count)).unwrap()
        };
        let expected = Tensor::cat(&[alone(0, 3), alone(3, 7)], 1).unwrap();
        for scores in [0, 28, SCORES] {
            let pieces = attention(&q, &k, &v, &[3, 7], scores).unwrap();
            let difference = (pieces - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(difference < 1e-6, "{scores}: {difference}");
        }
    }
}
