use candle_core::{DType, Tensor};

use rayon::prelude::*;

use crate::model::Mllm;
use crate::processor::Padding;
use crate::prompt::Prompt;
use crate::{Error, Result, TokenKind};

/// The negative log-likelihood, in nats, of each token of given responses, end of sequence included.
///
/// One list per example, in order. Logits are normalised in f64.
///
/// # Errors
///
/// [`Error::Inputs`] when `batch_size` is 0, and what processor and model report.
pub fn response_nll<M: Mllm + ?Sized>(model: &M, examples: &[(Prompt, String)], batch_size: usize) -> Result<Vec<Vec<f64>>> {
    if batch_size == 0 {
        return Err(Error::Inputs { reason: "batch_size must not be 0".to_owned() });
    }
    let mut order: Vec<(usize, &(Prompt, String))> = examples.iter().enumerate().collect();
    order.sort_by_cached_key(|(_, (prompt, response))| (prompt.size().0, prompt.size().1 + response.len()));
    let batches: Vec<Vec<Vec<f64>>> = order.par_chunks(batch_size).map(|batch| batch_nll(model, batch)).collect::<Result<_>>()?;
    let mut nll: Vec<(usize, Vec<f64>)> = order.iter().map(|(index, _)| *index).zip(batches.into_iter().flatten()).collect();
    nll.sort_by_key(|(index, _)| *index);
    Ok(nll.into_iter().map(|(_, nll)| nll).collect())
}

fn batch_nll<M: Mllm + ?Sized>(model: &M, examples: &[(usize, &(Prompt, String))]) -> Result<Vec<Vec<f64>>> {
    let inputs = model.processor().responses(examples.iter().map(|(_, (p, r))| (p, r.as_str())), Padding::Right)?;
    let (_, tokens) = inputs.dims()?;
    let ids = inputs.input_ids.to_vec2::<u32>()?;
    // Each response token is predicted at the position before it.
    let targets: Vec<Vec<(usize, u32)>> = inputs
        .kinds
        .iter()
        .zip(&ids)
        .enumerate()
        .map(|(row, (kinds, ids))| {
            let tokens_of_row = kinds.iter().zip(ids).enumerate().skip(1);
            tokens_of_row.filter(|(_, (kind, _))| **kind == TokenKind::Response).map(|(at, (_, id))| (row * tokens + at - 1, *id)).collect()
        })
        .collect();
    let positions = targets.iter().flatten().map(|(at, _)| u32::try_from(*at)).collect::<std::result::Result<Vec<u32>, _>>();
    let positions = positions.map_err(|_| Error::Inputs { reason: "more than 2^32 tokens in a batch".to_owned() })?;
    if positions.is_empty() {
        return Ok(targets.iter().map(|_| Vec::new()).collect());
    }
    let hidden = model.prefill(&inputs, &mut model.new_cache())?.flatten_to(1)?;
    let hidden = hidden.index_select(&Tensor::new(positions, hidden.device())?, 0)?;
    let logits = model.logits(&hidden)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let mut logits = logits.iter();
    Ok(targets.iter().map(|row| row.iter().map(|(_, id)| logits.next().map_or(f64::NAN, |l| nll(l, *id))).collect()).collect())
}

/// `log(sum(exp(logits))) - logits[target]`.
fn nll(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - f64::from(max)).exp()).sum();
    let target = usize::try_from(target).ok().and_then(|t| logits.get(t)).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() + f64::from(max) - f64::from(target)
}
