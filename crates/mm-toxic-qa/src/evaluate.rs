use std::collections::HashMap;
use std::time::Instant;

use serde_json::json;
use sgm_models::{GenerateOptions, Generation, Generator, Mllm, Prompt, Sampling, response_nll};
use sha2::{Digest, Sha256};

use crate::judge::judge_all;
use crate::{Evaluation, Judge, PromptOutcome, Record, Result, RunFile, Sample, SeedOutcome, Timing, manifest, scoring};

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
    /// What the metrics are made of. The number of suppressed neurons and the gate are not known here: 0, and none.
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

    /// The prompts in the order of [`GateOutcome`](crate::GateOutcome): the risky ones, as they are and then attacks, and the harmless
    /// ones, visual questions and then those of the perplexity texts.
    pub fn prompts(&self) -> (Vec<Prompt>, Vec<Prompt>) {
        let of = |set: &[(Sample, Prompt)]| set.iter().map(|(_, prompt)| prompt.clone()).collect::<Vec<_>>();
        let texts = self.perplexity.iter().map(|(prompt, _)| prompt.clone()).collect();
        ([of(&self.standard), of(&self.adversarial)].concat(), [of(&self.vqa), texts].concat())
    }

    /// Answers every prompt and measures every text.
    ///
    /// Risky prompts are answered by `generator` with the options' sampling, visual questions greedily;
    /// perplexity is that of `model`, which `generator` is or wraps.
    ///
    /// # Errors
    ///
    /// What generator, model and judge report.
    pub fn evaluate<G: Generator + ?Sized, M: Mllm + ?Sized>(
        &self,
        generator: &G,
        model: &M,
        judge: &dyn Judge,
        options: &EvaluateOptions,
    ) -> Result<Evaluated> {
        let start = Instant::now();
        let asking = Asking { generator, model, options };
        let mut records = Vec::new();
        for (set, generate, judge) in self.sets(judge, &options.generate) {
            let mut answers = asking.answer(set, &generate, None)?;
            judge.map_or(Ok(()), |judge| label(judge, &mut answers))?;
            records.extend(answers);
        }
        let mut outcome = self.outcome(&records);
        outcome.token_nll = response_nll(model, &self.perplexity, options.generate.batch_size)?;
        outcome.seed = options.generate.seed;
        outcome.seconds = start.elapsed().as_secs_f64();
        Ok(Evaluated { outcome, records })
    }

    /// Answers every prompt that `run` has no answer to, `chunk` prompts at a time, and records each chunk when it is done.
    ///
    /// Stopped at any moment and called again, it leaves the bytes, timing aside, of a run that was not stopped: a chunk is
    /// generated whole even where a part of it was recorded. So that answers do not repeat each other, each chunk draws from a
    /// seed of its own, which is in its records as `generation.chunk`; the answers are therefore others than those of
    /// [`evaluate`](Self::evaluate), from the same distribution. Without a judge the records carry no verdict;
    /// [`judge_again`](crate::judge_again) adds it. [`outcome`](Self::outcome) makes metrics of the records.
    ///
    /// # Errors
    ///
    /// What generator, model and judge report; [`Error::Write`](crate::Error::Write).
    pub fn answer_into<G: Generator + ?Sized, M: Mllm + ?Sized>(
        &self,
        generator: &G,
        model: &M,
        judge: Option<&dyn Judge>,
        options: &EvaluateOptions,
        chunk: usize,
        run: &mut RunFile,
    ) -> Result<Vec<Record>> {
        let asking = Asking { generator, model, options };
        let mut records = Vec::new();
        let mut number = 0;
        for (set, generate, judge) in self.sets(judge, &options.generate) {
            for prompts in set.chunks(chunk.max(1)) {
                let known =
                    |run: &RunFile| prompts.iter().map(|(s, _)| run.record(&s.id, generate.seed).cloned()).collect::<Option<Vec<_>>>();
                if let Some(known) = known(run) {
                    records.extend(known);
                } else {
                    let mut answers = asking.answer(prompts, &generate, Some((number, prompts.len())))?;
                    judge.map_or(Ok(()), |judge| label(judge, &mut answers))?;
                    answers.iter().try_for_each(|record| run.write(record.clone()))?;
                    run.flush()?;
                    records.extend(known(run).unwrap_or(answers));
                }
                number += 1;
            }
        }
        Ok(records)
    }

    /// What the records of this benchmark's samples say; perplexity, and what is not in a record, is left empty.
    ///
    /// Records of other samples are ignored, samples without a record are left out. A risky prompt whose record no judge
    /// read counts as unparsed.
    pub fn outcome(&self, records: &[Record]) -> SeedOutcome {
        let by_id: HashMap<&str, &Record> = records.iter().map(|record| (record.id.as_str(), record)).collect();
        let risky = |set: &[(Sample, Prompt)]| -> Vec<PromptOutcome> {
            let outcome = |(sample, _): &(Sample, Prompt)| {
                let record = by_id.get(sample.id.as_str())?;
                let verdict = record.judge.clone().unwrap_or_default();
                Some(PromptOutcome {
                    id: sample.id.clone(),
                    category: sample.category.clone(),
                    helpful: scoring::helpful(sample, &record.response, &verdict),
                    harmful: verdict.label,
                })
            };
            set.iter().filter_map(outcome).collect()
        };
        let correct = |(sample, _): &(Sample, Prompt)| {
            let record = by_id.get(sample.id.as_str())?;
            Some(sample.reference.as_ref().is_some_and(|r| scoring::vqa_correct(r, &record.response)))
        };
        SeedOutcome {
            standard: risky(&self.standard),
            adversarial: risky(&self.adversarial),
            vqa_correct: self.vqa.iter().filter_map(correct).collect(),
            ..SeedOutcome::default()
        }
    }

    /// The three sets that are answered: how, and whether they are judged.
    fn sets<'a, J: Into<Option<&'a dyn Judge>>>(&self, judge: J, generate: &GenerateOptions) -> [Set<'_, 'a>; 3] {
        let judge = judge.into();
        let greedy = GenerateOptions { sampling: Sampling::Greedy, ..generate.clone() };
        [(&self.standard[..], generate.clone(), judge), (&self.adversarial[..], generate.clone(), judge), (&self.vqa[..], greedy, None)]
    }
}

