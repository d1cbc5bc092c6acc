//! The run of a benchmark on a model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use sgm_core::sha256::hex_digest;
use sgm_models::{FinishReason, GenerateOptions, Generation, Generator, Mllm, Prompt, Sampling, response_nll};
use sha2::{Digest, Sha256};

use crate::judges::judge::judge_all;
use crate::metrics::Diversity;
use crate::metrics::scoring::world_of;
use crate::{
    Error, Evaluation, Judge, PromptOutcome, Record, ReferenceScorer, RefusalJudge, Result, RunFile, Sample, Scorer, SeedOutcome, Timing,
};

/// The settings of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOptions {
    /// The settings of the answers to risky prompts; their seed is that of the run.
    pub generate: GenerateOptions,
    /// The defence around the model, for the records.
    pub defence: Option<String>,
    /// The SHA-256 of the intervention that the model wears, for the records.
    pub intervention_sha256: Option<String>,
}

/// An [`Evaluation`] with decoded images and a scorer, ready for any number of runs.
#[derive(Debug)]
pub struct Benchmark {
    standard: Vec<(Sample, Prompt)>,
    adversarial: Vec<(Sample, Prompt)>,
    vqa: Vec<(Sample, Prompt)>,
    perplexity: Vec<(Prompt, String)>,
    refusal: Vec<(Sample, Prompt)>,
    /// The ids of these texts.
    perplexity_ids: Vec<String>,
    scorer: Arc<dyn Scorer>,
}

/// The output of one run of a benchmark.
#[derive(Debug)]
pub struct EvaluationOutput {
    /// The outcome that the metrics are computed from. A benchmark does not know the number of changed neurons and the detection, which
    /// stay 0 and `None`.
    pub outcome: SeedOutcome,
    /// Every answer: risky prompts as they are, attacks, visual questions, harmless questions.
    pub records: Vec<Record>,
}

impl Benchmark {
    /// Decodes all images; the [`ReferenceScorer`] says which answers are right and which help.
    ///
    /// # Errors
    ///
    /// As [`with_scorer`](Self::with_scorer).
    pub fn new(evaluation: Evaluation) -> Result<Self> {
        Self::with_scorer(evaluation, Arc::new(ReferenceScorer))
    }

    /// Decodes all images, for answers that another scorer scores, such as that of the samples' [`Source`](crate::Source).
    ///
    /// # Errors
    ///
    /// [`Error::NoScorer`] for the first sample whose reference the scorer does not know; [`Error::Image`] or [`Error::Scene`] for the
    /// first image that cannot be decoded or drawn.
    pub fn with_scorer(evaluation: Evaluation, scorer: Arc<dyn Scorer>) -> Result<Self> {
        for sample in [&evaluation.standard, &evaluation.adversarial, &evaluation.vqa].into_iter().flatten() {
            if let Some(reference) = sample.reference.as_ref().filter(|reference| !scorer.knows(reference)) {
                let (id, kind, world) = (sample.id.clone(), reference.kind.clone(), world_of(reference));
                return Err(Error::NoScorer { id, kind, world });
            }
        }
        let prompts = |samples: Vec<Sample>| samples.into_iter().map(|s| s.as_prompt().map(|p| (s, p))).collect::<Result<Vec<_>>>();
        let texts = || evaluation.perplexity.iter().filter_map(|s| Some((s, s.response.clone()?)));
        Ok(Self {
            perplexity_ids: texts().map(|(s, _)| s.id.clone()).collect(),
            perplexity: texts().map(|(s, response)| Ok((s.as_prompt()?, response))).collect::<Result<_>>()?,
            standard: prompts(evaluation.standard)?,
            adversarial: prompts(evaluation.adversarial)?,
            vqa: prompts(evaluation.vqa)?,
            refusal: prompts(evaluation.refusal)?,
            scorer,
        })
    }

    /// Keeps every `n`-th sample of each set, for a quick run.
    pub fn thin(&mut self, n: usize) {
        fn every<T>(items: &mut Vec<T>, n: usize) {
            let mut index = 0..;
            items.retain(|_| index.next().is_some_and(|i: usize| i.is_multiple_of(n.max(1))));
        }
        every(&mut self.standard, n);
        every(&mut self.adversarial, n);
        every(&mut self.vqa, n);
        every(&mut self.perplexity, n);
        every(&mut self.refusal, n);
        every(&mut self.perplexity_ids, n);
    }

    /// The prompts in the order of [`DetectionOutcome`](crate::DetectionOutcome): the risky prompts (standard, then adversarial), and the
    /// harmless prompts (visual questions, then those of the perplexity texts).
    pub fn prompts(&self) -> (Vec<Prompt>, Vec<Prompt>) {
        let of = |set: &[(Sample, Prompt)]| set.iter().map(|(_, prompt)| prompt.clone()).collect::<Vec<_>>();
        let texts = self.perplexity.iter().map(|(prompt, _)| prompt.clone()).collect();
        ([of(&self.standard), of(&self.adversarial)].concat(), [of(&self.vqa), texts].concat())
    }

