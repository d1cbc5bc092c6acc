use candle_core::{D, DType, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as CandleSampling};
use rayon::prelude::*;

use crate::model::Mllm;
use crate::processor::Padding;
use crate::prompt::Prompt;
use crate::{Error, Result, TokenKind};

/// Answers prompts: a model, or a defence around one.
pub trait Generator: Send + Sync {
    /// Answers each prompt; the answers are in the prompts' order.
    ///
    /// # Errors
    ///
    /// What the model, its processor or a defence reports; then there is no answer at all.
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>>;
}

impl<G: Generator + ?Sized> Generator for std::sync::Arc<G> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>> {
        self.as_ref().generate(prompts, options)
    }
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// Always the most probable token.
    Greedy,
    /// Drawn from the model's distribution.
    Random {
        /// Divides the logits; above 0.
        temperature: f64,
        /// Draw only from the most probable tokens that together reach this probability, above 0 and at most 1. With
        /// `top_k`, the probabilities are still those among all tokens.
        top_p: Option<f64>,
        /// Draw only from this many most probable tokens.
        top_k: Option<usize>,
    },
}

/// What the end-of-sequence token does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EosPolicy {
    /// It ends the answer.
    #[default]
    Stop,
    /// It is a token like any other: every answer has `max_new_tokens` tokens.
    Ignore,
    /// It cannot be chosen: every answer has `max_new_tokens` tokens.
    Suppress,
}

/// Settings of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The length at which an answer is cut off, in tokens.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The seed of random sampling. Prompt `i` of a call draws from a stream of its own, made from the
    /// seed and `i`, or its number in `rows`, so its answer does not depend on the prompts beside it.
    pub seed: u64,
    /// Prompts run together. As many batches are in flight as rayon has threads.
    pub batch_size: usize,
    /// What the end-of-sequence token does.
    pub eos: EosPolicy,
    /// A text that ends the answer too: with the first token that ends in it, white space aside. The token is part of the answer.
    pub stop: Option<String>,
    /// The caller's number of each prompt, which decides its random stream and which taps see; none for 0, 1, 2 and so on.
    ///
    /// So a call for some of the prompts of another call answers them as that would.
    pub rows: Option<Vec<usize>>,
}

impl GenerateOptions {
    /// The number of the prompt at an index.
    pub fn row(&self, index: usize) -> usize {
        self.rows.as_ref().map_or(index, |rows| rows.get(index).copied().unwrap_or(index))
    }

    /// The same settings for a call for the prompts at some indices of this one, whose numbers they keep.
    pub fn for_prompts(&self, indices: &[usize]) -> Self {
        Self { rows: Some(indices.iter().map(|index| self.row(*index)).collect()), ..self.clone() }
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 256, sampling: Sampling::Greedy, seed: 0, batch_size: 32, eos: EosPolicy::Stop, stop: None, rows: None }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended it.
    EndOfSequence,
    /// It reached `max_new_tokens`.
    Length,
    /// It came to the text of [`GenerateOptions::stop`].
    StopText,
}

