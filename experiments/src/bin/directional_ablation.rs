//! Directional ablation within a budget, a baseline: from the output of every MLP, a share of its component in the direction that
//! distinguishes risky prompts is taken away.
//!
//!     cargo run --release -p sgm-experiments --bin directional_ablation -- --dev --out out/directional-ablation.json
//!
//! The direction is the difference of the mean outputs at the end of risky and of harmless prompts of calibration, as in Arditi et al.
//! (arXiv 2406.11717), who ablate one direction of the residual stream from all that is written to it. Here every MLP has a direction of its
//! own, and attention stays as it is.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{D, Device, Tensor};
use clap::Parser;
use sgm::capture::{ActivationStore, Capture, Examples};
use sgm::core::{Projection, Site};
use sgm::defend::DefenceResources;
use sgm::measurement;
use sgm::models::{Mllm, Tap, TappedModel, TokenSpans};
use sgm::suppress::{Calibrator, Preset};
use sgm::toxic_qa::{EvaluationSplit, Provenance, RecordWriter, Report, Run, SeedOutcome};
use sgm_examples::answering::Answering;
use sgm_examples::budget_arguments::BudgetArguments;
use sgm_examples::progress::Progress;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, process};

/// Directional ablation within a budget, a baseline.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    budget: BudgetArguments,
    /// The number of seeds, each with a calibration set and random answers of its own.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Prompts run together.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// The directory of report and answers.
    #[arg(long, default_value = "out/directional-ablation")]
    out: PathBuf,
}

/// Takes a share of a unit direction, f32 `[hidden]`, from the output of each MLP.
struct DirectionalAblation {
    directions: BTreeMap<Site, Tensor>,
    share: f64,
}

impl Tap for DirectionalAblation {
    fn apply(&self, site: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        let Some(direction) = self.directions.get(&site) else { return Ok(output) };
        let direction = direction.to_device(output.device())?.to_dtype(output.dtype())?;
        let component = output.broadcast_mul(&direction)?.sum_keepdim(D::Minus1)?;
        Ok((&output - (component.broadcast_mul(&direction)? * self.share)?)?)
    }
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    let (source, judge, model) = (arguments.subject.source(EvaluationSplit::Test)?, arguments.subject.judge()?, arguments.subject.model()?);
    let benchmark = arguments.subject.benchmark(source.as_ref())?;
    let budget = arguments.budget.budget().context("a baseline within a budget needs one")?;
    let progress = Progress::new(2 * arguments.seeds);
    let mut answers = RecordWriter::create(arguments.out.join("answers.jsonl"))?;
    let (mut bare, mut ablated, mut strengths): (Vec<SeedOutcome>, Vec<SeedOutcome>, Vec<f32>) = Default::default();
    for seed in 0..arguments.seeds {
        let (directions, within) = progress.step(format!("seed {seed}, calibration"), || -> Result<_> {
            let samples = source.calibration(seed)?;
            let calibrator = calibration::calibrate(&model, source.as_ref(), &samples, &judge, Preset::TEXT, arguments.batch_size)?;
            let calibrator = arguments.budget.with_neutral(calibrator, &arguments.subject, source.as_ref(), seed)?;
            let directions = directions(&model, &calibrator, arguments.batch_size)?;
            let attach = |tapped: &TappedModel<'_, _>, share: f32| {
                Ok(tapped.taps().attach(Arc::new(DirectionalAblation { directions: directions.clone(), share: share.into() })))
            };
            let within = calibrator.strength_within(&model, attach, &budget)?;
            Ok((directions, within))
        })?;
        let answering = Answering { seed, max_new_tokens: arguments.max_new_tokens, batch_size: arguments.batch_size };
        progress.step(format!("seed {seed}, answers"), || -> Result<()> {
            let tapped = TappedModel::new(&model);
            let tap = DirectionalAblation { directions, share: within.strength.into() };
            let (defences, resources) = ("none".parse()?, DefenceResources::default());
            for (outcomes, tap) in [(&mut bare, None), (&mut ablated, Some(Arc::new(tap)))] {
                let _attached = tap.map(|tap| tapped.taps().attach(tap));
                let measured = measurement::measure(&tapped, &benchmark, judge.as_ref(), (&defences, &resources), answering.options())?;
                measured.records.iter().try_for_each(|record| answers.write(record))?;
                outcomes.push(measured.outcome);
            }
            Ok(())
        })?;
        ablated.last_mut().into_iter().for_each(|outcome| outcome.divergence = Some(within.divergence));
        strengths.push(within.strength);
    }
    drop(progress);

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), judge.as_ref());
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": arguments.max_new_tokens, "vqa": "greedy"});
    provenance.calibration = serde_json::json!({"budget": budget.divergence, "strengths": strengths});
    let neurons = model.info().neurons();
    let runs = [("none", &bare), ("directional ablation", &ablated)].map(|(name, outcomes)| Run::from_seeds(name, neurons, outcomes));
    let report = Report::new(provenance, runs.into_iter().collect::<Result<_, _>>()?);
    report.write(&arguments.out.join("report.json"))?;
    println!("{}\nstrengths {strengths:?}; written to {}", report.markdown(), arguments.out.display());
    Ok(())
}

/// The unit direction of every MLP: the difference of its mean outputs at the end of risky and of harmless prompts.
fn directions<M: Mllm>(model: &M, calibrator: &Calibrator, batch_size: usize) -> Result<BTreeMap<Site, Tensor>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("activations");
    let capture = Capture { batch_size, ..Capture::new(vec![Calibrator::PROMPT_END]) };
    capture.run(model, &Examples::from_slice(calibrator.examples()), &path)?;
    let store = ActivationStore::open(&path)?;
    let mut directions = BTreeMap::new();
    for site in store.sites().keys().filter(|site| site.projection == Projection::Down) {
        let outputs = store.read(*site)?;
        let mean = |toxic: bool| {
            let rows = outputs.rows().into_iter().zip(store.labels()).filter(|(_, label)| **label == toxic);
            let (sum, count) = rows.fold((vec![0.0_f64; outputs.ncols()], 0.0), |(mut sum, count), (row, _)| {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
                (sum, count + 1.0)
            });
            sum.into_iter().map(move |sum| sum / count)
        };
        let difference: Vec<f64> = mean(true).zip(mean(false)).map(|(toxic, other)| toxic - other).collect();
        let norm = difference.iter().map(|value| value * value).sum::<f64>().sqrt();
        #[allow(clippy::cast_possible_truncation, reason = "directions are kept in f32")]
        let unit: Vec<f32> = difference.iter().map(|value| (value / norm) as f32).collect();
        if norm > 0.0 {
            directions.insert(*site, Tensor::from_vec(unit, outputs.ncols(), &Device::Cpu)?);
        }
    }
    Ok(directions)
}
