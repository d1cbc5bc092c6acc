//! The response filter: a check of every answer.

use std::sync::Arc;

use sgm_models::{FinishReason, GenerateOptions, Generation, Generator, Prompt, Sampling};

use crate::seed::derived;
use crate::{BoxError, Error, PassName, Passes, Result};

/// A check of an answer: true if it is harmful and must not be given.
pub type Check<'m> = Arc<dyn Fn(&str) -> std::result::Result<bool, BoxError> + Send + Sync + 'm>;

/// Settings of [`ResponseFilter`].
#[derive(Debug, Clone, PartialEq)]
pub struct FilterOptions {
    /// The number of times that a flagged answer is generated again before it is refused.
    pub attempts: usize,
    /// The sampling of further attempts; `None` for that of the first. Greedy generation would repeat the answer, so it has no attempts.
    pub sampling: Option<Sampling>,
    /// The answer in place of a flagged one.
    pub refusal: String,
}

impl Default for FilterOptions {
    /// No attempts: a flagged answer is refused. Further attempts would be sampled at temperature 1.
    fn default() -> Self {
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        Self { attempts: 0, sampling: Some(sampling), refusal: "I'm sorry, but I cannot help with that.".to_owned() }
    }
}

/// Checks every answer; a flagged one is generated again, or refused.
#[derive(Clone)]
pub struct ResponseFilter<'m> {
    passes: Passes<'m>,
    check: Check<'m>,
    options: FilterOptions,
}

/// The steps from a prompt to the answer of a filter.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterTrace {
    /// The answer; a refusal has no tokens.
    pub answer: Generation,
    /// The flagged answers, in the order in which they were generated.
    pub flagged: Vec<Generation>,
    /// The decision.
    pub branch: FilterBranch,
}

/// The decision of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterBranch {
    /// The first answer passed.
    Passed,
    /// A later answer passed.
    Regenerated,
    /// No answer passed.
    Refused,
}

impl<'m> ResponseFilter<'m> {
    /// A check around a generator.
    pub fn new(inside: Arc<dyn Generator + 'm>, check: Check<'m>, options: FilterOptions) -> Self {
        Self { passes: Passes::same(inside), check, options }
    }

    /// Answers each prompt, with the steps that led to the answer.
    ///
    /// # Errors
    ///
    /// The errors of the generator; [`Error::Scorer`] when the check fails.
    pub fn answer(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<FilterTrace>> {
        let flags = |answer: &Generation| (self.check)(&answer.text).map_err(|source| Error::Scorer { scorer: "the check", source });
        let everything: Vec<usize> = (0..prompts.len()).collect();
        let first = self.passes.run(PassName::Direct, prompts.to_vec(), &everything, options)?;
        let trace = |pass: crate::Pass| FilterTrace { answer: pass.output, flagged: Vec::new(), branch: FilterBranch::Passed };
        let mut traces: Vec<FilterTrace> = first.into_iter().map(trace).collect();
        let sampling = self.options.sampling.unwrap_or(options.sampling);
        let attempts = if sampling == Sampling::Greedy { 0 } else { self.options.attempts };
        let mut pending: Vec<(usize, &mut FilterTrace)> = traces.iter_mut().enumerate().collect();
        for attempt in 0..=attempts {
            let mut flagged = Vec::new();
            for (index, trace) in pending {
                if flags(&trace.answer)? {
                    trace.flagged.push(trace.answer.clone());
                    flagged.push((index, trace));
                }
            }
            pending = flagged;
            if attempt == attempts {
                break;
            }
            let indices: Vec<usize> = pending.iter().map(|(index, _)| *index).collect();
            let again: Vec<Prompt> = indices.iter().filter_map(|index| prompts.get(*index)).cloned().collect();
            let seed = derived(options.seed, u64::try_from(attempt).unwrap_or(u64::MAX).wrapping_add(1));
            let passes = self.passes.run(PassName::Final, again, &indices, &GenerateOptions { sampling, seed, ..options.clone() })?;
            for ((_, trace), pass) in pending.iter_mut().zip(passes) {
                trace.answer = pass.output;
                trace.branch = FilterBranch::Regenerated;
            }
        }
        for (_, trace) in pending {
            let refusal = Generation { text: self.options.refusal.clone(), tokens: Vec::new(), finish: FinishReason::EndOfSequence };
            (trace.answer, trace.branch) = (refusal, FilterBranch::Refused);
        }
        Ok(traces)
    }
}

impl std::fmt::Debug for ResponseFilter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFilter").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Generator for ResponseFilter<'_> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm_models::Result<Vec<Generation>> {
        let traces = self.answer(prompts, options).map_err(|error| error.of("filter"))?;
        Ok(traces.into_iter().map(|trace| trace.answer).collect())
    }
}
