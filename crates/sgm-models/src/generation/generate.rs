//! Generation of answers, token by token, from a shrinking batch.

use candle_core::{D, DType, Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as CandleSampling};
use rayon::prelude::*;
use sgm_core::TokenKind;

use crate::error::{Error, Result};
use crate::generation::options::{EosPolicy, GenerateOptions, Sampling};
use crate::layers::values::with_values;
use crate::model::mllm::Mllm;
use crate::processor::model_inputs::{ModelInputs, Padding};
use crate::processor::prompt::Prompt;

/// A source of answers to prompts: a model, or a defence around one.
pub trait Generator: Send + Sync {
    /// Answers each prompt; the answers are in the order of the prompts.
    ///
    /// # Errors
    ///
    /// The error of the model, its processor or a defence, and [`Error::NotFinite`] when logits are NaN or infinite; then
    /// no answers are returned.
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>>;
}

impl<G: Generator + ?Sized> Generator for std::sync::Arc<G> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>> {
        self.as_ref().generate(prompts, options)
    }
}

/// The reason for the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model generated an end-of-sequence token.
    EndOfSequence,
    /// The answer reached `max_new_tokens`.
    Length,
    /// The answer reached the text of [`GenerateOptions::stop`].
    StopText,
}

impl FinishReason {
    /// The name in result files: `stop`, `length` or `stop_text`.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfSequence => "stop",
            Self::Length => "length",
            Self::StopText => "stop_text",
        }
    }
}

/// A generated answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The text without special tokens and without surrounding white space, including the
    /// [start](Prompt::with_answer_start) that the prompt gave.
    pub text: String,
    /// The generated tokens, without the end-of-sequence token.
    pub tokens: Vec<u32>,
    /// The reason for its end.
    pub finish: FinishReason,
}

impl<M: Mllm + ?Sized> Generator for M {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>> {
        options.validate()?;
        if let Some(ids) = options.ids.as_ref().filter(|ids| ids.len() != prompts.len()) {
            let reason = format!("{} ids for {} prompts; give one for each, or none", ids.len(), prompts.len());
            return Err(Error::Inputs { reason });
        }
        // Prompts of similar size share a batch, so that the batch has little padding.
        let mut order: Vec<(usize, &Prompt)> = prompts.iter().enumerate().collect();
        order.sort_by_cached_key(|(_, prompt)| prompt.size());
        let answer = |batch: &[(usize, &Prompt)]| -> Result<Vec<(usize, Generation)>> {
            let ids: Vec<usize> = batch.iter().map(|(index, _)| options.id(*index)).collect();
            let inputs = self.processor().prompts(batch.iter().map(|(_, p)| *p), Padding::Left);
            let inputs = inputs.map_err(|e| e.renumbered(|row| ids.get(row).copied().unwrap_or(row)))?;
            let inputs = ModelInputs { ids, ..inputs };
            let starts = answer_starts(&inputs)?;
            let mut generations = Vec::with_capacity(batch.len());
            for (((tokens, finish), start), (index, _)) in generate_tokens(self, &inputs, options)?.into_iter().zip(starts).zip(batch) {
                let text = self.processor().decode(&[start, tokens.clone()].concat())?.trim().to_owned();
                generations.push((*index, Generation { text, tokens, finish }));
            }
            Ok(generations)
        };
        let batches: Vec<_> = order.par_chunks(options.batch_size).map(answer).collect::<Result<_>>()?;
        let mut generations: Vec<(usize, Generation)> = batches.into_iter().flatten().collect();
        generations.sort_by_key(|(index, _)| *index);
        Ok(generations.into_iter().map(|(_, g)| g).collect())
    }
}

/// The tokens of each answer that the prompt gave.
fn answer_starts(inputs: &ModelInputs) -> Result<Vec<Vec<u32>>> {
    if !inputs.kinds.iter().flatten().any(|kind| *kind == TokenKind::Response) {
        return Ok(vec![Vec::new(); inputs.kinds.len()]);
    }
    let given = |(ids, kinds): (Vec<u32>, &Vec<TokenKind>)| {
        ids.into_iter().zip(kinds).filter(|(_, kind)| **kind == TokenKind::Response).map(|(id, _)| id).collect()
    };
    Ok(inputs.input_ids.to_vec2::<u32>()?.into_iter().zip(&inputs.kinds).map(given).collect())
}

