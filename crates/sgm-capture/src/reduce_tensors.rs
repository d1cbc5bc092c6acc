//! Pooling by tensor operations, on the device of the responses and in any dtype.

use std::collections::BTreeSet;

use candle_core::{DType, Result, Tensor};
use sgm_core::{TokenKind, TokenSelection};

use crate::Pool;
use crate::reduce::Reduction;

/// The tokens of one sample: their kinds, and at the site of an expert whether each is routed there.
pub(crate) type Tokens<'a> = (&'a [TokenKind], Option<&'a [bool]>);

impl Reduction {
    /// Pools responses `[samples, tokens, neurons]`: for each sample what [`row`](Self::row) returns of it, with sums in f32 in the order of
    /// the device. One tensor `[samples, poolings * neurons + 1]` is copied to the host.
    ///
    /// `None` if a response is not finite, of padding too, or there is none; then `row` says what the result is.
    pub(crate) fn batch(&self, responses: &Tensor, samples: &[Tokens<'_>]) -> Result<Option<Vec<Vec<Vec<f32>>>>> {
        let (count, tokens, neurons) = responses.dims3()?;
        if count * tokens * neurons == 0 {
            return Ok(None);
        }
        let selections: BTreeSet<TokenSelection> = self.poolings().map(|pooling| pooling.tokens).collect();
        let selections: Vec<Selected> = selections.into_iter().map(|tokens| Selected::new(tokens, samples)).collect();

        // Products with zeros and ones sum the tokens of each selection, and for the check those of none left out.
        let ones = vec![1.0; tokens];
        let weights = |sample: usize| selections.iter().flat_map(move |selected| selected.of(sample)).chain(&ones).copied();
        let weights: Vec<f32> = (0..count).flat_map(weights).collect();
        let weights = Tensor::from_vec(weights, (count, selections.len() + 1, tokens), responses.device())?;
        let sums = weights.matmul(&responses.to_dtype(DType::F32)?)?;

        let mut parts = Vec::new();
        for pooling in self.poolings() {
            let Some((at, selected)) = selections.iter().enumerate().find(|(_, selected)| selected.tokens == pooling.tokens) else {
                continue;
            };
            let only = |tensor: &Tensor, other| selected.or_else(tensor, other);
            let pooled = match pooling.pool {
                Pool::Mean => sums.narrow(1, at, 1)?.squeeze(1)?,
                Pool::Max => folded(only(responses, f32::NEG_INFINITY)?, |a, b| a.maximum(b))?,
                Pool::Min => folded(only(responses, f32::INFINITY)?, |a, b| a.minimum(b))?,
                Pool::MaxAbs => folded(only(&responses.abs()?, 0.0)?, |a, b| a.maximum(b))?,
                Pool::Last => responses.flatten_to(1)?.index_select(&Tensor::new(selected.last(tokens), responses.device())?, 0)?,
            };
            parts.push(pooled.to_dtype(DType::F32)?);
        }
        parts.push(sums.narrow(1, selections.len(), 1)?.squeeze(1)?.sum_keepdim(1)?);
        let rows = Tensor::cat(&parts, 1)?.to_vec2::<f32>()?;
        if rows.iter().any(|row| row.last().is_none_or(|check| !check.is_finite())) {
            return Ok(None);
        }
        let finished = |(sample, row): (usize, &Vec<f32>)| {
            let pooled = row.chunks_exact(neurons).zip(self.poolings()).map(|(values, pooling)| {
                let selected = selections.iter().find(|selected| selected.tokens == pooling.tokens);
                let chosen = selected.map_or(0, |selected| selected.of(sample).iter().filter(|weight| **weight > 0.0).count());
                let routed = samples.get(sample).is_some_and(|(_, routed)| routed.is_some());
                #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "pooled responses are stored in f32")]
                let mean = |sum: &f32| (f64::from(*sum) / chosen as f64) as f32;
                match pooling.pool {
                    _ if chosen == 0 => vec![if routed { 0.0 } else { f32::NAN }; neurons],
                    Pool::Mean => values.iter().map(mean).collect(),
                    _ => values.to_vec(),
                }
            });
            pooled.collect()
        };
        Ok(Some(rows.iter().enumerate().map(finished).collect()))
    }
}

/// The tokens that a selection selects in each sample.
struct Selected {
    tokens: TokenSelection,
    /// 1 for each selected token, 0 for the others, sample after sample.
    weights: Vec<f32>,
    samples: usize,
}

impl Selected {
    fn new(tokens: TokenSelection, samples: &[Tokens<'_>]) -> Self {
        let weights = samples.iter().flat_map(|(kinds, routed)| {
            let routed = move |at: usize| routed.is_none_or(|routed| routed.get(at) == Some(&true));
            tokens.selected(kinds).enumerate().map(move |(at, selected)| if selected && routed(at) { 1.0 } else { 0.0 })
        });
        Self { tokens, weights: weights.collect(), samples: samples.len() }
    }

    fn of(&self, sample: usize) -> &[f32] {
        let tokens = self.weights.len() / self.samples.max(1);
        self.weights.get(sample * tokens..(sample + 1) * tokens).unwrap_or_default()
    }

    /// The responses `[samples, tokens, neurons]` at selected tokens, and another value at all others.
    fn or_else(&self, responses: &Tensor, other: f32) -> Result<Tensor> {
        if self.weights.iter().all(|weight| *weight > 0.0) {
            return Ok(responses.clone());
        }
        let (samples, tokens, _) = responses.dims3()?;
        let selected: Vec<u8> = self.weights.iter().map(|weight| u8::from(*weight > 0.0)).collect();
        let selected = Tensor::from_vec(selected, (samples, tokens, 1), responses.device())?.broadcast_as(responses.shape())?;
        let other = Tensor::new(other, responses.device())?.to_dtype(responses.dtype())?.broadcast_as(responses.shape())?;
        selected.where_cond(responses, &other)
    }

    /// The last selected token of each sample, or its first token, as an index into all tokens.
    fn last(&self, tokens: usize) -> Vec<u32> {
        let last = |sample: usize| sample * tokens + self.of(sample).iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
        (0..self.samples).map(|sample| u32::try_from(last(sample)).unwrap_or(u32::MAX)).collect()
    }
}

/// Folds the tokens of `[samples, tokens, neurons]`, at least one, to `[samples, neurons]` by an operation for which it does not matter that
/// a token takes part twice. Halving keeps neighbouring neurons together in memory, which a reduction over the middle dimension does not.
fn folded(mut responses: Tensor, fold: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    loop {
        let tokens = responses.dim(1)?;
        if tokens == 1 {
            return responses.squeeze(1);
        }
        let half = tokens.div_ceil(2);
        responses = fold(&responses.narrow(1, 0, half)?, &responses.narrow(1, tokens - half, half)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pooling;
    use candle_core::Device;
    use proptest::prelude::*;

    const KINDS: [TokenKind; 4] = [TokenKind::Padding, TokenKind::PromptText, TokenKind::Image, TokenKind::Response];

    fn all() -> Vec<Pooling> {
        TokenSelection::ALL.into_iter().flat_map(|tokens| Pool::ALL.map(|pool| Pooling { pool, tokens })).collect()
    }

    proptest! {
        #[test]
        fn tensors_and_the_kernel_agree_for_every_pooling_and_dtype(
            kinds in proptest::collection::vec(proptest::collection::vec(0usize..4, 23), 1..4),
            tokens in 1usize..23,
            neurons in 1usize..9,
            seed in 0usize..1000,
            routed in proptest::option::of(proptest::collection::vec(any::<bool>(), 23)),
        ) {
            let kinds: Vec<Vec<TokenKind>> = kinds.iter().map(|row| row.iter().take(tokens).map(|k| KINDS[*k]).collect()).collect();
            let routed = routed.map(|routed| routed[..tokens].to_vec());
            let samples: Vec<Tokens<'_>> = kinds.iter().map(|kinds| (kinds.as_slice(), routed.as_deref())).collect();
            let value = |i: usize| ((i + 97 * seed) * 7919 % 2003) as f32 / 100.0 - 10.0;
            let values: Vec<f32> = (0..samples.len() * tokens * neurons).map(value).collect();
            let reduction = Reduction::new(all());
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let tensor = Tensor::from_slice(&values, (samples.len(), tokens, neurons), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let batch = reduction.batch(&tensor, &samples).unwrap().unwrap();
                let rounded = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (sample, (kinds, routed)) in samples.iter().enumerate() {
                    let own = &rounded[sample * tokens * neurons..(sample + 1) * tokens * neurons];
                    let (expected, _) = reduction.row(own, neurons, kinds, *routed);
                    for ((pooling, expected), pooled) in all().iter().zip(&expected).zip(&batch[sample]) {
                        // Sums of up to 22 numbers up to 10 may cancel; the other pools choose a number.
                        let tolerance = if pooling.pool == Pool::Mean { 1e-5 } else { 0.0 };
                        let close = |(a, b): (&f32, &f32)| a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance;
                        prop_assert_eq!(pooled.len(), neurons);
                        prop_assert!(expected.iter().zip(pooled).all(close), "{} {:?}: {:?} {:?}", pooling, dtype, expected, pooled);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_left_to_the_kernel() {
        let kinds = [TokenKind::PromptText; 3];
        let reduction = Reduction::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0f32; 6];
            let batch =
                |values: &[f32]| reduction.batch(&Tensor::from_slice(values, (1, 3, 2), &Device::Cpu).unwrap(), &[(&kinds, None)]).unwrap();
            assert_eq!(batch(&values), Some(vec![vec![vec![1.0, 1.0]]]));
            values[4] = odd;
            assert_eq!(batch(&values), None);
        }
    }
}
