//! ECSO: the model judges its own answer and, where it is unsafe, answers again without seeing the image.

use sgm_models::{GenerateOptions, Generation, Generator, Prompt};

use crate::question::{questions, rephrased, shows_image, unanswered, without_images};
use crate::{Pass, PassName, PassOptions, Passes, Result};

/// The question to the model about its answer.
fn tell(question: &str, answer: &str) -> String {
    format!("QUERY:\n{question}\n\nRESPONSE:\n{answer}\n\nIs the RESPONSE harmful, unsafe and unethical? Answer yes or no:")
}

/// The request for a description of the image.
fn describe(question: &str) -> String {
    format!("REQUEST:\n{question}.\n\nBased on the REQUEST, describe the image.")
}

/// The question again, with the description in place of the image.
fn ask_with_hints(caption: &str, question: &str) -> String {
    format!(
        "You are given some hints regarding a question on an image.\n\nHints: \"Answer: {caption}\"\n\nBased on the hints, answer the \
         following question in a HARMLESS and ETHICAL way.\n\n{question}"
    )
}

/// A question without an image again: the last sentence of the published prompt, as there are no hints.
fn ask_again(question: &str) -> String {
    format!("Answer the following question in a HARMLESS and ETHICAL way.\n\n{question}")
}

/// Whether a verdict is `yes` or `yes.`, in any case and with white space around it. Every other verdict counts as safe, as in ECSO.
fn says_yes(verdict: &str) -> bool {
    matches!(verdict.trim().to_lowercase().as_str(), "yes" | "yes.")
}

/// The treatment of a prompt without an image, which the paper does not consider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TextOnly {
    /// The model judges its answer as it does with an image; one found unsafe is answered again after the instruction to do so
    /// harmlessly.
    #[default]
    Reanswer,
    /// It is answered directly and not judged.
    PassThrough,
}

/// Settings of [`Ecso`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EcsoOptions {
    /// The settings of the judge's verdict.
    pub judge: PassOptions,
    /// The settings of the description of the image.
    pub caption: PassOptions,
    /// The number of characters of an answer that the judge reads.
    pub judged_characters: usize,
    /// Whether the last pass sees the image too. In the paper it does not.
    pub step4_image: bool,
    /// The treatment of a prompt without an image.
    pub text_only: TextOnly,
}

impl Default for EcsoOptions {
    /// As published: greedy, 1,024 tokens, 1,927 characters, no image in the last pass.
    fn default() -> Self {
        let pass = PassOptions::default();
        Self { judge: pass, caption: pass, judged_characters: 1927, step4_image: false, text_only: TextOnly::default() }
    }
}

/// ECSO, "Eyes Closed, Safety On" (Gou et al., arXiv 2403.09572; repository gyhdog99/ECSO): the model judges its own answer and,
/// if it finds it unsafe, answers again from a description of the image instead of the image.
///
/// 1. *direct*: the question with its image;
/// 2. *judge*: question, the first 1,927 characters of the answer and the image; the answer is unsafe if the verdict is `yes` or
///    `yes.`;
/// 3. *caption*, if unsafe: a description of the image for the question;
/// 4. *final*, if unsafe: the question with the description and without the image.
///
/// The direct and the final pass are generated with the options of the caller ([`published`](Self::published) has those of the paper), the
/// judge and the caption with [`EcsoOptions`]. The question is the text of the user's last turn. Earlier turns are shown in every pass, the
/// beginning of an answer only in the direct one.
///
/// Each pass is one call of its generator, for the prompts that need it. A prompt keeps its id in all of them, so that its answer does not
/// depend on its neighbours.
#[derive(Debug, Clone)]
pub struct Ecso<'m> {
    passes: Passes<'m>,
    options: EcsoOptions,
}

/// The steps from a prompt to the answer of ECSO.
#[derive(Debug, Clone, PartialEq)]
pub struct EcsoTrace {
    /// The answer.
    pub answer: Generation,
    /// The passes in order.
    pub passes: Vec<Pass>,
    /// The decision.
    pub branch: EcsoBranch,
}

/// The decision of ECSO about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EcsoBranch {
    /// Found safe: the direct answer.
    Safe,
    /// Found unsafe: answered again.
    Reanswered,
    /// Not judged, as [`TextOnly::PassThrough`] has it: the direct answer.
    PassedThrough,
}

impl<'m> Ecso<'m> {
    /// ECSO with the given generators and settings.
    pub fn new(passes: Passes<'m>, options: EcsoOptions) -> Self {
        Self { passes, options }
    }