impl FinishReason {
    /// `stop`, `length` or `stop_text`, as result files call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfSequence => "stop",
            Self::Length => "length",
            Self::StopText => "stop_text",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The text without special tokens and without surrounding white space, from the
    /// [beginning](Prompt::with_answer_start) on that the prompt gave.
    pub text: String,
    /// The tokens generated, without the end-of-sequence token that ended them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl<M: Mllm + ?Sized> Generator for M {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>> {
        check(options)?;
        if let Some(rows) = options.rows.as_ref().filter(|rows| rows.len() != prompts.len()) {
            let reason = format!("{} row numbers for {} prompts; give one for each, or none", rows.len(), prompts.len());
            return Err(Error::Inputs { reason });
        }
        // Prompts of like size share a batch, so that little of it is padding.
        let mut order: Vec<(usize, &Prompt)> = prompts.iter().enumerate().collect();
        order.sort_by_cached_key(|(_, prompt)| prompt.size());
        let answer = |batch: &[(usize, &Prompt)]| -> Result<Vec<(usize, Generation)>> {
            let mut inputs = self.processor().prompts(batch.iter().map(|(_, p)| *p), Padding::Left)?;
            inputs.rows = batch.iter().map(|(index, _)| options.row(*index)).collect();
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

/// The tokens of each answer that its prompt gave.
fn answer_starts(inputs: &crate::ModelInputs) -> Result<Vec<Vec<u32>>> {
    if !inputs.kinds.iter().flatten().any(|kind| *kind == TokenKind::Response) {
        return Ok(vec![Vec::new(); inputs.kinds.len()]);
    }
    let given = |(ids, kinds): (Vec<u32>, &Vec<TokenKind>)| {
        ids.into_iter().zip(kinds).filter(|(_, kind)| **kind == TokenKind::Response).map(|(id, _)| id).collect()
    };
    Ok(inputs.input_ids.to_vec2::<u32>()?.into_iter().zip(&inputs.kinds).map(given).collect())
}

fn check(options: &GenerateOptions) -> Result<()> {
    let refuse = |reason: &str| Err(Error::Inputs { reason: reason.to_owned() });
    if options.batch_size == 0 {
        return refuse("batch_size must not be 0");
    }
    if options.stop.as_deref() == Some("") {
        return refuse("stop must not be an empty text");
    }
    match options.sampling {
        Sampling::Random { temperature, .. } if !(temperature.is_finite() && temperature > 0.0) => {
            refuse("temperature must be a number above 0; use greedy sampling for the most probable answer")
        }
        Sampling::Random { top_p: Some(p), .. } if !(p > 0.0 && p <= 1.0) => refuse("top_p must be above 0 and at most 1"),
        Sampling::Random { top_k: Some(0), .. } => refuse("top_k must not be 0"),
        _ => Ok(()),
    }
}

/// Generates from inputs that are already tokens; the random stream of a row follows its number in `rows`.
///
/// # Errors
///
/// What the model reports, and [`Error::Inputs`] for settings out of range.
pub fn generate_tokens<M: Mllm + ?Sized>(
    model: &M,
    inputs: &crate::ModelInputs,
    options: &GenerateOptions,
) -> Result<Vec<(Vec<u32>, FinishReason)>> {
    check(options)?;
    let (batch, tokens) = inputs.dims()?;
    let mut answers = vec![(Vec::new(), FinishReason::Length); batch];
    if options.max_new_tokens == 0 {
        return Ok(answers);
    }
    let mut cache = model.new_cache();
    let hidden = model.prefill(inputs, &mut cache)?;
    let last = |row: &[TokenKind]| row.iter().rposition(|k| *k != TokenKind::Padding).unwrap_or(0);
    let mut hidden = if inputs.kinds.iter().all(|row| last(row) + 1 == tokens) {
        hidden.narrow(1, tokens - 1, 1)?.contiguous()?
    } else {
        let rows = inputs.kinds.iter().enumerate().map(|(i, row)| hidden.narrow(0, i, 1)?.narrow(1, last(row), 1));
        Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?
    };
    let mut rows: Vec<Row> = inputs
        .rows
        .iter()
        .enumerate()
        .map(|(answer, number)| Row { answer, sampler: Sampler::new(options, *number), done: false })
        .collect();
    loop {
        let mut logits = model.logits(&hidden)?.squeeze(1)?.to_dtype(DType::F32)?;
        if options.eos == EosPolicy::Suppress {
            logits = logits.broadcast_add(&without(&model.info().eos, logits.dim(1)?, logits.device())?)?;
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
        // Finished rows are carried along until it pays to copy the cache without them.
        if keep.len() * 4 <= rows.len() * 3 {
            cache.retain(&keep)?;
            next = keep.iter().filter_map(|at| next.get(*at).copied()).collect();
            rows.retain(|row| !row.done);
        }
        rows.iter().enumerate().filter(|(_, row)| row.done).for_each(|(at, _)| cache.end(at));
        hidden = model.decode(&next, &mut cache)?;
    }
}

/// What is added to logits so that some tokens cannot be chosen.
fn without(tokens: &[u32], vocabulary: usize, device: &candle_core::Device) -> Result<Tensor> {
    let banned = |id: usize| u32::try_from(id).is_ok_and(|id| tokens.contains(&id));
    let bias: Vec<f32> = (0..vocabulary).map(|id| if banned(id) { f32::NEG_INFINITY } else { 0.0 }).collect();
    Ok(Tensor::new(bias, device)?)
}

/// One row of the shrinking batch.
struct Row {
    /// Its index among the answers.
    answer: usize,
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
        // Any injective mix of seed and row will do: the generator spreads its seed.
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