/// The tokens of an answer that the cache has room for from the start; longer answers are rare.
const MOST_ROOM: usize = 1024;

/// Generates from inputs that are already tokens. The random stream of a sequence depends on its id in `ids`.
///
/// # Errors
///
/// The errors of the model, [`Error::Inputs`] for settings out of range, and [`Error::NotFinite`] when logits are NaN or
/// infinite.
pub fn generate_tokens<M: Mllm + ?Sized>(
    model: &M,
    inputs: &ModelInputs,
    options: &GenerateOptions,
) -> Result<Vec<(Vec<u32>, FinishReason)>> {
    options.validate()?;
    let (batch, tokens) = inputs.dims()?;
    let mut answers = vec![(Vec::new(), FinishReason::Length); batch];
    if options.max_new_tokens == 0 {
        return Ok(answers);
    }
    let mut cache = model.new_cache().with_room_for(options.max_new_tokens.min(MOST_ROOM));
    let hidden = model.prefill(inputs, &mut cache)?;
    let last = |row: &[TokenKind]| row.iter().rposition(|k| *k != TokenKind::Padding).unwrap_or(0);
    let mut hidden = if inputs.kinds.iter().all(|row| last(row) + 1 == tokens) {
        hidden.narrow(1, tokens - 1, 1)?.contiguous()?
    } else {
        let rows = inputs.kinds.iter().enumerate().map(|(i, row)| hidden.narrow(0, i, 1)?.narrow(1, last(row), 1));
        Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?
    };
    let mut rows: Vec<Row> = inputs
        .ids
        .iter()
        .enumerate()
        .map(|(answer, number)| Row { answer, prompt: *number, sampler: Sampler::new(options, *number), done: false })
        .collect();
    let sampled = rows.iter().any(|row| matches!(row.sampler, Sampler::Random(_)));
    let mut ban = None;
    loop {
        let mut logits = model.logits(&hidden)?.squeeze(1)?.to_dtype(DType::F32)?;
        if sampled {
            // Tokens are drawn on the host.
            logits = logits.to_device(&Device::Cpu)?;
        }
        let unfit = first_unfit(&logits, |at| rows.get(at).is_some_and(|row| !row.done))?;
        if let Some(row) = unfit.and_then(|at| rows.get(at)) {
            let token = answers.get(row.answer).map_or(0, |(tokens, _)| tokens.len());
            return Err(Error::NotFinite { prompt: row.prompt, token });
        }
        if options.eos == EosPolicy::Suppress {
            let ban = match &mut ban {
                Some(ban) => ban,
                none => none.insert(token_ban(&model.info().eos, logits.dim(1)?, logits.device())?),
            };
            logits = logits.broadcast_add(ban)?;
        }
        let mut next = Vec::with_capacity(rows.len());
        let greedy = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        for (at, (row, greedy)) in rows.iter_mut().zip(greedy).enumerate() {
            next.push(greedy);
            let Some((tokens, finish)) = answers.get_mut(row.answer).filter(|_| !row.done) else { continue };
            let token = row.sampler.choose(&logits, at, greedy)?;
            if options.eos == EosPolicy::Stop && model.info().eos.contains(&token) {
                *finish = FinishReason::EndOfSequence;
                row.done = true;
                continue;
            }
            tokens.push(token);
            if let Some(stop) = &options.stop
                && model.processor().decode(&[token])?.trim_end().ends_with(stop.as_str())
            {
                *finish = FinishReason::StopText;
                row.done = true;
            }
            row.done |= tokens.len() >= options.max_new_tokens;
            if let Some(next) = next.last_mut() {
                *next = token;
            }
        }
        let keep: Vec<usize> = rows.iter().enumerate().filter(|(_, row)| !row.done).map(|(at, _)| at).collect();
        if keep.is_empty() {
            return Ok(answers);
        }
        // Finished rows stay in the batch until copying the cache without them pays off.
        if keep.len() * 4 <= rows.len() * 3 {
            cache.retain(&keep)?;
            next = keep.iter().filter_map(|at| next.get(*at).copied()).collect();
            rows.retain(|row| !row.done);
        }
        rows.iter().enumerate().filter(|(_, row)| row.done).for_each(|(at, _)| cache.end(at));
        hidden = model.decode(&next, &mut cache)?;
    }
}