    /// The texts whose perplexity is measured: prompts with their given responses.
    pub fn perplexity_texts(&self) -> &[(Prompt, String)] {
        &self.perplexity
    }

    /// The negative log-likelihood of each token of these texts, as [`response_nll`] computes it; an error names the sample.
    ///
    /// # Errors
    ///
    /// The errors of the model.
    pub fn token_nll<M: Mllm + ?Sized>(&self, model: &M, batch_size: usize) -> Result<Vec<Vec<f64>>> {
        let id = |at: usize| self.perplexity_ids.get(at).map(String::as_str);
        response_nll(model, &self.perplexity, batch_size).map_err(|e| Error::shown(e, id))
    }

    /// The negative log-likelihoods of the tokens of answers to risky prompts, for [`SeedOutcome::answer_nll`]: `model` is the one without
    /// glasses. Empty answers and those of other samples are left out. The end of an answer that was cut off does not count.
    ///
    /// # Errors
    ///
    /// The errors of the model.
    pub fn answer_nll<M: Mllm + ?Sized>(&self, model: &M, records: &[Record], batch_size: usize) -> Result<Vec<Vec<f64>>> {
        let by_id: HashMap<&str, &Record> = records.iter().map(|record| (record.id.as_str(), record)).collect();
        let risky = self.standard.iter().chain(&self.adversarial);
        let answered: Vec<(&Prompt, &Record)> = risky
            .filter_map(|(sample, prompt)| Some((prompt, *by_id.get(sample.id.as_str())?)))
            .filter(|(_, record)| !record.response.is_empty())
            .collect();
        let texts: Vec<(Prompt, String)> = answered.iter().map(|(prompt, record)| ((*prompt).clone(), record.response.clone())).collect();
        let id = |at: usize| answered.get(at).map(|(_, record)| record.id.as_str());
        let mut nll = response_nll(model, &texts, batch_size).map_err(|e| Error::shown(e, id))?;
        if model.processor().eos().is_some() {
            let cut = |record: &Record| record.finish_reason == FinishReason::Length.name();
            nll.iter_mut().zip(&answered).filter(|(_, (_, record))| cut(record)).for_each(|(tokens, _)| _ = tokens.pop());
        }
        Ok(nll)
    }

    /// Answers every prompt and measures the perplexity of every text.
    ///
    /// `generator` answers risky prompts with the sampling of the options, and visual and harmless questions greedily. Perplexity is that of
    /// `model`, which `generator` is or wraps; harmless questions are refused by the phrases of [`RefusalJudge::v3`].
    ///
    /// # Errors
    ///
    /// The errors of generator, model and judge.
    pub fn evaluate<G: Generator + ?Sized, M: Mllm + ?Sized>(
        &self,
        generator: &G,
        model: &M,
        judge: &dyn Judge,
        options: &EvaluateOptions,
    ) -> Result<EvaluationOutput> {
        let start = Instant::now();
        let asking = Asking { generator, model, options };
        let mut records = Vec::new();
        for (set, generate, judge) in self.sets(judge, &options.generate) {
            let _span = tracing::info_span!("answers", prompts = set.len()).entered();
            let mut answers = asking.answer(set, &generate, None)?;
            judge.map_or(Ok(()), |judge| label(judge, &mut answers))?;
            records.extend(answers);
        }
        let mut output = self.with_perplexity(records, model, options)?;
        output.outcome.seconds = start.elapsed().as_secs_f64();
        Ok(output)
    }

    /// As [`evaluate`](Self::evaluate), with the answers of [`answer_into`](Self::answer_into), so that it can be stopped and resumed. The
    /// seconds of the outcome are those of the answers, whenever they were given.
    ///
    /// # Errors
    ///
    /// As [`answer_into`](Self::answer_into).
    pub fn evaluate_into<G: Generator + ?Sized, M: Mllm + ?Sized>(
        &self,
        generator: &G,
        model: &M,
        judge: &dyn Judge,
        options: &EvaluateOptions,
        (run, chunk): (&mut RunFile, usize),
    ) -> Result<EvaluationOutput> {
        let records = self.answer_into(generator, model, Some(judge), options, chunk, run)?;
        let mut output = self.with_perplexity(records, model, options)?;
        output.outcome.seconds = output.records.iter().map(|record| record.timing.seconds).sum();
        Ok(output)
    }

    /// The outcome of all records, with the perplexity of the model.
    fn with_perplexity<M: Mllm + ?Sized>(&self, records: Vec<Record>, model: &M, options: &EvaluateOptions) -> Result<EvaluationOutput> {
        let _span = tracing::info_span!("perplexity", texts = self.perplexity.len()).entered();
        let token_nll = self.token_nll(model, options.generate.batch_size)?;
        let outcome = SeedOutcome { token_nll, seed: options.generate.seed, ..self.outcome(&records) };
        Ok(EvaluationOutput { outcome, records })
    }

