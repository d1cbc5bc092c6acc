use std::sync::Arc;

use sgm_models::{GenerateOptions, Generation, Generator, Prompt};

use crate::best_of_n::Search;
use crate::question::{questions, shows_image, unanswered};
use crate::scorer::scores;
use crate::{Error, ImageTextSimilarity, PassName, Passes, Result, RewardModel};

/// Settings of [`Eta`].
#[derive(Debug, Clone, PartialEq)]
pub struct EtaOptions {
    /// An answer is safe above this reward.
    pub safe_reward: f64,
    /// An image is safe below this unsafety.
    pub safe_image: f64,
    /// The text whose similarity with the image is its unsafety.
    pub says_unsafe: String,
    /// The instruction that the reward model is given with an answer to check.
    pub check_instruction: String,
    /// The instruction that the reward model is given with a candidate.
    pub candidate_instruction: String,
    /// The beginning of the answer to an unsafe prompt.
    pub prefix: String,
    /// Candidates for each sentence.
    pub candidates: usize,
    /// The length at which a sentence is cut off, in tokens.
    pub sentence_tokens: usize,
    /// The temperature of the candidates.
    pub beta: f64,
    /// Candidates are drawn from this many most probable tokens.
    pub top_k: Option<usize>,
    /// The weight of the first sentence's similarity with the image; that of sentence i is `alpha / i`.
    pub alpha: f64,
}

impl Default for EtaOptions {
    /// As published, for ArmoRM (RLHFlow/ArmoRM-Llama3-8B-v0.1) and CLIP (openai/clip-vit-large-patch14-336, cosine).
    fn default() -> Self {
        // The published instructions to the reward model, misspelling included.
        let scoring = "If the response contains instructions of harmful/porn/sexual/unsafe/violence/illegal/pricacy activities, the score will be low.";
        let check = "If the response directly reject to the question, and give some helpful advices, the score should be high. If the response only \
                     contains a single word or number or phrase, the score will be extremely high.";
        let candidate = "If the response directly reject the question, and give some helpful advices, the score should be high.";
        Self {
            safe_reward: 0.06,
            safe_image: 0.16,
            says_unsafe: "The image contains unsafe/porn/violent/politic/physical harmful/illegal/privacy contents.".to_owned(),
            check_instruction: format!(
                "Please give me a response without any safety issues, one word or phrase or number is good. {scoring} {check}"
            ),
            candidate_instruction: format!("Please give me a response without any safety issues. {scoring} {candidate}"),
            prefix: "As an AI assistant".to_owned(),
            candidates: 5,
            sentence_tokens: 70,
            beta: 1.5,
            top_k: Some(5),
            alpha: 1.0,
        }
    }
}

impl EtaOptions {
    /// The published settings with thresholds for scores that are probabilities, as those of [`WordReward`](crate::WordReward)
    /// and [`OwnSimilarity`](crate::OwnSimilarity) are: an answer and an image are safe if they are more probably so than not.
    pub fn for_local_scorers() -> Self {
        Self { safe_reward: 0.5, safe_image: 0.5, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        let refuse = |setting, value: String, expected| Err(Error::Setting { setting, value, expected });
        if self.candidates == 0 {
            return refuse("candidates", self.candidates.to_string(), "at least 1");
        }
        if self.sentence_tokens == 0 {
            return refuse("sentence_tokens", self.sentence_tokens.to_string(), "at least 1");
        }
        Ok(())
    }
}

/// ETA, "Evaluating Then Aligning" (Ding et al., arXiv 2410.06625; repository DripNowhy/ETA): an answer that a reward model finds
/// unsafe, to a prompt whose image is unsafe too, is written anew sentence by sentence, from a prefix on, each the best of some
/// candidates.
///
/// 1. *direct*: the question with its image, as the caller's options have it; its answer is safe if its reward is above a
///    threshold;
/// 2. otherwise the prompt is safe if its image's unsafety is below a threshold, and the direct answer is given all the same;
/// 3. *final*, if neither is safe: from the prefix on, `candidates` continuations up to the next full stop are drawn, and the one
///    with the highest `reward + alpha / i * similarity` is kept, i being the number of the sentence; until one ends the answer,
///    or it has the caller's `max_new_tokens`. The reward is that of the whole answer so far, the similarity that of the new
///    sentence with the image.
///
/// As in the published code the first sentence, and every one that any of the candidates ends the answer with, is chosen by the
/// reward alone. Unlike it, sentences go on from the text so far, not from its tokens, and the last one does not exceed
/// `max_new_tokens`. The paper considers prompts with an image only; here nothing but the reward speaks for or against one
/// without.
#[derive(Clone)]
pub struct Eta<'m> {
    passes: Passes<'m>,
    rewards: Arc<dyn RewardModel + 'm>,
    similarity: Arc<dyn ImageTextSimilarity + 'm>,
    options: EtaOptions,
}

/// How ETA came to an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct EtaTrace {
    /// The answer.
    pub answer: Generation,
    /// The direct answer.
    pub direct: Generation,
    /// Its reward.
    pub reward: f64,
    /// The unsafety of the image, if there is one and it was looked at.
    pub unsafety: Option<f64>,
    /// The sentences of an aligned answer.
    pub sentences: Vec<Sentence>,
    /// What was decided.
    pub branch: EtaBranch,
}

/// What ETA decided about a prompt and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EtaBranch {
    /// The direct answer is safe.
    SafeAnswer,
    /// The image is safe: the direct answer.
    SafeImage,
    /// Neither is: written anew.
    Aligned,
}

/// The candidates for a sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// The candidates in the order in which they were drawn.
    pub candidates: Vec<Candidate>,
    /// The index of the one that was kept: the first of those with the highest score.
    pub chosen: usize,
}

/// A candidate for a sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The answer up to and with it.
    pub answer: Generation,
    /// The reward of that.
    pub reward: f64,
    /// The similarity of the new sentence with the image, where it counts.
    pub similarity: Option<f64>,
}

impl<'m> Eta<'m> {
    /// ETA with the given generators (those of the direct and the final pass), scorers and settings.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] when there are no candidates, or sentences no tokens.
    pub fn new(
        passes: Passes<'m>,
        rewards: Arc<dyn RewardModel + 'm>,
        similarity: Arc<dyn ImageTextSimilarity + 'm>,
        options: EtaOptions,
    ) -> Result<Self> {
        options.check()?;
        Ok(Self { passes, rewards, similarity, options })
    }

    /// Answers each prompt and tells how.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuestion`] for raw text, before anything is generated; what a pass reports; [`Error::Scorer`] and
    /// [`Error::Score`] for the scorers.
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
