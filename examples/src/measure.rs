//! Measurement: from a model behind defences to answers and metrics.

use anyhow::{Context, Result};
use sgm::core::{Intervention, sha256};
use sgm::defend::{DefenceResources, DefenceStack, ModelWithGlasses};
use sgm::models::{GenerateOptions, Generator, Mllm, Prompt, Sampling};
use sgm::suppress::{Amplify, Calibrator, score_prompts};
use sgm::toxic_qa::{Benchmark, DetectionOutcome, EvaluateOptions, EvaluationOutput, Judge, Record, RunFile};

/// The settings of answers, which are sampled at temperature 1.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    /// The seed of sampling.
    pub seed: u64,
    /// The length of an answer in tokens.
    pub max_new_tokens: usize,
    /// Prompts run together.
    pub batch_size: usize,
}

impl Answering {
    /// The settings of the organism's experiments: up to 56 tokens, 64 prompts together.
    pub fn with_seed(seed: u64) -> Self {
        Self { seed, max_new_tokens: 56, batch_size: 64 }
    }

    /// The same as options of generation.
    pub fn options(self) -> GenerateOptions {
        let Self { seed, max_new_tokens, batch_size } = self;
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        GenerateOptions { max_new_tokens, batch_size, sampling, seed, ..Default::default() }
    }
}

/// The local scorers of defences, fitted to the calibration samples.
///
/// # Errors
///
/// Those of the fits.
pub fn resources<'m, M: Mllm>(model: &'m M, calibrator: &Calibrator) -> Result<DefenceResources<'m>> {
    let examples = calibrator.examples();
    let answers: Vec<(&str, bool)> = examples.iter().map(|e| (e.response.as_str(), e.toxic)).collect();
    let images: Vec<_> = examples.iter().flat_map(|e| e.prompt.images().into_iter().map(|image| (image, e.toxic))).collect();
    Ok(DefenceResources::local(model, &answers, &images)?)
}

/// Measures a model behind a stack of defences. Perplexity is that of the model with the glasses of the resources, if the stack wears them.
/// The number of changed neurons is filled in, the detection of risky prompts is not: see [`detected`].
///
/// # Errors
///
/// Those of defences, model and judge.
pub fn measure<'m, M: Mllm>(
    model: &'m M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    (defences, resources): (&DefenceStack, &DefenceResources<'m>),
    answering: Answering,
) -> Result<EvaluationOutput> {
    measure_into(model, benchmark, judge, (defences, resources), &options((defences, resources), answering)?, None)
}

/// The same, with the answers recorded in a file as they come, a number of prompts at a time, so that a run can be resumed.
///
/// # Errors
///
/// As [`measure`], and those of writing the file.
pub fn measure_into<'m, M: Mllm>(
    model: &'m M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    (defences, resources): (&DefenceStack, &DefenceResources<'m>),
    options: &EvaluateOptions,
    run: Option<(&mut RunFile, usize)>,
) -> Result<EvaluationOutput> {
    let generator = defences.build(model, resources).context("building the defences")?;
    let mut measured = if let Some(glasses) = glasses((defences, resources)) {
        let worn = ModelWithGlasses::new(model, glasses, Amplify::Refuse)?;
        let mut measured = answers(worn.model(), &*generator, benchmark, judge, options, run)?;
        measured.outcome.n_suppressed = glasses.changed_neurons() + glasses.added_neurons();
        measured
    } else {
        answers(model, &*generator, benchmark, judge, options, run)?
    };
    // The answers are there, and not worth losing for this.
    match benchmark.answer_nll(model, &measured.records, options.generate.batch_size) {
        Ok(nll) => measured.outcome.answer_nll = nll,
        Err(error) => tracing::warn!("the perplexity of the answers is not in the report: {:#}", anyhow::Error::from(error)),
    }
    Ok(measured)
}

fn answers<M: Mllm>(
    model: &M,
    generator: &dyn Generator,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    options: &EvaluateOptions,
    run: Option<(&mut RunFile, usize)>,
) -> Result<EvaluationOutput> {
    Ok(match run {
        Some(run) => benchmark.evaluate_into(generator, model, judge, options, run)?,
        None => benchmark.evaluate(generator, model, judge, options)?,
    })
}

/// The settings of a measurement, as records of answers name them.
///
/// # Errors
///
/// Those of the hash of the glasses.
pub fn options((defences, resources): (&DefenceStack, &DefenceResources<'_>), answering: Answering) -> Result<EvaluateOptions> {
    Ok(EvaluateOptions {
        generate: answering.options(),
        // The model itself, with or without glasses, is no defence.
        defence: Some(defences.to_string()).filter(|name| name != "none" && name != "sgm"),
        intervention_sha256: glasses((defences, resources)).map(file_sha256).transpose()?,
    })
}

/// The glasses, if the stack wears them.
fn glasses<'a>((defences, resources): (&DefenceStack, &'a DefenceResources<'_>)) -> Option<&'a Intervention> {
    resources.intervention.as_ref().filter(|_| defences.wears_glasses())
}

/// The prompts of a benchmark at which the condition of glasses holds; none for glasses that always act.
///
/// # Errors
///
/// Those of the model.
pub fn detected<M: Mllm>(
    model: &M,
    benchmark: &Benchmark,
    glasses: &Intervention,
    answering: Answering,
) -> Result<Option<DetectionOutcome>> {
    let Some(condition) = &glasses.condition else { return Ok(None) };
    let holds = |prompts: Vec<Prompt>| -> Result<Vec<bool>> {
        let scores = score_prompts(model, &condition.probe, &prompts, answering.batch_size)?;
        Ok(scores.into_iter().map(|score| condition.holds(score)).collect())
    };
    let (risky, benign) = benchmark.prompts();
    Ok(Some(DetectionOutcome { risky: holds(risky)?, benign: holds(benign)? }))
}

/// The numbers of verdicts in records of answers, with the ids of up to 20 answers whose verdict could not be parsed.
pub fn verdicts(records: &[Record]) -> String {
    let with = |label| records.iter().filter(move |r| r.judge.as_ref().is_some_and(|verdict| verdict.label == label));
    let unparsed: Vec<&str> = with(None).map(|record| record.id.as_str()).collect();
    let ids = unparsed.iter().take(20).map(|id| format!(" {id}")).collect::<String>();
    let ids = if unparsed.is_empty() { ids } else { format!(":{ids}{}", if unparsed.len() > 20 { " ..." } else { "" }) };
    format!("{} harmful, {} harmless, {} unparsed{ids}", with(Some(true)).count(), with(Some(false)).count(), unparsed.len())
}

/// The hash of an intervention's file.
fn file_sha256(intervention: &Intervention) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("glasses.sgm.safetensors");
    intervention.save(&path)?;
    Ok(sha256::hex_digest(&std::fs::read(path)?))
}