    /// Answers every prompt without an answer in `run`, `chunk` prompts at a time, and records each chunk as soon as it is answered.
    ///
    /// A run that is stopped at any moment and resumed by another call leaves the same bytes, timing aside, as a run that is not stopped: a
    /// chunk is generated whole even where a part of it was recorded. So that answers do not repeat each other, each chunk draws from a
    /// seed of its own, which its records hold as `generation.chunk`; the answers therefore differ from those of
    /// [`evaluate`](Self::evaluate), with the same distribution. Without a judge the records have no verdict, which
    /// [`judge_again`](crate::judge_again) adds. [`outcome`](Self::outcome) computes the outcome of the records.
    ///
    /// # Errors
    ///
    /// The errors of generator, model and judge; [`Error::Write`](crate::Error::Write).
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

    /// The outcome of the records of this benchmark's samples; perplexity, and what else a record does not hold, stays empty.
    ///
    /// Records of other samples are ignored, samples without a record are left out. A risky prompt whose record has no verdict counts as
    /// unparsed.
    pub fn outcome(&self, records: &[Record]) -> SeedOutcome {
        let by_id: HashMap<&str, &Record> = records.iter().map(|record| (record.id.as_str(), record)).collect();
        let risky = |set: &[(Sample, Prompt)]| -> Vec<PromptOutcome> {
            let outcome = |(sample, _): &(Sample, Prompt)| {
                let record = by_id.get(sample.id.as_str())?;
                let verdict = record.judge.clone().unwrap_or_default();
                Some(PromptOutcome {
                    id: sample.id.clone(),
                    category: sample.category.clone(),
                    helpful: self.scorer.helpful(sample, &record.response, &verdict),
                    harmful: verdict.label,
                })
            };
            set.iter().filter_map(outcome).collect()
        };
        let correct = |(sample, _): &(Sample, Prompt)| {
            let record = by_id.get(sample.id.as_str())?;
            Some(sample.reference.as_ref().is_some_and(|r| self.scorer.vqa_correct(r, &record.response)))
        };
        let phrases = RefusalJudge::v3();
        let refused = |(sample, _): &(Sample, Prompt)| Some(phrases.refusal(&by_id.get(sample.id.as_str())?.response).is_some());
        let responses = [&self.standard, &self.adversarial].into_iter().flatten();
        let responses = responses.filter_map(|(sample, _)| Some(by_id.get(sample.id.as_str())?.response.as_str()));
        SeedOutcome {
            diversity: Diversity::of(responses),
            refused: self.refusal.iter().filter_map(refused).collect(),
            standard: risky(&self.standard),
            adversarial: risky(&self.adversarial),
            vqa_correct: self.vqa.iter().filter_map(correct).collect(),
            ..SeedOutcome::default()
        }
    }

    /// The sets to answer, each with its settings and its judge.
    fn sets<'a, J: Into<Option<&'a dyn Judge>>>(&self, judge: J, generate: &GenerateOptions) -> [Set<'_, 'a>; 4] {
        let judge = judge.into();
        let greedy = GenerateOptions { sampling: Sampling::Greedy, ..generate.clone() };
        [
            (&self.standard[..], generate.clone(), judge),
            (&self.adversarial[..], generate.clone(), judge),
            (&self.vqa[..], greedy.clone(), None),
            (&self.refusal[..], greedy, None),
        ]
    }
}

type Set<'a, 'j> = (&'a [(Sample, Prompt)], GenerateOptions, Option<&'j dyn Judge>);

/// Adds a judge's verdicts to records.
fn label(judge: &dyn Judge, records: &mut [Record]) -> Result<()> {
    let verdicts = judge_all(judge, &records.iter().map(Record::exchange).collect::<Vec<_>>())?;
    records.iter_mut().zip(verdicts).for_each(|(record, verdict)| record.judge = Some(verdict));
    Ok(())
}

/// The generator, its model, and the settings.
struct Asking<'a, G: ?Sized, M: ?Sized> {
    generator: &'a G,
    model: &'a M,
    options: &'a EvaluateOptions,
}

impl<G: Generator + ?Sized, M: Mllm + ?Sized> Asking<'_, G, M> {
    /// Answers prompts in one call; `chunk` is the number and size of the chunk that they are of a longer run.
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
        let id = |at: usize| prompts.get(at).map(|(sample, _)| sample.id.as_str());
        let answers = self.generator.generate(&asked, &call).map_err(|e| Error::shown(e, id))?;
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
                request: sample.request.clone(),
                rendered_prompt_sha256: hex_digest(rendered.as_bytes()),
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

/// The seed of a chunk: the first 8 bytes, little-endian, of the SHA-256 of `<seed>/<number>`.
fn chunk_seed(seed: u64, number: usize) -> u64 {
    let hash = Sha256::digest(format!("{seed}/{number}"));
    hash.iter().take(8).rev().fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
