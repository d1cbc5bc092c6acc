//! The search of ETA, which builds an answer sentence by sentence, each the best of some candidates.

use std::collections::BTreeMap;

use sgm_models::{EosPolicy, FinishReason, GenerateOptions, Generation, Prompt, Sampling};

use crate::question::unanswered;
use crate::seed::derived;
use crate::{Candidate, EtaOptions, EtaTrace, PassName, Passes, Result, Sentence};

/// The end of a sentence.
const FULL_STOP: &str = ".";

/// The search for one answer.
pub(crate) struct Search<'a> {
    /// The prompt's index in the caller's call.
    index: usize,
    /// The prompt with the answer so far.
    prompt: Prompt,
    trace: &'a mut EtaTrace,
}

impl<'a> Search<'a> {
    /// A search that has only the beginning of the answer.
    pub(crate) fn new(index: usize, prompt: Prompt, start: &str, trace: &'a mut EtaTrace) -> Self {
        trace.answer = Generation { text: start.to_owned(), tokens: Vec::new(), finish: FinishReason::Length };
        Self { index, prompt, trace }
    }

    pub(crate) fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The prompt without the answer so far.
    pub(crate) fn asked(&self) -> Prompt {
        unanswered(&self.prompt)
    }

    /// Whether the answer has ended or reached its length.
    pub(crate) fn is_over(&self, max_new_tokens: usize) -> bool {
        let Generation { tokens, finish, .. } = &self.trace.answer;
        let stuck = self.trace.sentences.last().is_some_and(|s| s.candidates.get(s.chosen).is_some_and(|c| c.answer.tokens.is_empty()));
        *finish == FinishReason::EndOfSequence || tokens.len() >= max_new_tokens || stuck
    }

    /// Whether any candidate ends the answer.
    pub(crate) fn any_ends(candidates: &[Generation]) -> bool {
        candidates.iter().any(|candidate| candidate.finish == FinishReason::EndOfSequence)
    }

    /// The part of a candidate that is new to the answer so far.
    pub(crate) fn new_part<'t>(&self, text: &'t str) -> &'t str {
        text.strip_prefix(self.trace.answer.text.as_str()).unwrap_or(text).trim()
    }

    /// Draws one candidate for each search.
    pub(crate) fn draw(
        searches: &[Self],
        passes: &Passes<'_>,
        eta: &EtaOptions,
        (sentence, candidate): (usize, usize),
        caller: &GenerateOptions,
    ) -> Result<Vec<Generation>> {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let mut options = GenerateOptions {
            sampling: Sampling::Random { temperature: eta.beta, top_p: None, top_k: eta.top_k },
            seed: derived(derived(caller.seed, number(sentence)), number(candidate)),
            eos: EosPolicy::Stop,
            stop: Some(FULL_STOP.to_owned()),
            ..caller.clone()
        };
        // Answers that are nearly complete have fewer tokens left than a sentence may have.
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, search) in searches.iter().enumerate() {
            let left = caller.max_new_tokens.saturating_sub(search.trace.answer.tokens.len());
            by_length.entry(left.min(eta.sentence_tokens)).or_default().push(at);
        }
        let mut drawn = Vec::with_capacity(searches.len());
        for (max_new_tokens, places) in by_length {
            options.max_new_tokens = max_new_tokens;
            let (prompts, indices): (Vec<Prompt>, Vec<usize>) =
                places.iter().filter_map(|at| searches.get(*at)).map(|s| (s.prompt.clone(), s.index)).unzip();
            let passes = passes.run(PassName::Final, prompts, &indices, &options)?;
            drawn.extend(places.into_iter().zip(passes.into_iter().map(|pass| pass.output)));
        }
        drawn.sort_by_key(|(at, _)| *at);
        Ok(drawn.into_iter().map(|(_, generation)| generation).collect())
    }

    /// Keeps the first of the candidates with the highest score: the reward, plus `weight` times the similarity where there is one.
    pub(crate) fn choose(&mut self, candidates: Vec<Candidate>, weight: f64) {
        let score = |candidate: &Candidate| candidate.reward + candidate.similarity.map_or(0.0, |similarity| weight * similarity);
        let better = |best: (usize, f64), other: (usize, f64)| if other.1 > best.1 { other } else { best };
        let scored = candidates.iter().enumerate().map(|(at, candidate)| (at, score(candidate)));
        let Some((chosen, _)) = scored.reduce(better) else { return };
        if let Some(Candidate { answer, .. }) = candidates.get(chosen) {
            self.prompt = unanswered(&self.prompt).with_answer_start(&answer.text);
            self.trace.answer.text.clone_from(&answer.text);
            self.trace.answer.tokens.extend_from_slice(&answer.tokens);
            // A full stop does not end the answer.
            self.trace.answer.finish = match answer.finish {
                FinishReason::EndOfSequence => FinishReason::EndOfSequence,
                FinishReason::Length | FinishReason::StopText => FinishReason::Length,
            };
        }
        self.trace.sentences.push(Sentence { candidates, chosen });
    }
}
