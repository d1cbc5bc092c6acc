//! [Directional ablation](sgm_experiments::directional_ablation) of the outputs of MLPs within a budget, a baseline.
//!
//!     cargo run --release -p sgm-experiments --bin directional_ablation -- --dev --out out/directional-ablation
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::defend::DefenceResources;
use sgm::measurement;
use sgm::models::{Mllm, TappedModel};
use sgm::suppress::Preset;
use sgm::toxic_qa::{EvaluationSplit, Provenance, RecordWriter, Report, Run, SeedOutcome};
use sgm_examples::answering::Answering;
use sgm_examples::budget_arguments::BudgetArguments;
use sgm_examples::progress::Progress;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, process};
use sgm_experiments::directional_ablation::DirectionalAblation;

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

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    let (source, judge, model) = (arguments.subject.source(EvaluationSplit::Test)?, arguments.subject.judge()?, arguments.subject.model()?);
    let benchmark = arguments.subject.benchmark(source.as_ref())?;
    let budget = arguments.budget.budget().context("the share is found by a budget: leave `--budget none` out")?;
    let progress = Progress::new(2 * arguments.seeds);
    let mut answers = RecordWriter::create(arguments.out.join("answers.jsonl"))?;
    let (mut bare, mut ablated, mut strengths): (Vec<SeedOutcome>, Vec<SeedOutcome>, Vec<f32>) = Default::default();
    for seed in 0..arguments.seeds {
        let (ablation, within) = progress.step(format!("seed {seed}, calibration"), || -> Result<_> {
            let samples = source.calibration(seed)?;
            let calibrator = calibration::calibrate(&model, source.as_ref(), &samples, &judge, Preset::TEXT, arguments.batch_size)?;
            let calibrator = arguments.budget.with_neutral(calibrator, &arguments.subject, source.as_ref(), seed)?;
            let ablation = DirectionalAblation::fit(&model, calibrator.examples(), arguments.batch_size)?;
            let attach = |tapped: &TappedModel<'_, _>, share| Ok(tapped.taps().attach(Arc::new(ablation.with_share(share))));
            let within = calibrator.strength_within(&model, attach, &budget)?;
            Ok((ablation.with_share(within.strength), within))
        })?;
        let answering = Answering { seed, max_new_tokens: arguments.max_new_tokens, batch_size: arguments.batch_size };
        progress.step(format!("seed {seed}, answers"), || -> Result<()> {
            let tapped = TappedModel::new(&model);
            let (defences, resources) = ("none".parse()?, DefenceResources::default());
            for (outcomes, tap) in [(&mut bare, None), (&mut ablated, Some(Arc::new(ablation)))] {
                let defence = tap.as_ref().map(|_| "directional ablation".to_owned());
                let attached = tap.map(|tap| tapped.taps().attach(tap));
                let mut measured = measurement::measure(&tapped, &benchmark, judge.as_ref(), (&defences, &resources), answering.options())?;
                drop(attached);
                // How probable answers are to the model as it is.
                measured.outcome.answer_nll = benchmark.answer_nll(&model, &measured.records, arguments.batch_size)?;
                measured.records.iter_mut().for_each(|record| record.defence.clone_from(&defence));
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