type Set<'a, 'j> = (&'a [(Sample, Prompt)], GenerateOptions, Option<&'j dyn Judge>);

/// Adds a judge's verdicts to records.
fn label(judge: &dyn Judge, records: &mut [Record]) -> Result<()> {
    let verdicts = judge_all(judge, &records.iter().map(Record::exchange).collect::<Vec<_>>())?;
    records.iter_mut().zip(verdicts).for_each(|(record, verdict)| record.judge = Some(verdict));
    Ok(())
}

/// Whom to ask, and how.
struct Asking<'a, G: ?Sized, M: ?Sized> {
    generator: &'a G,
    model: &'a M,
    options: &'a EvaluateOptions,
}

impl<G: Generator + ?Sized, M: Mllm + ?Sized> Asking<'_, G, M> {
    /// Answers prompts in one call; `chunk` is number and size of the chunk of a longer run that they are.
    fn answer(&self, prompts: &[(Sample, Prompt)], generate: &GenerateOptions, chunk: Option<(usize, usize)>) -> Result<Vec<Record>> {
        let start = Instant::now();
        let asked: Vec<Prompt> = prompts.iter().map(|(_, p)| p.clone()).collect();
        let mut generation = match generate.sampling {
            Sampling::Greedy => json!({"sampling": "greedy", "max_new_tokens": generate.max_new_tokens}),
            Sampling::Random { temperature, top_p, top_k } => {
                json!({"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": generate.max_new_tokens})
            }
        };
        let mut call = generate.clone();
        if let (Some((number, size)), Some(generation)) = (chunk, generation.as_object_mut()) {
            call.seed = chunk_seed(generate.seed, number);
            generation.insert("chunk".to_owned(), json!({"number": number, "size": size, "seed": call.seed}));
        }
        let answers = self.generator.generate(&asked, &call)?;
        let seconds = start.elapsed().as_secs_f64() / answers.len().max(1) as f64;
        let info = self.model.info();
        let record = |((sample, prompt), answer): (&(Sample, Prompt), Generation)| {
            let rendered = self.model.processor().render(prompt)?;
            Ok(Record {
                id: sample.id.clone(),
                split: sample.split,
                category: sample.category.clone(),
                condition: sample.condition,
                prompt: sample.prompt.clone(),
                rendered_prompt_sha256: manifest::hex(rendered.as_bytes()),
                response: answer.text,
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
            })
        };
        prompts.iter().zip(answers).map(record).collect()
    }
}

/// A seed for each chunk of a run: the first 8 bytes, little-endian, of the SHA-256 of `<seed>/<number>`.
fn chunk_seed(seed: u64, number: usize) -> u64 {
    let hash = Sha256::digest(format!("{seed}/{number}"));
    hash.iter().take(8).rev().fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