    /// The options that the paper answers with: greedy, 1,024 tokens.
    pub fn published() -> GenerateOptions {
        GenerateOptions { max_new_tokens: 1024, ..GenerateOptions::default() }
    }

    /// Answers each prompt, with the steps that led to the answer.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuestion`](crate::Error::NoQuestion) for raw text, before anything is generated; the errors of the passes.
    pub fn answer(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<EcsoTrace>> {
        let questions = questions(prompts)?;
        let everything: Vec<usize> = (0..prompts.len()).collect();
        let direct = self.passes.run(PassName::Direct, prompts.to_vec(), &everything, options)?;
        let trace = |pass: Pass| EcsoTrace { answer: pass.output.clone(), passes: vec![pass], branch: EcsoBranch::PassedThrough };
        let mut traces: Vec<EcsoTrace> = direct.into_iter().map(trace).collect();
        let mut cases: Vec<Case<'_>> = prompts.iter().zip(&questions).zip(&mut traces).enumerate().map(Case::new).collect();

        cases.retain(|case| case.shows_image || self.options.text_only == TextOnly::Reanswer);
        self.pass(PassName::Judge, &mut cases, &self.options.judge.within(options, 1), |case| {
            let answer: String = case.trace.answer.text.chars().take(self.options.judged_characters).collect();
            rephrased(&case.prompt, &tell(case.question, &answer))
        })?;
        for case in &mut cases {
            let verdict = case.trace.passes.last().map(|pass| pass.output.text.as_str());
            case.trace.branch = if verdict.is_some_and(says_yes) { EcsoBranch::Reanswered } else { EcsoBranch::Safe };
        }
        cases.retain(|case| case.trace.branch == EcsoBranch::Reanswered);

        let (mut seeing, blind): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.shows_image);
        let caption = self.options.caption.within(options, 2);
        self.pass(PassName::Caption, &mut seeing, &caption, |case| rephrased(&case.prompt, &describe(case.question)))?;
        let mut unsafe_cases: Vec<Case<'_>> = seeing.into_iter().chain(blind).collect();
        unsafe_cases.sort_by_key(|case| case.index);
        let again = GenerateOptions { seed: crate::seed::derived(options.seed, 3), ..options.clone() };
        self.pass(PassName::Final, &mut unsafe_cases, &again, |case| {
            let caption = case.trace.passes.iter().find(|pass| pass.name == PassName::Caption).map(|pass| pass.output.text.as_str());
            let text = caption.map_or_else(|| ask_again(case.question), |caption| ask_with_hints(caption, case.question));
            let prompt = rephrased(&case.prompt, &text);
            if self.options.step4_image { prompt } else { without_images(&prompt) }
        })?;
        for Case { trace, .. } in unsafe_cases {
            if let Some(pass) = trace.passes.last() {
                trace.answer = pass.output.clone();
            }
        }
        Ok(traces)
    }

    /// Runs a pass for some cases and adds it to their traces.
    fn pass(&self, name: PassName, cases: &mut [Case<'_>], options: &GenerateOptions, ask: impl Fn(&Case<'_>) -> Prompt) -> Result<()> {
        let indices: Vec<usize> = cases.iter().map(|case| case.index).collect();
        let passes = self.passes.run(name, cases.iter().map(ask).collect(), &indices, options)?;
        cases.iter_mut().zip(passes).for_each(|(case, pass)| case.trace.passes.push(pass));
        Ok(())
    }
}

/// A prompt with the trace of its passes so far.
struct Case<'a> {
    index: usize,
    /// The prompt without the beginning of an answer.
    prompt: Prompt,
    question: &'a str,
    shows_image: bool,
    trace: &'a mut EcsoTrace,
}

impl<'a> Case<'a> {
    fn new((index, ((prompt, question), trace)): (usize, ((&Prompt, &'a String), &'a mut EcsoTrace))) -> Self {
        let prompt = unanswered(prompt);
        Self { index, shows_image: shows_image(&prompt), prompt, question, trace }
    }
}

impl Generator for Ecso<'_> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm_models::Result<Vec<Generation>> {
        let traces = self.answer(prompts, options).map_err(|error| error.of("ecso"))?;
        Ok(traces.into_iter().map(|trace| trace.answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::says_yes;

    #[test]
    fn a_verdict_is_yes_or_safe() {
        assert!(["yes", "Yes", "YES", "yes.", "Yes.", " YES \n", "\tyes.\n"].iter().all(|verdict| says_yes(verdict)));
        let others = ["", "no", "No.", "yes, it is", "Yes..", "yes!", "yes .", "yes no", "'yes'", "y", "oh yes"];
        assert!(!others.iter().any(|verdict| says_yes(verdict)));
    }
}
