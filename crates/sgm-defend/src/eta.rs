//! ETA: a reward model judges the answer, and unsafe answers are written anew sentence by sentence.

use std::sync::Arc;

use sgm_models::{GenerateOptions, Generation, Generator, Prompt};

use crate::best_of_n::Search;
use crate::question::{questions, shows_image, unanswered};
use crate::scorer::scores;
use crate::{Candidate, EtaBranch, EtaOptions, EtaTrace, ImageTextSimilarity, PassName, Passes, Result, RewardModel};

/// ETA, "Evaluating Then Aligning" (Ding et al., arXiv 2410.06625; repository DripNowhy/ETA): where a reward model finds the answer unsafe
/// and the image is unsafe too, the answer is written anew sentence by sentence, each the best of some candidates.
///
/// 1. *direct*: the question with its image, as the caller's options have it; its answer is safe if its reward is above a threshold;
/// 2. otherwise the prompt is safe if the unsafety of its image is below a threshold, and the direct answer is given all the same;
/// 3. *final*, if both are unsafe: from the prefix on, `candidates` continuations up to the next full stop are drawn, and the one with the
///    highest `reward + alpha / i * similarity` is kept, i being the number of the sentence; until one ends the answer, or it has the
///    caller's `max_new_tokens`. The reward is that of the whole answer so far, the similarity that of the new sentence with the image.
///
/// As in the published code, the reward alone chooses the first sentence, and every sentence where a candidate ends the answer. Unlike in
/// the published code, sentences continue the text so far, not its tokens, and the last one does not exceed `max_new_tokens`. The paper
/// considers prompts with an image only; a prompt without one is judged by the reward alone.
#[derive(Clone)]
pub struct Eta<'m> {
    passes: Passes<'m>,
    rewards: Arc<dyn RewardModel + 'm>,
    similarity: Arc<dyn ImageTextSimilarity + 'm>,
    options: EtaOptions,
}

impl<'m> Eta<'m> {
    /// ETA with the given generators (those of the direct and the final pass), scorers and settings.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`](crate::Error::Setting) when the number of candidates or of tokens in a sentence is 0.
    pub fn new(
        passes: Passes<'m>,
        rewards: Arc<dyn RewardModel + 'm>,
        similarity: Arc<dyn ImageTextSimilarity + 'm>,
        options: EtaOptions,
    ) -> Result<Self> {
        options.check()?;
        Ok(Self { passes, rewards, similarity, options })
    }

    /// Answers each prompt, with the steps that led to the answer.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuestion`](crate::Error::NoQuestion) for raw text, before anything is generated; the errors of the passes;
    /// [`Error::Scorer`](crate::Error::Scorer) and [`Error::Score`](crate::Error::Score) for the scorers.
    pub fn answer(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<EtaTrace>> {
        questions(prompts)?;
        let everything: Vec<usize> = (0..prompts.len()).collect();
        let direct = self.passes.run(PassName::Direct, prompts.to_vec(), &everything, options)?;
        let mut traces = prompts.iter().zip(direct).map(|(prompt, pass)| self.evaluate(prompt, pass.output)).collect::<Result<Vec<_>>>()?;
        let aligned = traces.iter_mut().zip(prompts).enumerate().filter(|(_, (trace, _))| trace.branch == EtaBranch::Aligned);
        let mut searches: Vec<Search<'_>> = aligned
            .map(|(index, (trace, prompt))| {
                let mut prompt = unanswered(prompt);
                prompt = prompt.with_answer_start(&self.options.prefix);
                Search::new(index, prompt, self.options.prefix.trim(), trace)
            })
            .collect();
        for sentence in 1.. {
            searches.retain(|search| !search.is_over(options.max_new_tokens));
            if searches.is_empty() {
                break;
            }
            self.next_sentence(sentence, &mut searches, options)?;
        }
        Ok(traces)
    }

    /// Whether answer and image are safe.
    fn evaluate(&self, prompt: &Prompt, direct: Generation) -> Result<EtaTrace> {
        let reward = self.rewards(&self.options.check_instruction, &[&direct.text])?.first().copied().unwrap_or(f64::NAN);
        let mut trace =
            EtaTrace { answer: direct.clone(), direct, reward, unsafety: None, sentences: Vec::new(), branch: EtaBranch::SafeAnswer };
        if reward > self.options.safe_reward {
            return Ok(trace);
        }
        if shows_image(prompt) {
            let unsafety = self.similarity.unsafety(prompt, &self.options.says_unsafe);
            trace.unsafety = scores("the image's unsafety", 1, unsafety.map(|score| vec![score]))?.first().copied();
        }
        let safe = trace.unsafety.is_some_and(|unsafety| unsafety < self.options.safe_image);
        trace.branch = if safe { EtaBranch::SafeImage } else { EtaBranch::Aligned };
        Ok(trace)
    }

    fn rewards(&self, instruction: &str, answers: &[&str]) -> Result<Vec<f64>> {
        scores("the reward model", answers.len(), self.rewards.rewards(instruction, answers))
    }

    /// Adds the best candidate for the next sentence to each answer.
    fn next_sentence(&self, number: usize, searches: &mut [Search<'_>], options: &GenerateOptions) -> Result<()> {
        let mut candidates: Vec<Vec<Generation>> = vec![Vec::new(); searches.len()];
        for candidate in 0..self.options.candidates {
            let drawn = Search::draw(searches, &self.passes, &self.options, (number, candidate), options)?;
            candidates.iter_mut().zip(drawn).for_each(|(all, one)| all.push(one));
        }
        for (search, candidates) in searches.iter_mut().zip(candidates) {
            let texts: Vec<&str> = candidates.iter().map(|candidate| candidate.text.as_str()).collect();
            let rewards = self.rewards(&self.options.candidate_instruction, &texts)?;
            let counts = number > 1 && shows_image(search.prompt()) && !Search::any_ends(&candidates);
            let similarities = if counts {
                let sentences: Vec<&str> = texts.iter().map(|text| search.new_part(text)).collect();
                let similarities = self.similarity.similarities(&search.asked(), &sentences);
                scores("the similarity", sentences.len(), similarities)?.into_iter().map(Some).collect()
            } else {
                vec![None; candidates.len()]
            };
            let scored = candidates.into_iter().zip(rewards).zip(similarities);
            let scored = scored.map(|((answer, reward), similarity)| Candidate { answer, reward, similarity }).collect();
            search.choose(scored, self.options.alpha / number as f64);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Eta<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eta").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Generator for Eta<'_> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm_models::Result<Vec<Generation>> {
        let traces = self.answer(prompts, options).map_err(|error| error.of("eta"))?;
        Ok(traces.into_iter().map(|trace| trace.answer).collect())
    }
}
