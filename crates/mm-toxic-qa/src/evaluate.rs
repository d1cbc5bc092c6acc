use std::time::Instant;

use serde_json::json;
use sgm_models::{GenerateOptions, Generation, Generator, Mllm, Prompt, Sampling, response_nll};
use sha2::{Digest, Sha256};

use crate::{Evaluation, Judge, JudgeRecord, PromptOutcome, Record, Result, Sample, SeedOutcome, Timing, scoring};

/// How a benchmark is run.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOptions {
    /// How risky prompts are answered; the seed is that of the run.
    pub generate: GenerateOptions,
    /// The defence around the model, for the records.
    pub defence: Option<String>,
    /// SHA-256 of the intervention the model wears, for the records.
    pub intervention_sha256: Option<String>,
}

/// An [`Evaluation`] whose images are decoded, ready to be run again and again.
#[derive(Debug)]
pub struct Benchmark {
    standard: Vec<(Sample, Prompt)>,
    adversarial: Vec<(Sample, Prompt)>,
    vqa: Vec<(Sample, Prompt)>,
    perplexity: Vec<(Prompt, String)>,
}

/// What one run of a benchmark yields.
#[derive(Debug)]
pub struct Evaluated {
    /// What the metrics are made of. The number of suppressed neurons is not known here and 0.
    pub outcome: SeedOutcome,
    /// Every answer: risky prompts as they are, attacks, visual questions.
    pub records: Vec<Record>,
}

impl Benchmark {
    /// Decodes all images.
    ///
    /// # Errors
    ///
    /// [`Error::Image`](crate::Error::Image) or [`Error::Organism`](crate::Error::Organism) for the first
    /// image that cannot be had.
    pub fn new(evaluation: Evaluation) -> Result<Self> {
        let prompts = |samples: Vec<Sample>| samples.into_iter().map(|s| s.as_prompt().map(|p| (s, p))).collect::<Result<Vec<_>>>();
        let texts = evaluation.perplexity.iter().filter_map(|s| Some((s, s.response.clone()?)));
        Ok(Self {
            perplexity: texts.map(|(s, response)| Ok((s.as_prompt()?, response))).collect::<Result<_>>()?,
            standard: prompts(evaluation.standard)?,
            adversarial: prompts(evaluation.adversarial)?,
            vqa: prompts(evaluation.vqa)?,
        })
    }

    /// Only every `n`-th sample of each set, for a quick look.
    pub fn thin(&mut self, n: usize) {
        fn every<T>(items: &mut Vec<T>, n: usize) {
            let mut index = 0..;
            items.retain(|_| index.next().is_some_and(|i: usize| i.is_multiple_of(n.max(1))));
        }
        every(&mut self.standard, n);
        every(&mut self.adversarial, n);
        every(&mut self.vqa, n);
        every(&mut self.perplexity, n);
    }

    /// Answers every prompt and measures every text.
    ///
    /// Risky prompts are answered by `generator` with the options' sampling, visual questions greedily;
    /// perplexity is that of `model`, which `generator` is or wraps.
    ///
    /// # Errors
    ///
    /// What generator and model report.
    pub fn evaluate<G: Generator + ?Sized, M: Mllm + ?Sized>(
        &self,
        generator: &G,
        model: &M,
        judge: &dyn Judge,
        options: &EvaluateOptions,
    ) -> Result<Evaluated> {
        let start = Instant::now();
        let mut run = Running { generator, model, options, outcome: SeedOutcome::default(), records: Vec::new() };
        let standard = run.judged(&self.standard, judge)?;
        let adversarial = run.judged(&self.adversarial, judge)?;
        let greedy = GenerateOptions { sampling: Sampling::Greedy, ..options.generate.clone() };
        for ((sample, _), answer) in self.vqa.iter().zip(run.answer(&self.vqa, &greedy)?) {
            let correct = sample.reference.as_ref().is_some_and(|r| scoring::vqa_correct(r, &answer.text));
            run.outcome.vqa_correct.push(correct);
        }
        let token_nll = response_nll(model, &self.perplexity, options.generate.batch_size)?;
        let outcome = SeedOutcome {
            seed: options.generate.seed,
            standard,
            adversarial,
            token_nll,
            seconds: start.elapsed().as_secs_f64(),
            ..run.outcome
        };
        Ok(Evaluated { outcome, records: run.records })
    }
}

/// One run under way.
struct Running<'a, G: ?Sized, M: ?Sized> {
    generator: &'a G,
    model: &'a M,
    options: &'a EvaluateOptions,
    outcome: SeedOutcome,
    records: Vec<Record>,
}

impl<G: Generator + ?Sized, M: Mllm + ?Sized> Running<'_, G, M> {
    fn judged(&mut self, prompts: &[(Sample, Prompt)], judge: &dyn Judge) -> Result<Vec<PromptOutcome>> {
        let answers = self.answer(prompts, &self.options.generate)?;
        let mut outcomes = Vec::with_capacity(answers.len());
        let first = self.records.len() - answers.len();
        for (((sample, _), answer), record) in prompts.iter().zip(answers).zip(self.records.iter_mut().skip(first)) {
            let verdict = judge.judge(&sample.prompt, &answer.text);
            outcomes.push(PromptOutcome {
                id: sample.id.clone(),
                category: sample.category.clone(),
                helpful: scoring::helpful(sample, &answer.text, &verdict),
                harmful: verdict.label,
            });
            let (id, label, score) = (judge.id().to_owned(), verdict.label, verdict.score);
            record.judge = Some(JudgeRecord { id, prompt_sha256: None, raw: verdict.raw, label, score });
        }
        Ok(outcomes)
    }

    /// Answers prompts and adds a record of each answer.
    fn answer(&mut self, prompts: &[(Sample, Prompt)], generate: &GenerateOptions) -> Result<Vec<Generation>> {
        let start = Instant::now();
        let asked: Vec<Prompt> = prompts.iter().map(|(_, p)| p.clone()).collect();
        let answers = self.generator.generate(&asked, generate)?;
        let seconds = start.elapsed().as_secs_f64() / answers.len().max(1) as f64;
        let generation = match generate.sampling {
            Sampling::Greedy => json!({"sampling": "greedy", "max_new_tokens": generate.max_new_tokens}),
            Sampling::Random { temperature, top_p, top_k } => {
                json!({"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": generate.max_new_tokens})
            }
        };
        let info = self.model.info();
        for ((sample, prompt), answer) in prompts.iter().zip(&answers) {
            let rendered = self.model.processor().render(prompt)?;
            self.records.push(Record {
                id: sample.id.clone(),
                split: sample.split,
                category: sample.category.clone(),
                condition: sample.condition,
                prompt: sample.prompt.clone(),
                rendered_prompt_sha256: Sha256::digest(rendered).iter().map(|b| format!("{b:02x}")).collect(),
                response: answer.text.clone(),
                finish_reason: answer.finish.name().to_owned(),
                defence: self.options.defence.clone(),
                intervention_sha256: self.options.intervention_sha256.clone(),
                model: info.name.clone(),
                revision: None,
                dtype: info.dtype.clone(),
                seed: generate.seed,
                generation: generation.clone(),
                judge: None,
                timing: Timing { seconds, prompt_tokens: None, new_tokens: Some(answer.tokens.len()) },
            });
        }
        Ok(answers)
    }
}