/// The first of some rows of logits f32 `[rows, vocabulary]` that does not define probabilities.
fn first_unfit(logits: &Tensor, asked: impl Fn(usize) -> bool) -> Result<Option<usize>> {
    let mut rows = (0..logits.dim(0)?).filter(|at| asked(*at));
    if logits.device().is_cpu() {
        for at in rows {
            if !with_values(&logits.get(at)?, can_be_chosen_from)? {
                return Ok(Some(at));
            }
        }
        return Ok(None);
    }
    let fit = rows_to_choose_from(logits)?.to_vec1::<u8>()?;
    Ok(rows.find(|at| fit.get(*at) != Some(&1)))
}

/// [`can_be_chosen_from`] for each row of logits f32 `[rows, vocabulary]`, on their device: 1 or 0, u8 `[rows]`.
fn rows_to_choose_from(logits: &Tensor) -> candle_core::Result<Tensor> {
    let all_below_infinity = logits.lt(f32::INFINITY)?.min(D::Minus1)?;
    let any_finite = logits.abs()?.lt(f32::INFINITY)?.max(D::Minus1)?;
    all_below_infinity.minimum(&any_finite)
}

/// Whether logits define probabilities. A logit may be minus infinity, which excludes its token, but not all of them.
pub(crate) fn can_be_chosen_from(logits: &[f32]) -> bool {
    logits.iter().all(|logit| *logit < f32::INFINITY) && logits.iter().any(|logit| logit.is_finite())
}

/// An additive mask on logits that excludes some tokens.
fn token_ban(tokens: &[u32], vocabulary: usize, device: &candle_core::Device) -> Result<Tensor> {
    let banned = |id: usize| u32::try_from(id).is_ok_and(|id| tokens.contains(&id));
    let bias: Vec<f32> = (0..vocabulary).map(|id| if banned(id) { f32::NEG_INFINITY } else { 0.0 }).collect();
    Ok(Tensor::new(bias, device)?)
}

/// A row of the batch.
struct Row {
    /// Its index among the answers.
    answer: usize,
    /// The id of its prompt.
    prompt: usize,
    sampler: Sampler,
    done: bool,
}

/// The sampler of one row.
enum Sampler {
    Greedy,
    Random(Box<LogitsProcessor>),
}

impl Sampler {
    fn new(options: &GenerateOptions, row: usize) -> Self {
        let Sampling::Random { temperature, top_p, top_k } = options.sampling else { return Self::Greedy };
        let sampling = match (top_k, top_p) {
            (None, None) => CandleSampling::All { temperature },
            (None, Some(p)) => CandleSampling::TopP { p, temperature },
            (Some(k), None) => CandleSampling::TopK { k, temperature },
            (Some(k), Some(p)) => CandleSampling::TopKThenTopP { k, p, temperature },
        };
        // Any injective mix of seed and row is sufficient, because the generator spreads its seed.
        let row = u64::try_from(row).unwrap_or(u64::MAX);
        let seed = options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(row);
        Self::Random(Box::new(LogitsProcessor::from_sampling(seed, sampling)))
    }

    fn choose(&mut self, logits: &Tensor, row: usize, greedy: u32) -> Result<u32> {
        match self {
            Self::Greedy => Ok(greedy),
            Self::Random(sampler) => Ok(sampler.sample(&logits.get(row)?)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_on_a_device_are_judged_as_slices_are() {
        const INF: f32 = f32::INFINITY;
        let rows = [[0.0, -1.0], [-INF, 3.0], [-INF, -INF], [f32::NAN, 0.0], [INF, 0.0], [-INF, f32::NAN], [INF, -INF]];
        let expected: Vec<u8> = rows.iter().map(|row| can_be_chosen_from(row).into()).collect();
        assert_eq!(expected, [1, 1, 0, 0, 0, 0, 0]);
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        assert_eq!(rows_to_choose_from(&logits).unwrap().to_vec1::<u8>().unwrap(), expected);
        assert_eq!(first_unfit(&logits, |_| true).unwrap(), Some(2));
        assert_eq!(first_unfit(&logits, |at| at > 4).unwrap(), Some(5));
        assert_eq!(first_unfit(&logits, |at| at < 2).unwrap(), None);
    }
}
