//! The likelihood of given responses, and its gradients.

use candle_core::{D, DType, Tensor};
use rayon::prelude::*;
use sgm_core::TokenKind;

use crate::error::{Error, Result};
use crate::generation::generate::can_be_chosen_from;
use crate::layers::derivative::with_gradient;
use crate::model::mllm::Mllm;
use crate::processor::model_inputs::{ModelInputs, Padding};
use crate::processor::prompt::Prompt;

/// The negative log-likelihood, in nats, of each token of given responses, end of sequence included.
///
/// Returns one list per example, in order. Logits are normalised in f64, on a device other than the CPU in f32.
///
/// # Errors
///
/// [`Error::Inputs`] if `batch_size` is 0, [`Error::NotFinite`] when logits are NaN or infinite; otherwise the error of the
/// processor or the model.
pub fn response_nll<M: Mllm + ?Sized>(model: &M, examples: &[(Prompt, String)], batch_size: usize) -> Result<Vec<Vec<f64>>> {
    in_batches(examples, batch_size, |batch| batch_nll(model, batch))
}

/// A prompt with a given response, and its place among the examples.
pub(crate) type Numbered<'a> = (usize, &'a (Prompt, String));

/// Runs examples of similar size together; returns what `run` gives for each, in order.
pub(crate) fn in_batches<T: Send>(
    examples: &[(Prompt, String)],
    batch_size: usize,
    run: impl Fn(&[Numbered<'_>]) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    if batch_size == 0 {
        return Err(Error::Inputs { reason: "batch_size must not be 0".to_owned() });
    }
    let mut order: Vec<Numbered<'_>> = examples.iter().enumerate().collect();
    order.sort_by_cached_key(|(_, (prompt, response))| (prompt.size().0, prompt.size().1 + response.len()));
    let batches = order.par_chunks(batch_size).map(&run).collect::<Result<Vec<_>>>()?;
    let mut results: Vec<(usize, T)> = order.iter().map(|(index, _)| *index).zip(batches.into_iter().flatten()).collect();
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The objective of [`backpropagate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Objective {
    /// The log-likelihood of the whole response, the sum over its tokens.
    #[default]
    Sum,
    /// The mean over the tokens of the response, which gives long responses the same weight as short ones.
    Mean,
    /// Not the likelihood, but the mean entropy of the predictions of the response's tokens, in nats.
    Entropy,
}

/// Runs prompts with given responses forward and backward. The gradients of each row's objective, in nats, reach
/// the taps that ask for them with [`with_gradient`].
///
/// Returns the negative log-likelihood of each token of each response, end of sequence included, bit-equal to a pass
/// without gradients. Rows without a response have no gradient.
///
/// # Errors
///
/// The error of the model or its taps, [`Error::NotFinite`] when logits are NaN or infinite, and candle's error for models
/// that are not on the CPU.
pub fn backpropagate<M: Mllm + ?Sized>(model: &M, inputs: &ModelInputs, objective: Objective) -> Result<Vec<Vec<f64>>> {
    let targets = targets(inputs)?;
    let hidden = || model.prefill(inputs, &mut model.new_cache());
    let Some(logits) = target_logits(model, &targets, hidden)? else { return Ok(targets.iter().map(|_| Vec::new()).collect()) };
    let values = logits.detach().to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let likelihoods = negative_log_likelihoods(&targets, &values, &inputs.ids)?;
    if logits.track_op() {
        let tokens = targets.iter().flat_map(|row| row.iter().map(|(_, id)| (*id, 1.0 / row.len() as f64)));
        let gradient = |((id, share), logits): ((u32, f64), &Vec<f32>)| match objective {
            Objective::Sum => likelihood_gradient(logits, id, 1.0),
            Objective::Mean => likelihood_gradient(logits, id, share),
            Objective::Entropy => entropy_gradient(logits, share),
        };
        let seed: Vec<f32> = tokens.zip(&values).flat_map(gradient).collect();
        let seed = Tensor::from_vec(seed, logits.shape(), logits.device())?.to_dtype(logits.dtype())?;
        // A scalar whose gradient with respect to the logits is the seed; its value is not used.
        let nothing = Tensor::zeros((), logits.dtype(), logits.device())?;
        with_gradient(&logits, nothing, move |_, _| Ok(seed.clone()))?.backward()?;
    }
    Ok(likelihoods)
}

fn batch_nll<M: Mllm + ?Sized>(model: &M, examples: &[Numbered<'_>]) -> Result<Vec<Vec<f64>>> {
    let inputs = model.processor().responses(examples.iter().map(|(_, (p, r))| (p, r.as_str())), Padding::Right);
    let inputs = inputs.map_err(|e| e.renumbered(|row| examples.get(row).map_or(row, |(index, _)| *index)))?;
    let targets = targets(&inputs)?;
    let hidden = || model.prefill(&inputs, &mut model.new_cache());
    let Some(logits) = target_logits(model, &targets, hidden)? else { return Ok(targets.iter().map(|_| Vec::new()).collect()) };
    let ids: Vec<usize> = examples.iter().map(|(index, _)| *index).collect();
    let logits = logits.to_dtype(DType::F32)?;
    if logits.device().is_cpu() {
        return negative_log_likelihoods(&targets, &logits.to_vec2::<f32>()?, &ids);
    }
    let chosen: Vec<u32> = targets.iter().flatten().map(|(_, id)| *id).collect();
    let mut all = nll_of_rows(&logits, &chosen)?.to_vec1::<f32>()?.into_iter();
    let rows = targets.iter().zip(&ids).map(|(row, prompt)| {
        let one = |(token, nll): (usize, f32)| if nll.is_nan() { Err(Error::NotFinite { prompt: *prompt, token }) } else { Ok(nll.into()) };
        all.by_ref().take(row.len()).enumerate().map(one).collect()
    });
    rows.collect()
}

/// `log(sum(exp(logits))) - logits[target]` for each row of logits f32 `[rows, vocabulary]`, in f32 on their device; NaN for a row that does
/// not define probabilities.
fn nll_of_rows(logits: &Tensor, targets: &[u32]) -> candle_core::Result<Tensor> {
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    // Zero times infinity is NaN.
    let all = logits.log_sum_exp(D::Minus1)?;
    all.affine(0.0, 0.0)? + (all - logits.gather(&targets, D::Minus1)?.squeeze(1)?)?
}

/// For each row, its response tokens: the index of the preceding token in the flattened batch, and the token id.
pub(crate) type Targets = Vec<Vec<(usize, u32)>>;

pub(crate) fn targets(inputs: &ModelInputs) -> Result<Targets> {
    let (_, tokens) = inputs.dims()?;
    let ids = inputs.input_ids.to_vec2::<u32>()?;
    let rows = inputs.kinds.iter().zip(&ids).enumerate().map(|(row, (kinds, ids))| {
        let tokens_of_row = kinds.iter().zip(ids).enumerate().skip(1);
        tokens_of_row.filter(|(_, (kind, _))| **kind == TokenKind::Response).map(|(at, (_, id))| (row * tokens + at - 1, *id)).collect()
    });
    Ok(rows.collect())
}

/// The logits `[targets, vocabulary]` that predict all response tokens; `None` if there are none.
pub(crate) fn target_logits<M: Mllm + ?Sized>(
    model: &M,
    targets: &Targets,
    hidden: impl FnOnce() -> Result<Tensor>,
) -> Result<Option<Tensor>> {
    let positions = targets.iter().flatten().map(|(at, _)| u32::try_from(*at)).collect::<std::result::Result<Vec<u32>, _>>();
    let positions = positions.map_err(|_| Error::Inputs { reason: "more than 2^32 tokens in a batch".to_owned() })?;
    if positions.is_empty() {
        return Ok(None);
    }
    let hidden = hidden()?.flatten_to(1)?;
    let hidden = hidden.index_select(&Tensor::new(positions, hidden.device())?, 0)?;
    Ok(Some(model.logits(&hidden)?))
}

/// The negative log-likelihood of each target; `ids` name the rows in errors.
fn negative_log_likelihoods(targets: &Targets, logits: &[Vec<f32>], ids: &[usize]) -> Result<Vec<Vec<f64>>> {
    let mut logits = logits.iter();
    let rows = targets.iter().enumerate().map(|(row, targets)| {
        let prompt = ids.get(row).copied().unwrap_or(row);
        let one = |(token, (_, id)): (usize, &(usize, u32))| match logits.next() {
            Some(logits) if can_be_chosen_from(logits) => Ok(nll(logits, *id)),
            _ => Err(Error::NotFinite { prompt, token }),
        };
        targets.iter().enumerate().map(one).collect()
    });
    rows.collect()
}

/// `log(sum(exp(logits))) - logits[target]`.
fn nll(logits: &[f32], target: u32) -> f64 {
    let target = usize::try_from(target).ok().and_then(|t| logits.get(t)).copied().unwrap_or(f32::NEG_INFINITY);
    let (max, sum) = sum_of_exponentials(logits);
    sum.ln() + max - f64::from(target)
}

/// The gradient of `-weight * nll`: `weight * (1 - probability)` at the target, `-weight * probability` elsewhere.
#[allow(clippy::cast_possible_truncation, reason = "gradients are computed in the model's dtype")]
fn likelihood_gradient(logits: &[f32], target: u32, weight: f64) -> Vec<f32> {
    let (max, sum) = sum_of_exponentials(logits);
    let probabilities = logits.iter().map(|l| (f64::from(*l) - max).exp() / sum);
    let is_target = |at: usize| u32::try_from(at) == Ok(target);
    probabilities.enumerate().map(|(at, p)| (weight * (if is_target(at) { 1.0 } else { 0.0 } - p)) as f32).collect()
}

/// The gradient of `weight * entropy`: `-weight * p * (log p + entropy)`, with 0 for a probability `p` of 0.
#[allow(clippy::cast_possible_truncation, reason = "gradients are computed in the model's dtype")]
fn entropy_gradient(logits: &[f32], weight: f64) -> Vec<f32> {
    let (max, sum) = sum_of_exponentials(logits);
    let logs = || logits.iter().map(|l| f64::from(*l) - max - sum.ln());
    let entropy: f64 = logs().map(|log| if log == f64::NEG_INFINITY { 0.0 } else { -log * log.exp() }).sum();
    logs().map(|log| if log == f64::NEG_INFINITY { 0.0 } else { (-weight * log.exp() * (log + entropy)) as f32 }).collect()
}

/// The largest logit, and the sum of the exponentials of the logits minus it.
pub(crate) fn sum_of_exponentials(logits: &[f32]) -> (f64, f64) {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    (max, logits.iter().map(|l| (f64::from(*l) - max).exp()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_gradient_of_the_entropy_is_that_of_differences() {
        let entropy = |logits: &[f64]| {
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            logits.iter().map(|l| l.exp() / sum).map(|p| if p == 0.0 { 0.0 } else { -p * p.ln() }).sum::<f64>()
        };
        let logits = [0.5f32, -1.0, 2.0, f32::NEG_INFINITY];
        let gradient = entropy_gradient(&logits, 2.0);
        for at in 0..3 {
            let moved = |by: f64| {
                let mut moved = logits.map(f64::from);
                moved[at] += by;
                entropy(&moved)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((f64::from(gradient[at]) - 2.0 * difference).abs() < 1e-6, "{at}: {} {difference}", gradient[at]);
        }
        assert_eq!(gradient[3], 0.0);
    }

    #[test]
    fn rows_on_a_device_have_the_likelihoods_of_slices() {
        const INF: f32 = f32::INFINITY;
        let rows = [[0.5f32, -1.0, 7.0], [-INF, 3.0, 2.0], [100.0, -100.0, 0.0]];
        for target in 0..3u32 {
            let tensor = nll_of_rows(&Tensor::new(&rows, &Device::Cpu).unwrap(), &[target; 3]).unwrap().to_vec1::<f32>().unwrap();
            for (row, found) in rows.iter().zip(tensor) {
                let expected = nll(row, target);
                assert!(
                    f64::from(found) == expected || (f64::from(found) - expected).abs() <= 1e-5,
                    "{row:?}[{target}]: {found} {expected}"
                );
            }
        }
        let odd = [[f32::NAN, 0.0], [INF, 0.0], [-INF, -INF]];
        let found = nll_of_rows(&Tensor::new(&odd, &Device::Cpu).unwrap(), &[1; 3]).unwrap().to_vec1::<f32>().unwrap();
        assert!(found.iter().all(|nll| nll.is_nan()), "{found:?}");
    }
}
