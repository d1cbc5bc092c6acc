//! Measurement: a model with glasses, or behind other defences, on the benchmark.

use mm_toxic_qa::{Benchmark, DetectionOutcome, EvaluateOptions, EvaluationOutput, Judge, RunFile};
use sgm_core::Intervention;
use sgm_defend::{DefenceResources, DefenceStack, ModelWithGlasses};
use sgm_models::{GenerateOptions, Generator, Mllm, Prompt};
use sgm_suppress::{Budget, score_prompts};

/// Errors of a measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A defence cannot be built.
    #[error("building the defences: {0}")]
    Defence(#[from] sgm_defend::Error),

    /// The model cannot wear the glasses.
    #[error(transparent)]
    Suppress(#[from] sgm_suppress::Error),

    /// The benchmark reports an error of model, judge or file.
    #[error(transparent)]
    Benchmark(#[from] mm_toxic_qa::Error),

    /// The glasses cannot be hashed.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// Measures a model behind a stack of defences. Perplexity is that of the model with the glasses of the resources, if the stack wears them;
/// their number of changed neurons, the prompts that they [detect](detected) and the divergence that a budget measured are filled in.
///
/// # Errors
///
/// Those of defences, model and judge.
pub fn measure<'m, M: Mllm>(
    model: &'m M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    defended: (&DefenceStack, &DefenceResources<'m>),
    generate: GenerateOptions,
) -> Result<EvaluationOutput> {
    measure_into(model, benchmark, judge, defended, &options(defended, generate)?, None)
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
    let generator = defences.build(model, resources)?;
    let mut measured = if let Some(glasses) = glasses((defences, resources)) {
        let worn = ModelWithGlasses::new(model, glasses, resources.amplify)?;
        let mut measured = answers(worn.model(), &*generator, benchmark, judge, options, run)?;
        measured.outcome.n_suppressed = glasses.changed_neurons() + glasses.added_neurons();
        measured
    } else {
        answers(model, &*generator, benchmark, judge, options, run)?
    };
    // The answers are there, and not worth losing for what follows.
    if let Some(glasses) = glasses((defences, resources)) {
        measured.outcome.divergence = Budget::tested_divergence(glasses);
        match detected(model, benchmark, glasses, options.generate.batch_size) {
            Ok(detection) => measured.outcome.detection = detection,
            Err(error) => tracing::warn!("what the condition detects is not in the report: {error}"),
        }
    }
    match benchmark.answer_nll(model, &measured.records, options.generate.batch_size) {
        Ok(nll) => measured.outcome.answer_nll = nll,
        Err(error) => tracing::warn!("the perplexity of the answers is not in the report: {error}"),
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
pub fn options(defended: (&DefenceStack, &DefenceResources<'_>), generate: GenerateOptions) -> Result<EvaluateOptions> {
    Ok(EvaluateOptions {
        generate,
        // The model itself, with or without glasses, is no defence.
        defence: Some(defended.0.to_string()).filter(|name| name != "none" && name != "sgm"),
        intervention_sha256: glasses(defended).map(Intervention::sha256).transpose()?,
    })
}

/// The glasses, if the stack wears them.
fn glasses<'a>((defences, resources): (&DefenceStack, &'a DefenceResources<'_>)) -> Option<&'a Intervention> {
    resources.intervention.as_ref().filter(|_| defences.wears_glasses())
}

/// The prompts of a benchmark at which the condition of glasses holds; `None` for glasses that always act.
///
/// # Errors
///
/// Those of the model.
pub fn detected<M: Mllm>(model: &M, benchmark: &Benchmark, glasses: &Intervention, batch_size: usize) -> Result<Option<DetectionOutcome>> {
    let Some(condition) = &glasses.condition else { return Ok(None) };
    let holds = |prompts: Vec<Prompt>| -> Result<Vec<bool>> {
        let scores = score_prompts(model, &condition.probe, &prompts, batch_size)?;
        Ok(scores.into_iter().map(|score| condition.holds(score)).collect())
    };
    let (risky, benign) = benchmark.prompts();
    Ok(Some(DetectionOutcome { risky: holds(risky)?, benign: holds(benign)? }))
}
