//! From labelled samples to what glasses are fitted to, and from a defended model to what it does.

#[path = "calibration.rs"]
mod calibration;

use anyhow::Result;
use sgm::capture::{Capture, Pooling};
use sgm::core::{Intervention, Probe};
use sgm::defend::{Ingredients, Recipe, Worn};
use sgm::models::{GenerateOptions, Mllm, Prompt, Sampling};
use sgm::suppress::{Amplify, Calibrated, score_prompts};
use sgm::toxic_qa::{Benchmark, EvaluateOptions, Evaluated, Exchange, GateOutcome, Judge, LexiconJudge, Sample, Source};
use sha2::{Digest, Sha256};

/// Captures calibration samples, for expertise by a pooling. Answers of the model's own are judged as those of the
/// evaluation are.
pub(crate) fn calibrate<M: Mllm>(
    model: &M,
    source: &dyn Source,
    (samples, judge): (&[Sample], &LexiconJudge),
    pooling: Pooling,
    batch_size: usize,
) -> Result<Calibrated> {
    let examples = samples.iter().map(calibration::example).collect::<Result<Vec<_>>>()?;
    let calibration = Some(calibration::provenance(source, samples)?);
    let calibrated = Calibrated::capture(model, examples, Capture { batch_size, calibration, ..Capture::new(vec![pooling]) })?;
    let judge = judge.clone();
    Ok(calibrated.with_judge(move |answers| {
        let exchanges: Vec<_> = answers.iter().map(|answer| Exchange::new("", &answer.response)).collect();
        Ok(judge.judge(&exchanges)?.into_iter().map(|verdict| verdict.label).collect())
    }))
}

/// What defences need that ask a scorer, fitted to the same samples.
pub(crate) fn ingredients<'m, M: Mllm>(model: &'m M, calibrated: &Calibrated) -> Result<Ingredients<'m>> {
    let examples = calibrated.examples();
    let answers: Vec<(&str, bool)> = examples.iter().map(|e| (e.response.as_str(), e.toxic)).collect();
    let images: Vec<_> = examples.iter().flat_map(|e| e.prompt.images().into_iter().map(|image| (image, e.toxic))).collect();
    Ok(Ingredients::local(model, &answers, &images)?)
}

/// How answers are drawn.
#[derive(Clone, Copy)]
pub(crate) struct Drawing {
    pub(crate) seed: u64,
    pub(crate) max_new_tokens: usize,
    pub(crate) batch_size: usize,
}

impl Drawing {
    fn options(self) -> GenerateOptions {
        let Self { seed, max_new_tokens, batch_size } = self;
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        GenerateOptions { max_new_tokens, batch_size, sampling, seed, ..Default::default() }
    }
}

/// What the model does behind a defence; answers are drawn at temperature 1. Perplexity is that of the model with the glasses of the
/// ingredients, if the defence has them.
pub(crate) fn measure<'m, M: Mllm>(
    model: &'m M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    (defence, ingredients): (&Recipe, &Ingredients<'m>),
    drawing: Drawing,
) -> Result<Evaluated> {
    let generator = defence.build(model, ingredients)?;
    let glasses = ingredients.intervention.as_ref().filter(|_| defence.wears_glasses());
    let options = EvaluateOptions {
        generate: drawing.options(),
        defence: Some(defence.to_string()),
        intervention_sha256: glasses.map(sha256).transpose()?,
    };
    let Some(glasses) = glasses else { return Ok(benchmark.evaluate(&*generator, model, judge, &options)?) };
    let worn = Worn::new(model, glasses, Amplify::Refuse)?;
    let mut evaluated = benchmark.evaluate(&*generator, worn.model(), judge, &options)?;
    evaluated.outcome.n_suppressed = glasses.changed_neurons() + glasses.added_neurons();
    evaluated.outcome.gate = glasses.probe.as_ref().map(|probe| opened(model, benchmark, probe, drawing.batch_size)).transpose()?;
    Ok(evaluated)
}

/// For which prompts of a benchmark the gate of a probe opens.
fn opened<M: Mllm>(model: &M, benchmark: &Benchmark, probe: &Probe, batch_size: usize) -> Result<GateOutcome> {
    let open = |prompts: Vec<Prompt>| -> Result<Vec<bool>> {
        Ok(score_prompts(model, probe, &prompts, batch_size)?.into_iter().map(|score| score >= probe.gate.on).collect())
    };
    let (risky, benign) = benchmark.prompts();
    Ok(GateOutcome { risky: open(risky)?, benign: open(benign)? })
}

/// Whether a sample is of a category, or has a trigger of the synthetic world, of this name.
pub(crate) fn is_of(sample: &Sample, name: &str) -> bool {
    sample.category == name || sample.trigger().as_deref() == Some(name)
}

/// The hash of an intervention's file.
pub(crate) fn sha256(intervention: &Intervention) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("glasses.sgm.safetensors");
    intervention.save(&path)?;
    Ok(Sha256::digest(std::fs::read(path)?).iter().map(|b| format!("{b:02x}")).collect())
}
