//! How far the predictions of one model are from those of another.

use candle_core::DType;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::generation::generate::can_be_chosen_from;
use crate::generation::likelihood::{Numbered, in_batches, sum_of_exponentials, target_logits, targets};
use crate::model::mllm::Mllm;
use crate::processor::model_inputs::Padding;
use crate::processor::prompt::Prompt;

/// What two models predict for the next token: the probabilities `p` and `q`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenDivergence {
    /// The Kullback-Leibler divergence `sum(p ln(p / q))`, in nats.
    pub divergence: f64,
    /// The entropy `-sum(p ln p)`, in nats. With the divergence it adds up to the cross-entropy `-sum(p ln q)`: the negative log-likelihood
    /// under `q` that a token drawn from `p` is expected to have.
    pub entropy: f64,
    /// The increase `ln(p / q)` of the negative log-likelihood of the token that is there, in nats; 0 for a token that `p` excludes.
    pub nll_increase: f64,
}

/// The divergence between what two models predict for each token of given responses, end of sequence included: `p` are the probabilities of
/// the next token under `model`, `q` those under `other`.
///
/// Both see the same tokens, made by the processor of `model`; `other` is the same model with glasses, for example. Returns one list per
/// example, in order. Probabilities are computed in f64, on the host. A divergence is infinite where `other` excludes a token that `model`
/// does not.
///
/// # Errors
///
/// [`Error::Inputs`] if `batch_size` is 0 or the vocabularies differ in size, [`Error::NotFinite`] when logits are NaN or infinite;
/// otherwise the error of the processor or a model.
pub fn response_divergence<M: Mllm + ?Sized, N: Mllm + ?Sized>(
    model: &M,
    other: &N,
    examples: &[(Prompt, String)],
    batch_size: usize,
) -> Result<Vec<Vec<TokenDivergence>>> {
    in_batches(examples, batch_size, |batch| batch_divergence(model, other, batch))
}

fn batch_divergence<M: Mllm + ?Sized, N: Mllm + ?Sized>(
    model: &M,
    other: &N,
    examples: &[Numbered<'_>],
) -> Result<Vec<Vec<TokenDivergence>>> {
    let inputs = model.processor().responses(examples.iter().map(|(_, (p, r))| (p, r.as_str())), Padding::Right);
    let inputs = inputs.map_err(|e| e.renumbered(|row| examples.get(row).map_or(row, |(index, _)| *index)))?;
    let targets = targets(&inputs)?;
    let p = target_logits(model, &targets, || model.prefill(&inputs, &mut model.new_cache()))?;
    let q = target_logits(other, &targets, || other.prefill(&inputs, &mut other.new_cache()))?;
    let (Some(p), Some(q)) = (p, q) else { return Ok(targets.iter().map(|_| Vec::new()).collect()) };
    if p.dims() != q.dims() {
        return Err(Error::Inputs { reason: format!("logits are {:?} and {:?}; compare models with one vocabulary", p.dims(), q.dims()) });
    }
    let values = |logits: &candle_core::Tensor| logits.to_dtype(DType::F32)?.to_vec2::<f32>();
    let (p, q) = (values(&p)?, values(&q)?);
    let tokens: Vec<u32> = targets.iter().flatten().map(|(_, token)| *token).collect();
    let divergences: Vec<Option<TokenDivergence>> =
        p.par_iter().zip(&q).zip(tokens).map(|((p, q), token)| divergence(p, q, token)).collect();
    let mut divergences = divergences.into_iter();
    let rows = targets.iter().zip(examples).map(|(row, (prompt, _))| {
        let one = |(token, divergence): (usize, Option<TokenDivergence>)| divergence.ok_or(Error::NotFinite { prompt: *prompt, token });
        divergences.by_ref().take(row.len()).enumerate().map(one).collect()
    });
    rows.collect()
}

/// The divergence of the probabilities that logits define, with that of one token; `None` if they define none.
fn divergence(p: &[f32], q: &[f32], token: u32) -> Option<TokenDivergence> {
    if !can_be_chosen_from(p) || !can_be_chosen_from(q) {
        return None;
    }
    let ((p_max, p_sum), (q_max, q_sum)) = (sum_of_exponentials(p), sum_of_exponentials(q));
    let (p_all, q_all) = (p_max + p_sum.ln(), q_max + q_sum.ln());
    let (mut divergence, mut entropy, mut nll_increase) = (0.0, 0.0, 0.0);
    for (id, (p, q)) in p.iter().zip(q).enumerate() {
        let (ln_p, ln_q) = (f64::from(*p) - p_all, f64::from(*q) - q_all);
        if ln_p > f64::NEG_INFINITY {
            divergence += ln_p.exp() * (ln_p - ln_q);
            entropy -= ln_p.exp() * ln_p;
            if u32::try_from(id) == Ok(token) {
                nll_increase = ln_p - ln_q;
            }
        }
    }
    // Rounding may leave sums of almost equal or almost certain probabilities just below 0.
    Some(TokenDivergence { divergence: divergence.max(0.0), entropy: entropy.max(0.0), nll_increase })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_are_those_of_the_definition() {
        const INF: f32 = f32::INFINITY;
        let logits = |probabilities: [f32; 3]| probabilities.map(|p| p.ln() + 5.0);
        let (p, q): ([f32; 3], [f32; 3]) = ([0.5, 0.25, 0.25], [0.1, 0.2, 0.7]);
        let expected: f64 = p.iter().zip(q).map(|(p, q)| f64::from(p * (p / q).ln())).sum();
        let found = divergence(&logits(p), &logits(q), 1).unwrap();
        assert!((found.divergence - expected).abs() < 1e-6, "{found:?} {expected}");
        let entropy: f64 = -p.iter().map(|p| f64::from(p * p.ln())).sum::<f64>();
        assert!((found.entropy - entropy).abs() < 1e-6, "{found:?} {entropy}");
        assert!((found.nll_increase - (0.25f64 / 0.2).ln()).abs() < 1e-6, "{found:?}");
        let same = divergence(&logits(p), &logits(p), 1).unwrap();
        assert_eq!((same.divergence, same.nll_increase), (0.0, 0.0));
        // What the first excludes does not count, what the second excludes counts infinitely.
        let half = divergence(&[0.0, 0.0, -INF], &[0.0, 0.0, 0.0], 2).unwrap();
        assert!((half.divergence - 1.5f64.ln()).abs() < 1e-12 && half.nll_increase == 0.0, "{half:?}");
        assert_eq!(divergence(&[0.0, 0.0], &[0.0, -INF], 0).unwrap().divergence, f64::INFINITY);
        assert_eq!(divergence(&[0.0, -INF], &[0.0, 0.0], 0).unwrap().entropy, 0.0);
        for odd in [[f32::NAN, 0.0], [INF, 0.0], [-INF, -INF]] {
            assert_eq!(divergence(&odd, &[0.0, 0.0], 0), None);
            assert_eq!(divergence(&[0.0, 0.0], &odd, 0), None);
        }
    }
}
